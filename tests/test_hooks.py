from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from actlib.hooks import (
    AnswerTokens,
    editing_hooks,
    evaluating,
)
from actlib.recording import record_differences

Named = namedtuple("Named", ["hidden", "extra"])


@pytest.mark.parametrize("kind", [tuple, Named._make])
def test_edits_replace_the_first_entry_of_a_tuple_and_keep_its_type(kind):
    class Layer(nn.Module):
        def forward(self, x):
            return kind((x + 1, "extra"))

    model = nn.Sequential(Layer())
    expected = type(model(torch.zeros(2)))
    with editing_hooks(model, ["0"], lambda _name, output: output * 3):
        found = model(torch.zeros(2))
    assert type(found) is expected and found[1] == "extra"
    assert torch.equal(found[0], torch.full((2,), 3.0))


def test_evaluating_restores_each_flag(family):
    model = family().train()
    model.model.norm.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_unexpected_output_shape_is_refused_by_name(batches):
    with pytest.raises(ValueError, match=r"router returned shape \(5, 4\)"):
        AnswerTokens.of_batch(batches[0]).select("router", torch.zeros(5, 4), 4)


# tokens before heads; heads before tokens, in outputs that lie so in memory, and that do not
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "phi"])
def test_as_many_positions_as_heads_are_told_apart(pair, items, collate, name):
    donor, target = pair(name)
    four = [(ids[-4:], answer[-4:]) for ids, answer in items]
    assert donor.config.num_attention_heads == 4
    found = record_differences(donor, target, collate(four))
    longer = [
        {key: functional.pad(values, (3, 0)) for key, values in batch.items()}
        for batch in collate(four)
    ]
    expected = record_differences(donor, target, longer)
    for module, values in expected.values.items():
        torch.testing.assert_close(found.values[module], values, rtol=1e-5, atol=1e-5)
