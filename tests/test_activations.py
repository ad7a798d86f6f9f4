"""Activations of answer tokens are what modules return there, each call once."""

import pytest
import torch
from torch import nn

from actlib.activations import read_answers
from actlib.channels import Layout, channel_modules
from actlib.hooks import Answers, AnswerTokens, evaluating, output_hooks, run_model


def read(model, batch, modules=None):
    """Names and activations in the order in which they are handed on."""
    found, tokens = [], AnswerTokens.of_batch(batch)
    with evaluating(model):
        read_answers(
            model,
            channel_modules(model) if modules is None else modules,
            batch,
            tokens,
            lambda *each: found.append(each),
        )
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_they_are_the_modules_outputs_at_answer_tokens(family, batches, name):
    model, batch = family(name), batches[0]
    outputs, tokens = {}, AnswerTokens.of_batch(batch)
    modules = {key: each for key, each in channel_modules(model).items() if "norm" not in key}
    with evaluating(model), output_hooks(model, modules, lambda *each: outputs.update([each])):
        run_model(model, batch, tokens)
    found = {key: each.tensor() for key, each in read(model, batch, modules)}
    assert found.keys() == outputs.keys()
    flags = (batch["answer_mask"] & batch["attention_mask"]).bool()
    for key, values in found.items():
        output = outputs[key]
        if output.shape[:2] == flags.shape:
            assert torch.equal(values, output[flags]), key
        elif output.shape[:2] == (len(flags), len(tokens.kept)):  # logits at kept positions
            assert torch.equal(values, output[flags[:, tokens.kept]]), key


class Twice(nn.Module):
    """Runs its layer two times, in place of a model."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 4)
        self.layer = nn.Linear(4, 4)

    def forward(self, input_ids, attention_mask):
        return self.layer(self.layer(self.embed(input_ids)))


def test_a_module_that_runs_twice_is_handed_on_twice(batches):
    model = Twice()
    batch = {key: value % 50 for key, value in batches[0].items()}
    names = [name for name, _ in read(model, batch)]
    assert names == ["embed", "layer", "layer"]


def whole_batch():
    """One item that is answer throughout, where selecting would give the output itself."""
    ones = torch.ones(1, 5, dtype=torch.long)
    return {"input_ids": ones * 3, "attention_mask": ones, "answer_mask": ones}


def test_what_is_chosen_is_a_copy_and_all_of_an_output_is_not():
    model, outputs = Twice(), []
    model.layer.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    modules = {"layer": channel_modules(model)["layer"]}
    (_, whole), _ = read(model, whole_batch(), modules)
    assert whole.rows is None and whole.tensor().data_ptr() == outputs[0].data_ptr()
    outputs.clear()
    some = whole_batch() | {"answer_mask": torch.tensor([[0, 0, 1, 0, 1]])}
    (_, chosen), _ = read(model, some, modules)
    assert chosen.flat.data_ptr() == outputs[0].data_ptr()
    assert torch.equal(chosen.tensor(), outputs[0][0, [2, 4]])
    assert isinstance(chosen, Answers) and chosen.tensor().data_ptr() != outputs[0].data_ptr()


def test_experts_are_read_for_the_tokens_sent_to_them(family, batches):
    model = family("mixtral")
    packed = {
        name: each for name, each in channel_modules(model).items() if each.layout is Layout.PACKED
    }
    found = dict(read(model, batches[0], packed))
    assert found.keys() == packed.keys()
    count = len(AnswerTokens.of_batch(batches[0]).rows)
    for routed in found.values():
        assert routed.count == count and len(routed.values) == 2 * count  # two experts a token


def test_hooks_go_when_reading_fails(family, batches):
    model = family("llama")

    def fail(*_found):
        raise RuntimeError("no more")

    tokens = AnswerTokens.of_batch(batches[0])
    with pytest.raises(RuntimeError, match="no more"):
        read_answers(model, channel_modules(model), batches[0], tokens, fail)
    assert not any(module._forward_hooks for module in model.modules())
