"""Merges in memory and on disk: the rules for collisions, the same bits, and what is refused."""

import copy
import json
from itertools import permutations

import pytest
import torch
from tiny_models import contents, random_mask, same_bits, state_of, unchanged

from actlib.evaluation import evaluate
from actlib.interventions import ablated, patched
from actlib.masks import ChannelMask
from actlib.merging import RULES, merge, merge_, merge_checkpoint
from actlib.transfer import transfer_


def contributions_for(family, architecture="qwen2", count=3, dtype=torch.float32):
    base, scales = family(architecture, 0, dtype), (0.4, 0.7, 0.3)
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
def test_collisions_follow_their_rule(family, rule):
    def read(model):
        module = model.get_submodule(name)
        return torch.cat([module.weight, module.bias[:, None]], dim=1).detach().clone()

    name = "model.layers.0.self_attn.q_proj"
    base, contributions = contributions_for(family)
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


@pytest.mark.parametrize("rule", ["average", "largest"])
def test_equal_donors_average_to_one_of_them(family, rule):
    base, ((donor, mask, scale), *_) = contributions_for(family)
    both, one = (merge(base, [(donor, mask, scale)] * count, rule) for count in (2, 1))
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
    everything = random_mask(base, share=1.1)
    with torch.no_grad():
        contributions[1][0].model.norm.weight[3] = torch.nan
    with unchanged(base), pytest.raises(ValueError, match="model.norm.weight of donor 2 holds NaN"):
        merge_(base, [(donor, everything, scale) for donor, _, scale in contributions], rule)


@pytest.mark.parametrize("rule", RULES)
def test_donors_of_another_dtype_merge_as_if_they_had_been_widened(family, rule):
    _, contributions = contributions_for(family, "mixtral", dtype=torch.bfloat16)
    wide = [(copy.deepcopy(donor).float(), *rest) for donor, *rest in contributions]
    base = family("mixtral")
    found, expected = (merge(base, each, rule).model for each in (contributions, wide))
    assert same_bits(state_of(found), state_of(expected))


@pytest.fixture
def specialists(family, tmp_path):
    """`specialists(...)`: base, contributions in memory, and the same as folders of tmp_path."""

    def make(architecture="llama", count=2, dtype=torch.float32, shard_size="1GB"):
        base, contributions = contributions_for(family, architecture, count, dtype)
        base.save_pretrained(tmp_path / "base", max_shard_size=shard_size)
        places = []
        for i, (donor, mask, scale) in enumerate(contributions, start=1):
            donor.save_pretrained(tmp_path / f"donor{i}", max_shard_size="9KB")
            places.append((tmp_path / f"donor{i}", mask, scale))
        return base, contributions, places

    return make


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("architecture", "dtype", "shard_size"),
    [
        ("llama_tied", torch.float32, "5KB"),
        ("gpt2", torch.bfloat16, "1GB"),
        ("mixtral", torch.bfloat16, "20KB"),
    ],
)
def test_folders_get_the_same_bytes_and_report_as_in_memory_and_say_what_was_merged(
    specialists, tmp_path, rule, architecture, dtype, shard_size
):
    base, contributions, places = specialists(architecture, 3, dtype, shard_size)
    expected = merge(base, contributions, rule)
    expected.model.save_pretrained(tmp_path / "memory", max_shard_size=shard_size)
    report = merge_checkpoint(tmp_path / "base", places, tmp_path / "out", rule)
    assert (report.folder, report.rule) == (tmp_path / "out", rule)
    assert report.collisions == expected.collisions > 0
    assert report.union.digest == expected.union.digest
    found = contents(tmp_path / "out")
    steps, _card = json.loads(found.pop("actlib.json")), found.pop("README.md")
    assert found == contents(tmp_path / "memory") != contents(tmp_path / "base")
    assert {(each["target"], each["collisions"]) for each in steps} == {("base", rule)}
    assert [each["donor"] for each in steps] == ["donor1", "donor2", "donor3"]
    assert [each["mask_sha256"] for each in steps] == [mask.digest for _, mask, _ in places]


def test_refusals_write_nothing(specialists, tmp_path):
    _, _, places = specialists()
    (folder, mask, _), base, out = places[0], tmp_path / "base", tmp_path / "out"
    before = contents(tmp_path)
    for more, rule, message in (
        (places, "first", "collision rule 'first' is none of sum"),
        ([], "sum", "no contribution"),
        ([*places, (base, mask, 0.4)], "sum", "are the same folder"),
        ([*places, (folder, ChannelMask({}), 0.4)], "sum", "the mask is of another"),
        ([*places, (folder, mask, float("inf"))], "sum", "scale must be a finite"),
        ([*places, (folder, mask)], "sum", "give each its scale"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_checkpoint(base, more, out, rule)
    assert contents(tmp_path) == before
