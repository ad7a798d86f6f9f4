import accelerate
import pytest
import torch

from actlib.activations import record_activations
from actlib.evaluation import evaluate
from actlib.interventions import patched
from actlib.norms import weight_differences
from actlib.recording import record_differences


def offloaded(model, how, folder):
    """The model with weights that accelerate brings in for each module as it runs, on the CPU."""
    if how == "disk":
        return accelerate.disk_offload(model, folder, torch.device("cpu"))
    parts = [f"model.{name}" for name, _ in model.model.named_children() if name != "layers"]
    places = dict.fromkeys([*parts, "lm_head", "model.layers.0"], "cpu")
    places["model.layers.1"] = "disk"
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize(("how", "name"), [("disk", "llama"), ("dispatched", "mixtral")])
def test_offloaded_models_score_as_those_in_memory(pair, batches, tmp_path, how, name):
    donor, target = pair(name)
    expected = record_differences(donor, target, batches)
    mask = expected.top(50, without=("expert", "router"))
    with patched(target, donor, mask):
        nll = evaluate(target, batches)
    models = [
        offloaded(model, how, tmp_path / str(place)) for place, model in enumerate(pair(name))
    ]
    found = record_differences(*models, batches)
    for module, values in expected.values.items():
        assert torch.equal(found.values[module], values), module
    with patched(models[1], models[0], mask):
        assert evaluate(models[1], batches).equals(nll)
    features = record_activations(models[0], batches, found.top(50))
    assert torch.equal(features, record_activations(donor, batches, found.top(50)))
    # Offloaded again afterwards, and to be read or written by nobody.
    assert any(parameter.is_meta for parameter in models[1].parameters())
    with pytest.raises(ValueError, match="is offloaded .* as transfer_checkpoint"):
        weight_differences(*models)


def test_a_model_without_weights_is_refused(family, batches):
    model = family().to("meta")
    with pytest.raises(ValueError, match="on the meta device; load its weights"):
        record_differences(model, model, batches)
