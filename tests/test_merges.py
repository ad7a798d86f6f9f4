"""Merges: each method against its formula, written again, and what it must not change."""

import accelerate
import numpy as np
import pytest
import torch
from torch import nn

from actlib import merge
from actlib.channels import channel_modules
from actlib.masks import ChannelMask
from actlib.study.merges import MERGES, UNIONS, language_shares, merged

SETTINGS = {
    "task_arithmetic": {"scale": 0.4},
    "mean_weights": {},
    "ties": {"scale": 0.7, "percent": 30},
    "dare_linear": {"scale": 0.7, "percent": 30},
    "layer_swap": {"percent": 22},
}
WHOLE = tuple(SETTINGS)


def state_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def merge_(base, donors, method, **settings):
    """What `merged` makes of the base, left in it."""
    with merged(base, donors, method, **settings):
        state = state_of(base)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter.copy_(state[name])


def settings_of(method, base, count):
    """Settings of a method; masks of every third channel, shifted by donor, for the unions."""
    if method not in UNIONS:
        return SETTINGS[method]
    sizes = {name: module.channels for name, module in channel_modules(base).items()}
    masks = [
        ChannelMask({name: torch.arange(size) % 3 != number for name, size in sizes.items()})
        for number in range(count)
    ]
    return {"scale": 0.7, "masks": masks}


def same_bits(ours, theirs):
    return list(ours) == list(theirs) and all(ours[name].equal(theirs[name]) for name in ours)


@pytest.fixture
def trio(family):
    """`trio(architecture, donors, dtype)`: a base and its donors."""

    def make(architecture="qwen2", donors=2, dtype=torch.float32):
        models = [family(architecture, seed, dtype) for seed in range(donors + 1)]
        return models[0], models[1:]

    return make


def reference(method, base, donors, scale=1.0, percent=100):
    """The formulas of the papers for one tensor, trimming within it."""
    deltas = np.stack([donor - base for donor in donors])
    if method == "mean_weights":
        return np.mean(donors, axis=0)
    if method == "task_arithmetic":
        return base + scale * deltas.sum(0)
    for delta in deltas:
        kept = int(percent / 100 * delta.size)
        smallest = np.argsort(np.abs(delta), axis=None)[: delta.size - kept]
        np.put(delta, smallest, 0)
    agreeing = (np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)) & (deltas != 0)
    mean = (deltas * agreeing).sum(0) / np.maximum(agreeing.sum(0), 1)
    return base + scale * mean


@pytest.mark.parametrize("method", ["task_arithmetic", "mean_weights", "ties"])
@pytest.mark.parametrize("count", [1, 3])
def test_every_parameter_follows_the_formula(trio, architecture, method, count):
    base, donors = trio(architecture, count)
    before = state_of(base)
    merge_(base, donors, method, **SETTINGS[method])
    for name, value in state_of(base).items():
        given = [donor.get_parameter(name).detach().double().numpy() for donor in donors]
        expected = reference(method, before[name].double().numpy(), given, **SETTINGS[method])
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_dare_drops_its_share_and_divides_the_others(trio):
    base, (donor,) = trio(donors=1)
    before = state_of(base)
    merge_(base, [donor], "dare_linear", scale=0.5, percent=30)
    kept = 0
    for name, value in state_of(base).items():
        step = value - before[name]
        full = 0.5 * (donor.get_parameter(name).detach() - before[name]) / 0.3
        moved = step.abs() > 1e-5
        torch.testing.assert_close(step[moved], full[moved], rtol=1e-3, atol=1e-5)
        kept += int((moved | (full.abs() <= 1e-5)).sum())
    assert kept / sum(p.numel() for p in base.parameters()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.filterwarnings("error")
def test_at_all_entries_dare_drops_nothing(trio):
    base, donors = trio(donors=3)
    other, _ = trio()
    merge_(base, donors, "dare_linear", scale=0.4, percent=100)
    merge_(other, donors, "task_arithmetic", scale=0.4)
    assert same_bits(state_of(base), state_of(other))


def test_the_seed_decides_what_is_dropped_and_the_global_one_stays(trio):
    results = []
    for seed in (0, 0, 1):
        base, donors = trio()
        torch.manual_seed(len(results))  # the caller's own state must not matter
        state = torch.get_rng_state()
        merge_(base, donors, "dare_linear", scale=1.0, percent=50, seed=seed)
        assert torch.get_rng_state().equal(state)
        results.append(state_of(base))
    assert same_bits(results[0], results[1])
    assert not same_bits(results[0], results[2])


@pytest.mark.parametrize("method", MERGES)
def test_on_exit_the_base_has_its_bits_back(trio, architecture, method):
    base, donors = trio(architecture)
    before, given = state_of(base), [state_of(donor) for donor in donors]
    with pytest.raises(RuntimeError, match="inside"):
        with merged(base, donors, method, **settings_of(method, base, 2)) as model:
            assert model is base and not same_bits(state_of(base), before)
            raise RuntimeError("inside")
    assert same_bits(state_of(base), before)
    assert all(same_bits(state_of(d), g) for d, g in zip(donors, given, strict=True))


@pytest.mark.parametrize("method", UNIONS)
def test_unions_are_the_merges_of_the_method(trio, method):
    base, donors = trio(donors=3)
    settings = settings_of(method, base, 3)
    given = [(d, mask, 0.7) for d, mask in zip(donors, settings["masks"], strict=True)]
    expected = merge(base, given, UNIONS[method]).model
    with merged(base, donors, method, **settings):
        assert same_bits(state_of(base), state_of(expected))


@pytest.mark.parametrize("method", WHOLE)
def test_bfloat16_is_the_wide_result_rounded_once(trio, method):
    narrow, donors = trio(dtype=torch.bfloat16)
    wide, widened = trio(dtype=torch.bfloat16)
    wide, widened = wide.float(), [donor.float() for donor in widened]
    merge_(narrow, donors, method, **SETTINGS[method])
    merge_(wide, widened, method, **SETTINGS[method])
    for ours, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16
        assert ours.equal(theirs.to(torch.bfloat16))


@pytest.mark.parametrize("method", WHOLE)
def test_tied_tensors_stay_tied_and_are_merged_once(trio, method):
    base, donors = trio("llama_tied")
    before = base.lm_head.weight.detach().clone()
    merge_(base, donors, method, **SETTINGS[method])
    assert base.lm_head.weight is base.model.embed_tokens.weight
    if method == "task_arithmetic":
        step = sum(donor.lm_head.weight.detach() - before for donor in donors)
        torch.testing.assert_close(base.lm_head.weight.detach(), before + 0.4 * step)


def test_the_papers_default_is_met_at_its_depth():
    assert language_shares(32, percent=22) == [1] * 5 + [0.5] + [0] * 23 + [0.5] + [1] * 2
    assert language_shares(4, percent=22) == [1, 0, 0, 1]
    assert language_shares(4, percent=75) == [1, 1, 0, 1]
    with pytest.raises(ValueError, match="at least two, got 1"):
        language_shares(1, percent=22)


@pytest.mark.parametrize("layers", [2, 3, 8, 16, 28, 30, 80])
@pytest.mark.parametrize("percent", [1, 22, 50, 90, 100])
def test_every_depth_has_the_language_specialist_at_both_ends(layers, percent):
    shares = language_shares(layers, percent)
    assert len(shares) == layers and shares[0] == shares[-1] == 1
    swapped = shares.count(1)
    assert swapped == max(2, round(layers * percent / 100))
    inner = next((i for i, share in enumerate(shares) if share < 1), layers)
    assert shares[inner : inner + layers - swapped].count(1) == 0  # one stretch
    assert inner >= swapped - inner or swapped == layers  # the bottom gets more


def test_layers_are_swapped_to_the_bit(trio, architecture):
    base, (language, task) = trio(architecture)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.fill_(torch.nan)  # the base must not matter
    merge_(base, [language, task], "layer_swap", percent=100)
    for name, value in base.named_parameters():
        ours, theirs = language.get_parameter(name), task.get_parameter(name)
        if any(part.isdecimal() for part in name.split(".")):
            assert value.equal(ours), name
        else:
            torch.testing.assert_close(value, (ours + theirs) / 2)


def test_middle_layers_are_the_task_specialists(monkeypatch, trio):
    monkeypatch.setattr("actlib.study.merges.language_shares", lambda layers, percent: [1.0, 0.0])
    base, (language, task) = trio("gpt2")
    merge_(base, [language, task], "layer_swap")
    for name, value in base.named_parameters():
        if ".h." in name:
            source = language if ".h.0." in name else task
            assert value.equal(source.get_parameter(name)), name


def test_refusals_leave_the_base_as_it_was(family, trio):
    base, donors = trio()
    before, half = state_of(base), {"percent": 50}
    masks = settings_of("union", base, 2)["masks"]
    cases = [
        (donors, "soup", {}, "method 'soup' is none of union"),
        ([], "ties", half, "no donor"),
        ([donors[0], family("llama")], "ties", half, "donor and target do not fit"),
        (donors, "task_arithmetic", {"scale": float("nan")}, "finite number"),
        (donors, "mean_weights", {"scale": 0.4}, "has no scale, so it must be 1, got 0.4"),
        (donors, "task_arithmetic", half, "but 50 % were asked for"),
        (donors, "union", {}, "of 2 donors was given 0 masks"),
        (donors, "ties", {"masks": masks}, "of 2 donors was given 2 masks"),
        (donors[:1], "layer_swap", {}, "got 1 donors"),
    ]
    for wrong in (0.0, -0.1, 101, float("nan")):
        cases += [(donors, "ties", {"percent": wrong}, r"percent must be in \(0, 100\]")]
    for given, method, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            with merged(base, given, method, **settings):
                pass
    assert same_bits(state_of(base), before)


def test_layers_of_a_vision_tower_are_averaged_and_do_not_count_as_depth():
    def model(value, depth):
        made = nn.ModuleDict(
            {
                "vision_tower": nn.ModuleDict(
                    {"layers": nn.ModuleList(nn.Linear(1, 1) for _ in depth)}
                ),
                "layers": nn.ModuleList(nn.Linear(1, 1) for _ in range(2)),
            }
        )
        for parameter in made.parameters():
            nn.init.constant_(parameter, value)
        return made

    base, language, task = (model(value, range(5)) for value in (0.0, 1.0, 3.0))
    merge_(base, [language, task], "layer_swap", percent=100)
    found = {name: parameter.item() for name, parameter in base.named_parameters()}
    assert all(value == (2.0 if "vision" in name else 1.0) for name, value in found.items())


def test_offloaded_models_are_refused(trio):
    for place in range(2):
        base, (donor,) = trio("llama", donors=1)
        accelerate.cpu_offload([base, donor][place], torch.device("cpu"))
        with pytest.raises(ValueError, match="is offloaded"):
            merge_(base, [donor], "task_arithmetic")
