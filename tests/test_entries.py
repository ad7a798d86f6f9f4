import copy

import pytest
import torch
from torch import nn

import actlib.controls.entries
from actlib.channels import channel_modules
from actlib.controls.entries import entries_transferred, random_entries, top_entries
from actlib.masks import ChannelMask
from actlib.transfer import selections, transfer_


@pytest.fixture(autouse=True, params=[1 << 20, 37])
def piece(request, monkeypatch):
    """Pieces larger than any tensor here, and pieces of a row or two."""
    monkeypatch.setattr(actlib.controls.entries, "_PIECE", request.param)
    monkeypatch.setattr(actlib.controls.entries, "_DRAWS", 10 * request.param)


def flat(entries):
    return torch.cat([chosen.flatten() for chosen in entries.values()])


def vector(model):
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


def by_sorting(donor, target, count):
    order = torch.sort((vector(donor) - vector(target)).abs(), descending=True, stable=True)
    chosen = torch.zeros(len(order.indices), dtype=torch.bool)
    chosen[order.indices[:count]] = True
    return chosen


def bits(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def counts_of(model):
    total = sum(p.numel() for p in model.parameters())
    return (1, 2, 17, total // 3, total // 2, total - 1, total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_entries_are_those_of_a_stable_sort(pair, architecture, dtype):
    donor, target = pair(architecture, dtype)
    for count in counts_of(target):
        entries = top_entries(donor, target, count)
        assert {n: c.shape for n, c in entries.items()} == {
            n: p.shape for n, p in target.named_parameters()
        }
        assert torch.equal(flat(entries), by_sorting(donor, target, count))


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_ties_and_zeros_go_by_order(pair, levels):
    donor, target = pair("llama_tied")
    generator = torch.Generator().manual_seed(levels)
    with torch.no_grad():
        for ours, theirs in zip(target.parameters(), donor.parameters(), strict=True):
            drawn = torch.randint(-levels, levels + 1, ours.shape, generator=generator)
            ours.copy_(torch.zeros(()))
            theirs.copy_(drawn * 2.0**-140)  # subnormal: equal in the upper half of their bits
    for count in counts_of(target):
        entries = top_entries(donor, target, count)
        assert torch.equal(flat(entries), by_sorting(donor, target, count))


def test_infinity_ranks_highest_and_nan_is_refused(pair):
    donor, target = pair()
    with torch.no_grad():
        donor.model.norm.weight[3] = float("inf")
    assert top_entries(donor, target, 1)["model.norm.weight"].nonzero().tolist() == [[3]]
    with torch.no_grad():
        donor.model.norm.weight[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        top_entries(donor, target, 1)


def test_parameters_without_channels_and_scalars_count_too():
    def model_of(value):
        made = nn.ModuleList([nn.Linear(2, 2)])
        made.scalar = nn.Parameter(torch.tensor(float(value)))
        made.empty = nn.Parameter(torch.zeros(0, 3))
        with torch.no_grad():
            made[0].weight.fill_(0.0)
            made[0].bias.fill_(0.0)
        return made

    donor, target = model_of(1), model_of(0)
    entries = top_entries(donor, target, 1)
    assert entries["scalar"].item() and flat(entries).sum() == 1
    with entries_transferred(target, donor, entries, 0.5):
        assert target.scalar.item() == 0.5
    assert target.scalar.item() == 0.0


def test_random_entries_have_the_count_and_the_seed_decides(family, architecture):
    model = family(architecture)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    for count in counts_of(model):
        entries = random_entries(model, count, seed=4)
        assert {name: chosen.shape for name, chosen in entries.items()} == shapes
        assert int(flat(entries).sum()) == count
        assert torch.equal(flat(random_entries(model, count, seed=4)), flat(entries))
    others = [flat(random_entries(model, 500, seed)) for seed in range(2)]
    assert not torch.equal(*others)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_random_entries_are_uniform_over_places_and_pairs(count):
    model = nn.ModuleList([nn.Linear(2, 3), nn.Linear(1, 1, bias=False)])
    draws = 3000
    drawn = [flat(random_entries(model, count, seed)).float() for seed in range(draws)]
    together = torch.stack(drawn).T @ torch.stack(drawn) / draws
    size = together.shape[0]
    expected = torch.full((size, size), count * (count - 1) / (size * (size - 1)))
    expected.fill_diagonal_(count / size)
    # Five standard errors of a frequency, at most 0.5 / sqrt(draws) each.
    assert (together - expected).abs().max() < 5 * 0.5 / draws**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entries_move_by_the_formula_and_come_back(pair, architecture, dtype):
    donor, target = pair(architecture, dtype)
    before, other = bits(target), bits(donor)
    entries = top_entries(donor, target, counts_of(target)[3])
    with entries_transferred(target, donor, entries, 0.4) as model:
        assert model is target
        for name, parameter in target.named_parameters():
            ours, theirs = before[name].float(), other[name].float()
            moved = (ours + 0.4 * (theirs - ours)).to(dtype)
            assert torch.equal(parameter, torch.where(entries[name], moved, before[name]))
            assert parameter.requires_grad and parameter.is_leaf
    assert same(bits(target), before) and same(bits(donor), other)


def test_the_entries_of_a_channel_mask_move_as_the_mask_does(pair, architecture):
    donor, target = pair(architecture, torch.bfloat16)
    mask = ChannelMask(
        {name: torch.arange(m.channels) % 3 == 0 for name, m in channel_modules(target).items()}
    )
    chosen, fresh = selections(target, mask), copy.deepcopy(target)
    entries = {name: torch.zeros(p.shape).bool() for name, p in target.named_parameters()}
    entries |= {n: each.at().view(entries[n].shape) for n, each in chosen.items()}
    transfer_(fresh, donor, mask, 0.7)
    with entries_transferred(target, donor, entries, 0.7):
        assert same(bits(target), bits(fresh))


def test_restored_after_an_exception_and_other_changes_stay(pair):
    donor, target = pair()
    before, entries = bits(target), random_entries(target, 900, 0)
    with pytest.raises(RuntimeError), entries_transferred(target, donor, entries, 0.4):
        with torch.no_grad():
            for parameter in target.parameters():
                parameter.add_(1)
        raise RuntimeError
    for name, parameter in target.named_parameters():
        assert torch.equal(parameter, torch.where(entries[name], before[name], before[name] + 1))


def test_parameters_that_are_not_contiguous_move_too():
    donor, target = nn.Linear(4, 5), nn.Linear(4, 5)
    target.weight.data = target.weight.detach().T.contiguous().T
    before = bits(target)
    entries = top_entries(donor, target, 11)
    assert torch.equal(flat(entries), by_sorting(donor, target, 11))
    with entries_transferred(target, donor, entries, 1.0):
        torch.testing.assert_close(
            target.weight[entries["weight"]], donor.weight[entries["weight"]]
        )
    assert same(bits(target), before)


def test_refusals_leave_the_target_as_it_was(pair, family):
    donor, target = pair()
    before, total = bits(target), sum(p.numel() for p in target.parameters())
    for count in (0, -1, total + 1):
        with pytest.raises(ValueError, match=f"count must be from 1 to {total}"):
            top_entries(donor, target, count)
        with pytest.raises(ValueError, match=f"count must be from 1 to {total}"):
            random_entries(target, count, 0)
    with pytest.raises(ValueError, match="donor and target do not fit"):
        top_entries(family("llama"), target, 5)
    entries = random_entries(target, 50, 0)
    part = {name: chosen for name, chosen in entries.items() if name != "model.norm.weight"}
    floats = {name: chosen.float() for name, chosen in entries.items()}
    for wrong, told in (
        ((family("llama"), entries, 0.4), "donor and target do not fit"),
        ((donor, part, 0.4), "entries are of another model: model.norm.weight of shape absent"),
        ((donor, random_entries(family("gpt2"), 50, 0), 0.4), "entries are of another model"),
        ((donor, floats, 0.4), "boolean tensors, got torch.float32"),
        ((donor, entries, float("nan")), "scale must be a finite number"),
    ):
        with pytest.raises(ValueError, match=told), entries_transferred(target, *wrong):
            pass
    assert same(bits(target), before)


def test_models_whose_other_parameters_differ_do_not_fit():
    donor, target = nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2)])
    target.packed = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="do not fit: .*packed"):
        top_entries(donor, target, 1)


def test_entries_changed_inside_the_block_do_not_change_the_way_back(pair):
    donor, target = pair()
    before, entries = bits(target), random_entries(target, 900, 0)
    with entries_transferred(target, donor, entries, 0.4):
        for chosen in entries.values():
            chosen.fill_(False)
    assert same(bits(target), before)


@pytest.mark.parametrize(
    ("given", "own"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]
)
@pytest.mark.parametrize("architecture", ["llama_tied", "qwen2_moe"])
def test_donors_of_another_dtype_rank_and_move_as_if_widened(family, architecture, given, own):
    donor, target = family(architecture, 1, given), family(architecture, 0, own)
    before, count = bits(target), counts_of(target)[3]
    entries = top_entries(donor, target, count)
    assert torch.equal(flat(entries), by_sorting(donor, target, count))
    donated = bits(donor)
    with entries_transferred(target, donor, entries, 0.4):
        for name, parameter in target.named_parameters():
            ours, theirs = before[name].float(), donated[name].float()
            moved = (ours + 0.4 * (theirs - ours)).to(own)
            assert torch.equal(parameter, torch.where(entries[name], moved, before[name]))
    assert same(bits(target), before)


def test_the_entries_of_packed_experts_move_as_their_mask_does(pair):
    donor, target = pair("mixtral")
    mask = ChannelMask(
        {name: torch.arange(m.channels) % 5 == 0 for name, m in channel_modules(target).items()}
    )
    entries = {name: torch.zeros(p.shape).bool() for name, p in target.named_parameters()}
    chosen = selections(target, mask)
    entries |= {n: each.at().view(entries[n].shape) for n, each in chosen.items()}
    fresh = copy.deepcopy(target)
    transfer_(fresh, donor, mask, 0.7)
    with entries_transferred(target, donor, entries, 0.7):
        assert same(bits(target), bits(fresh))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("sides", [("cuda", "cpu"), ("cpu", "cuda")])
def test_donors_on_another_device_rank_and_move_the_same(pair, sides):
    donor, target = pair("mixtral")
    entries = top_entries(donor, target, 900)
    with entries_transferred(target, donor, entries, 0.4):
        expected = bits(target)
    donor, target = donor.to(sides[0]), target.to(sides[1])
    assert torch.equal(flat(top_entries(donor, target, 900)), flat(entries))
    with entries_transferred(target, donor, entries, 0.4):
        for name, parameter in bits(target).items():
            torch.testing.assert_close(parameter.cpu(), expected[name], rtol=1e-6, atol=1e-7)


def test_offloaded_parameters_are_refused(pair):
    donor, target = pair()
    entries, before = random_entries(target, 50, 0), bits(target)
    for models in ((donor.to("meta"), target), (target, donor)):
        with pytest.raises(ValueError, match="is offloaded"):
            top_entries(*models, 5)
        with pytest.raises(ValueError, match="is offloaded"):
            with entries_transferred(models[1], models[0], entries):
                pass
    assert same(bits(target), before)
