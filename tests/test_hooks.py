from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from actlib.hooks import (
    AnswerTokens,
    editing_hooks,
    evaluating,
    is_trial,
    output_hooks,
    rehearsing,
)
from actlib.recording import record_differences


def hook_count(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_rehearsals_are_seen_from_inside_only():
    model, seen = nn.Linear(2, 2), []

    def read(place):
        return output_hooks(model, [""], lambda _name, _output: seen.append(place))

    with read("outside"):
        with pytest.raises(RuntimeError), rehearsing(), read("inside"):
            model(torch.zeros(1, 2))
            raise RuntimeError
        model(torch.zeros(1, 2))
    assert seen == ["inside", "outside"]


def test_a_rehearsal_within_a_trial_is_one_too():
    with rehearsing(trial=True):
        with rehearsing():
            assert is_trial()
        assert is_trial()
    assert not is_trial()


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


def marked(attention=((0, 1, 1), (1, 1, 1)), answer=((1, 0, 1), (0, 1, 1))):
    return {
        "input_ids": torch.zeros(2, 3, dtype=torch.long),
        "attention_mask": torch.tensor(attention),
        "answer_mask": torch.tensor(answer),
    }


def test_answer_tokens_skip_prompt_and_padding():
    tokens = AnswerTokens.of_batch(marked())
    assert list(zip(tokens.rows.tolist(), tokens.columns.tolist(), strict=True)) == [
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    assert tokens.positions.tolist() == [1, 2]


def test_selection_is_the_same_from_every_output_shape():
    tokens = AnswerTokens.of_batch(marked())
    output = torch.arange(24.0).reshape(2, 3, 4)
    expected = torch.stack([output[0, 2], output[1, 1], output[1, 2]])
    for shaped in (output, output.reshape(6, 4), output[:, 1:]):
        assert torch.equal(tokens.select("x", shaped, 4), expected)
    heads = output.reshape(2, 3, 2, 2)
    assert torch.equal(tokens.select("x", heads, 2), expected.reshape(6, 2))
    flat = output.reshape(12, 2)  # all but the channels flattened
    assert torch.equal(tokens.select("x", flat, 2), expected.reshape(6, 2))


def test_unexpected_output_shape_is_refused_by_name():
    with pytest.raises(ValueError, match=r"router returned shape \(5, 4\)"):
        AnswerTokens.of_batch(marked()).select("router", torch.zeros(5, 4), 4)


def test_answers_on_padding_only_are_empty():
    with pytest.raises(ValueError, match="answer span of item 8 is empty"):
        AnswerTokens.of_batch(marked(answer=((0, 1, 1), (0, 0, 0))), first_item=7)
    with pytest.raises(ValueError, match="answer span of item 0 is empty"):
        AnswerTokens.of_batch(marked(answer=((1, 0, 0), (0, 1, 1))))


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
