import copy
from itertools import permutations

import pytest
import torch
from tiny_models import random_mask, same_bits, state_of

from actlib.evaluation import evaluate
from actlib.interventions import ablated, patched
from actlib.masks import ChannelMask
from actlib.merging import RULES, merge, merge_
from actlib.transfer import transfer_


def contributions_for(family, architecture="qwen2", count=3, dtype=torch.float32):
    base = family(architecture, 0, dtype)
    scales = (0.4, 0.7, 0.3)
    return base, [
        (family(architecture, i + 1, dtype), random_mask(base, 0.4, i), scales[i])
        for i in range(count)
    ]


@pytest.mark.parametrize("rule", RULES)
def test_one_donor_is_a_plain_transfer(family, architecture, rule):
    base, contributions = contributions_for(family, architecture, 1)
    report = merge(base, contributions, rule)
    (donor, mask, scale) = contributions[0]
    transfer_(base, donor, mask, scale)
    assert same_bits(state_of(report.model), state_of(base))
    assert (report.collisions, report.rule, report.union.count) == (0, rule, mask.count)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_order_does_not_matter_to_the_bit(family, rule, dtype):
    base, contributions = contributions_for(family, dtype=dtype)
    results = [merge(base, order, rule) for order in permutations(contributions)]
    first = state_of(results[0].model)
    assert all(same_bits(state_of(each.model), first) for each in results)
    assert len({(each.collisions, each.union.digest) for each in results}) == 1


@pytest.mark.parametrize("rule", RULES)
def test_disjoint_masks_merge_like_transfers_one_after_the_other(family, rule):
    base, ((a, mask_a, _), (b, mask_b, _)) = contributions_for(family, "llama", 2)
    mask_b = mask_b - mask_a
    report = merge(base, [(a, mask_a, 0.4), (b, mask_b, 0.7)], rule)
    transfer_(base, a, mask_a, 0.4)
    transfer_(base, b, mask_b, 0.7)
    assert same_bits(state_of(report.model), state_of(base))
    assert report.collisions == 0


def read_q(model):
    module = model.get_submodule("model.layers.0.self_attn.q_proj")
    return torch.cat([module.weight, module.bias[:, None]], dim=1).detach().clone()


def read_experts(model):
    return model.state_dict()["model.layers.0.mlp.experts.down_proj"].flatten(0, 1).clone()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("architecture", "name", "read"),
    [
        ("qwen2", "model.layers.0.self_attn.q_proj", read_q),
        ("mixtral", "model.layers.0.mlp.experts.down_proj", read_experts),
    ],
)
def test_collisions_follow_their_rule(family, rule, architecture, name, read):
    base, contributions = contributions_for(family, architecture)
    before = read(base)
    deltas = [(read(donor) - before) * scale for donor, _, scale in contributions]
    claims = torch.stack([mask.channels[name] for _, mask, _ in contributions])
    assert (claims.sum(0) > 1).any()
    merged = read(merge(base, contributions, rule).model)
    for channel in range(claims.shape[1]):
        steps = [deltas[i][channel] for i in claims[:, channel].nonzero().flatten().tolist()]
        none = torch.zeros_like(before[0])
        expected = {
            "sum": lambda s=steps: sum(s, none),  # noqa: B023
            "average": lambda s=steps: sum(s, none) / max(1, len(s)),  # noqa: B023
            "largest": lambda s=steps: max(s, key=torch.norm, default=none),  # noqa: B023
        }[rule]()
        torch.testing.assert_close(merged[channel], before[channel] + expected)
        assert steps or torch.equal(merged[channel], before[channel])


def test_a_merge_within_an_ablation_gives_a_model_that_is_not_ablated(family, batches):
    base, contributions = contributions_for(family, count=1)
    donor, mask, _ = contributions[0]
    expected = evaluate(merge(base, contributions).model, batches)["nll"].tolist()
    for context in (ablated(base, mask, "zero"), patched(base, donor, mask)):
        with context:
            model, edited = merge(base, contributions).model, evaluate(base, batches)
        assert evaluate(model, batches)["nll"].tolist() == expected != edited["nll"].tolist()


def test_equal_donors_average_to_one_of_them(family):
    base, ((donor, mask, scale), *_) = contributions_for(family)
    for rule in ("average", "largest"):
        both = merge(base, [(donor, mask, scale)] * 2, rule)
        one = merge(base, [(donor, mask, scale)], rule)
        assert same_bits(state_of(both.model), state_of(one.model))
        assert both.collisions == mask.count


def test_tied_crossing_is_claimed_by_row_and_by_column(family):
    base = family("llama_tied")
    a, b = family("llama_tied", 1), family("llama_tied", 2)
    empty = random_mask(base, 0.0)
    row, column = (ChannelMask({n: c.clone() for n, c in empty.channels.items()}) for _ in "ab")
    row.channels["lm_head"][7] = True
    column.channels["model.embed_tokens"][3] = True
    before, ours, theirs = (m.lm_head.weight.detach().clone() for m in (base, a, b))
    for rule, divisor in (("sum", 1), ("average", 2), ("largest", 2)):
        weight = merge(base, [(a, row, 1.0), (b, column, 1.0)], rule).model.lm_head.weight
        torch.testing.assert_close(weight[7, 4], ours[7, 4])
        torch.testing.assert_close(weight[8, 3], theirs[8, 3])
        step = (ours[7, 3] - before[7, 3]) + (theirs[7, 3] - before[7, 3])
        torch.testing.assert_close(weight[7, 3], before[7, 3] + step / divisor)


@pytest.mark.parametrize("rule", RULES)
def test_a_donor_with_a_number_that_is_not_finite_is_named_and_nothing_moves(family, rule):
    base, contributions = contributions_for(family, "llama")
    before, everything = state_of(base), random_mask(base, share=1.1)
    with torch.no_grad():
        contributions[1][0].model.norm.weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"model\.norm\.weight of donor 2 holds NaN"):
        merge_(base, [(donor, everything, scale) for donor, _, scale in contributions], rule)
    assert same_bits(state_of(base), before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("given", "own"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]
)
def test_donors_of_another_dtype_merge_as_if_they_had_been_widened(family, rule, given, own):
    base, contributions = contributions_for(family, "mixtral", dtype=given)
    base = base.to(own)
    wide = [(copy.deepcopy(donor).float(), *rest) for donor, *rest in contributions]
    found, expected = (merge(base, each, rule).model for each in (contributions, wide))
    assert same_bits(state_of(found), state_of(expected))
    assert {tensor.dtype for tensor in state_of(found).values()} == {own}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("rule", RULES)
def test_donors_on_another_device_merge_the_same(family, rule):
    base, contributions = contributions_for(family, "mixtral")
    expected = state_of(merge(base, contributions, rule).model)
    for index, (donor, *_) in enumerate(contributions):
        donor.to("cuda" if index else "cpu")
    for side in ("cpu", "cuda"):
        merged = state_of(merge(base.to(side), contributions, rule).model)
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-6, atol=1e-6)
