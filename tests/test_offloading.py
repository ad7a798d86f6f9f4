import accelerate
import pytest
import torch
from torch import nn

from actlib.activations import record_activations
from actlib.forward import input_device, run_model
from actlib.hooks import AnswerTokens
from actlib.masks import ChannelMask
from actlib.parameters import weight_differences
from actlib.recording import record_differences


def offloaded(model, how, folder):
    """The model with weights that accelerate brings in for each module as it runs, on the CPU."""
    if how == "disk":
        return accelerate.disk_offload(model, folder, torch.device("cpu"))
    parts = [f"model.{name}" for name, _ in model.model.named_children() if name != "layers"]
    places = dict.fromkeys([*parts, "lm_head", "model.layers.0"], "cpu")
    places["model.layers.1"] = "disk"
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("how", ["disk", "dispatched"])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_offloaded_models_score_as_those_in_memory(pair, batches, tmp_path, how, name):
    expected = record_differences(*pair(name), batches, moments=True)
    models = [
        offloaded(model, how, tmp_path / str(place)) for place, model in enumerate(pair(name))
    ]
    assert any(parameter.is_meta for parameter in models[0].parameters())
    found = record_differences(*models, batches, moments=True)
    for part in ("values", "means", "stds"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert all(torch.equal(ours[module], theirs[module]) for module in theirs), part
    mask = ChannelMask({key: values > values.median() for key, values in found.values.items()})
    features = record_activations(models[0], batches, mask)
    assert torch.equal(features, record_activations(pair(name)[0], batches, mask))
    # Offloaded again afterwards, and to be read or written by nobody.
    assert any(parameter.is_meta for parameter in models[1].parameters())
    with pytest.raises(ValueError, match="is offloaded .* as transfer_checkpoint"):
        weight_differences(*models)


class Parts(nn.Module):
    """An embedding that is not the first of its parameters, on a device of its own."""

    def __init__(self, place):
        super().__init__()
        self.head = nn.Linear(2, 2, device="meta")
        self.embedding = nn.Embedding(3, 2, device=place)

    def get_input_embeddings(self):
        return self.embedding


def test_a_model_without_weights_is_refused(family, batches):
    model = family().to("meta")
    with pytest.raises(ValueError, match="on the meta device; load its weights"):
        run_model(model, batches[0], AnswerTokens.of_batch(batches[0]))
    with pytest.raises(ValueError, match="on the meta device; load its weights"):
        record_differences(model, model, batches)


def test_an_offloaded_embedding_runs_where_accelerate_says():
    model = Parts("meta")
    hook = accelerate.hooks.AlignDevicesHook(execution_device="cuda:1")
    for held in (hook, accelerate.hooks.SequentialHook(accelerate.hooks.ModelHook(), hook)):
        model.embedding._hf_hook = held
        assert input_device(model) == torch.device("cuda:1")
