"""Every family against `slow_reference`: what is recorded, what moves, and what is written."""

import pytest
import torch
from slow_reference import expected_scores, hook_count, moving_elements
from tiny_models import random_mask, same_bits, state_of

from actlib.activations import record_activations
from actlib.channels import kind_of, uncovered_parameters
from actlib.norms import weight_differences
from actlib.recording import record_differences
from actlib.transfer import transferred

# Kinds of parameters that belong to no channel, of families that have any.
LEFT_OUT = {
    "gpt_oss": (
        *("self_attn.sinks", "mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias"),
        *("mlp.experts.down_proj", "mlp.experts.down_proj_bias"),
    ),
    "llama4": ("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"),
    "qwen3_next": ("linear_attn.dt_bias", "linear_attn.A_log", "linear_attn.conv1d.weight"),
}


@pytest.mark.parametrize("size", [1, 4])
def test_scores_are_those_of_everything_stored(pair, any_architecture, items, collate, size):
    donor, target = pair(any_architecture)
    found = record_differences(donor, target, collate(items, size), moments=True)
    expected = expected_scores(donor, target, items)
    for part, modules in expected.items():
        recorded = getattr(found, part)
        apart = {name.rpartition(".")[0] for name in uncovered_parameters(target)}
        assert set(recorded) <= set(modules) <= set(recorded) | apart
        for name, values in recorded.items():
            torch.testing.assert_close(
                values.double(), modules[name], rtol=1e-5, atol=1e-5, msg=f"{part} of {name}"
            )
    assert hook_count(donor) == hook_count(target) == 0


def test_activations_by_item_are_means_over_its_answer(pair, any_architecture, items, collate):
    donor, target = pair(any_architecture)
    mask = weight_differences(donor, target).top(20, "module")
    found = record_activations(target, collate(items, 4), mask)
    for row, item in zip(found, items, strict=True):
        alone = expected_scores(target, target, [item])["means"]
        expected = torch.cat([alone[name][chosen] for name, chosen in mask.channels.items()])
        torch.testing.assert_close(row.double(), expected, rtol=1e-4, atol=1e-5)
    assert hook_count(target) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moved_elements_follow_the_formula_and_no_other_moves(pair, any_architecture, dtype):
    donor, target = pair(any_architecture, dtype)
    mask, before, other = random_mask(target), state_of(target), state_of(donor)
    moving = moving_elements(target, mask)
    with transferred(target, donor, mask, 0.4):
        for name, tensor in state_of(target).items():
            ours, theirs = before[name].float(), other[name].float()
            moved = (ours + 0.4 * (theirs - ours)).to(dtype)
            assert torch.equal(tensor, torch.where(moving[name], moved, before[name])), name
        assert not same_bits(state_of(target), before)
    assert same_bits(state_of(target), before)
    assert same_bits(state_of(donor), other)
    assert hook_count(target) == hook_count(donor) == 0


def test_parameters_of_no_channel_are_listed_and_there_are_few(family, any_architecture):
    kinds = {kind_of(name) for name in uncovered_parameters(family(any_architecture))}
    assert kinds == set(LEFT_OUT.get(any_architecture, ()))
