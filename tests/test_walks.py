import copy
import random

import pytest
import torch

from actlib.channels import channel_modules
from actlib.masks import ChannelMask
from actlib.transfer import selections, transfer_, transferred
from actlib.walks import moving


def drawn(model, share, seed):
    """A random mask; about one module in five is left out whole, or taken whole."""
    generator = torch.Generator().manual_seed(seed)
    channels = {}
    for name, found in channel_modules(model).items():
        whole = torch.rand(1, generator=generator).item()
        here = 0.0 if whole < 0.2 and share < 1 else 1.1 if whole > 0.9 and share > 0 else share
        channels[name] = torch.rand(found.channels, generator=generator) < here
    return ChannelMask(channels)


def walk_of(model, seed, steps=9):
    """Random settings in which scales stay for a while, and masks come back or differ a little."""
    rng, settings = random.Random(seed), []
    mask, scale = drawn(model, 0.3, seed), 0.4
    for step in range(steps):
        if rng.random() < 0.5:
            scale = rng.choice([0.0, 0.4, 0.7, 1.0, -0.3])
        way = rng.choice(["new", "same", "grow", "shrink", "back"])
        if way == "back" and settings:
            mask = rng.choice(settings)[0]
        elif way != "same":
            other = drawn(model, rng.choice([0.0, 0.05, 0.3, 1.1]), 100 * seed + step)
            mask = {"grow": mask | other, "shrink": mask - other}.get(way, other)
        settings.append((mask, scale))
    return settings


def bits(model):
    whole = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
    return {
        name: p.detach().clone().view(whole[p.dtype])  # by bits, for signed zeros
        for name, p in model.named_parameters()
    }


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def elements(model, mask):
    """Every parameter element that a mask selects, as one flat boolean tensor."""
    chosen = selections(model, mask)
    return torch.cat(
        [
            chosen[name].elements().flatten()
            if name in chosen
            else torch.zeros(p.numel(), dtype=torch.bool)
            for name, p in model.named_parameters()
        ]
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_move_is_a_fresh_transfer_and_the_end_is_the_start(pair, architecture, dtype, seed):
    donor, target = pair(architecture, dtype)
    with torch.no_grad():  # zeros of both signs, and values on which the models agree
        for ours, theirs in zip(target.parameters(), donor.parameters(), strict=True):
            ours.view(-1)[::3] = -0.0
            ours.view(-1)[1::4] = theirs.view(-1)[1::4]
    before, other, own = bits(target), bits(donor), copy.deepcopy(target)
    with moving(target, donor) as move:
        for mask, scale in walk_of(target, seed):
            move(mask, scale)
            fresh = copy.deepcopy(own)
            transfer_(fresh, donor, mask, scale)
            assert same(bits(target), bits(fresh))
    assert same(bits(target), before)
    assert same(bits(donor), other)


@pytest.mark.parametrize(
    ("given", "own"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float32,) * 2],
)
@pytest.mark.parametrize("architecture", ["llama_tied", "qwen3_moe"])
def test_experts_and_donors_of_another_dtype_walk_as_they_transfer(
    family, architecture, given, own
):
    donor, target = family(architecture, 1, given), family(architecture, 0, own)
    before, fresh, held = bits(target), family(architecture, 0, own), None
    with moving(target, donor) as move:
        for mask, scale in walk_of(target, seed=3):
            chosen = elements(target, mask)
            changing = held[0] ^ chosen if held and scale == held[1] else chosen
            changing = changing | held[0] if held and scale != held[1] else changing
            assert move(mask, scale) == int(changing.sum())
            with transferred(fresh, donor, mask, scale):
                assert same(bits(target), bits(fresh))
            held = chosen, scale
    assert same(bits(target), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("sides", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_donor_on_another_device_walks_as_it_transfers(pair, sides):
    donor, target = (model.to(side) for model, side in zip(pair("mixtral"), sides, strict=True))
    before, fresh = bits(target), copy.deepcopy(target)
    with moving(target, donor) as move:
        for mask, scale in walk_of(target, seed=3):
            move(mask, scale)
            with transferred(fresh, donor, mask, scale):
                assert same(bits(target), bits(fresh))
    assert same(bits(target), before)


def test_a_move_writes_what_set_algebra_says(pair, architecture):
    donor, target = pair(architecture)
    held, scale_held = torch.zeros(1, dtype=torch.bool), None
    with moving(target, donor) as move:
        for mask, scale in walk_of(target, seed=7, steps=30):
            chosen = elements(target, mask)
            changing = held ^ chosen if scale == scale_held else held | chosen
            assert move(mask, scale) == int(changing.sum())
            held, scale_held = chosen, scale


def test_a_row_that_leaves_a_tied_tensor_keeps_its_masked_columns_moved(pair):
    donor, target = pair("llama_tied")
    before, other = target.lm_head.weight.detach().clone(), donor.lm_head.weight.detach()
    none = {
        n: torch.zeros(m.channels, dtype=torch.bool) for n, m in channel_modules(target).items()
    }
    column, both = copy.deepcopy(none), copy.deepcopy(none)
    column["model.embed_tokens"][3] = both["model.embed_tokens"][3] = True
    both["lm_head"][7] = True
    rows, columns = before.shape
    with moving(target, donor) as move:
        assert move(ChannelMask(both), 1.0) == rows + columns - 1
        assert move(ChannelMask(column), 1.0) == columns - 1
        changed = target.lm_head.weight != before
        assert changed[:, 3].all() and changed.sum() == rows
        torch.testing.assert_close(target.lm_head.weight[7, 3], other[7, 3])
        assert target.lm_head.weight is target.model.embed_tokens.weight
        assert move(ChannelMask(none), 1.0) == rows
        assert torch.equal(target.lm_head.weight, before)


def test_a_mask_that_is_changed_in_place_between_moves_counts_as_it_is(pair):
    donor, target = pair()
    fresh, mask = copy.deepcopy(target), drawn(target, 0.3, 1)
    with moving(target, donor) as move:
        move(mask, 0.4)
        for chosen in mask.channels.values():
            chosen.logical_not_()
        move(mask, 0.4)
        transfer_(fresh, donor, mask, 0.4)
        assert same(bits(target), bits(fresh))


def test_zeros_of_other_sign_are_another_scale(pair):
    donor, target = pair()
    with torch.no_grad():
        target.lm_head.weight.fill_(-0.0)
    mask = drawn(target, 1.1, 0)
    with moving(target, donor) as move:
        for scale in (0.0, -0.0):
            move(mask, scale)
            fresh = copy.deepcopy(target)
            with torch.no_grad():
                fresh.lm_head.weight.fill_(-0.0)
            transfer_(fresh, donor, mask, scale)
            assert torch.equal(fresh.lm_head.weight.signbit(), target.lm_head.weight.signbit())


def test_an_exception_inside_restores(pair):
    donor, target = pair("gpt2", torch.bfloat16)
    before = bits(target)
    with pytest.raises(RuntimeError), moving(target, donor) as move:
        move(drawn(target, 0.3, 1), 0.7)
        raise RuntimeError
    assert same(bits(target), before)


def test_refusals_change_nothing(pair, family):
    donor, target = pair("qwen2")
    mask, before = drawn(target, 0.3, 1), bits(target)
    with pytest.raises(ValueError, match="donor and target do not fit"):
        with moving(target, family("llama")):
            pass
    with moving(target, donor) as move:
        move(mask, 0.4)
        held = bits(target)
        with pytest.raises(ValueError, match="the mask is of another model"):
            move(drawn(family("gpt2"), 0.3, 1), 0.4)
        for scale in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="scale must be a finite number"):
                move(mask, scale)
        assert same(bits(target), held)
        assert move(mask, 0.4) == 0
    with pytest.raises(ValueError, match="the block has ended"):
        move(mask, 0.4)
    assert same(bits(target), before)


def test_only_touched_tensors_are_kept_and_no_gradient_is_recorded(pair):
    donor, target = pair()
    mask = drawn(target, 0.0, 0)
    mask.channels["model.norm"][2] = True
    with moving(target, donor) as move:
        assert move(mask, 0.4) == 1
        assert list(move.__self__.originals) == ["model.norm.weight"]
        assert all(p.requires_grad and p.is_leaf for p in target.parameters())
