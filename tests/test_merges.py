"""Merges: each method against its formula, written again, and what it must not change."""

import accelerate
import numpy as np
import pytest
import torch
from tiny_models import same_bits, state_of, unchanged
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


def result(base, donors, method, **settings):
    """Parameters of what `merged` makes of the base."""
    with merged(base, donors, method, **settings):
        return state_of(base)


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
    base, donors = trio(architecture, count)  # one of the families has tied embeddings
    before = state_of(base)
    for name, value in result(base, donors, method, **SETTINGS[method]).items():
        given = [donor.get_parameter(name).detach().double().numpy() for donor in donors]
        expected = reference(method, before[name].double().numpy(), given, **SETTINGS[method])
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_dare_drops_its_share_and_divides_the_others(trio):
    base, (donor,) = trio(donors=1)
    kept = 0
    for name, value in result(base, [donor], "dare_linear", scale=0.5, percent=30).items():
        before = base.get_parameter(name).detach()
        step = value - before
        full = 0.5 * (donor.get_parameter(name).detach() - before) / 0.3
        moved = step.abs() > 1e-5
        torch.testing.assert_close(step[moved], full[moved], rtol=1e-3, atol=1e-5)
        kept += int((moved | (full.abs() <= 1e-5)).sum())
    total = sum(values.numel() for values in state_of(base).values())
    assert kept / total == pytest.approx(0.3, abs=0.03)


def test_the_seed_decides_what_is_dropped_and_the_global_one_stays(trio):
    base, donors = trio()
    state = torch.get_rng_state()
    settings = {"method": "dare_linear", "percent": 50}
    one, again, other = (result(base, donors, seed=seed, **settings) for seed in (0, 0, 1))
    assert same_bits(one, again) and not same_bits(one, other)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("method", MERGES)
def test_on_exit_the_base_has_its_bits_back(trio, architecture, method):
    base, donors = trio(architecture)
    before = state_of(base)
    with unchanged(base, *donors), pytest.raises(RuntimeError, match="inside"):
        with merged(base, donors, method, **settings_of(method, base, 2)) as model:
            assert model is base and not same_bits(state_of(base), before)
            raise RuntimeError("inside")


@pytest.mark.parametrize("method", UNIONS)
def test_unions_are_the_merges_of_the_method(trio, method):
    base, donors = trio(donors=3)
    settings = settings_of(method, base, 3)
    given = [(d, mask, 0.7) for d, mask in zip(donors, settings["masks"], strict=True)]
    expected = merge(base, given, {"union": "sum"}.get(method, method)).model
    assert same_bits(result(base, donors, method, **settings), state_of(expected))


@pytest.mark.parametrize("method", SETTINGS)
def test_bfloat16_is_the_wide_result_rounded_once(trio, method):
    base, donors = trio(dtype=torch.bfloat16)
    narrow = result(base, donors, method, **SETTINGS[method])
    wide = result(base.float(), [donor.float() for donor in donors], method, **SETTINGS[method])
    assert same_bits(narrow, {name: values.bfloat16() for name, values in wide.items()})


def test_the_papers_default_is_met_at_its_depth():
    assert language_shares(32, percent=22) == [1] * 5 + [0.5] + [0] * 23 + [0.5] + [1] * 2
    assert language_shares(4, percent=22) == [1, 0, 0, 1]
    assert language_shares(4, percent=75) == [1, 1, 0, 1]
    assert language_shares(30, percent=50) == [1] * 11 + [0.5] + [0] * 13 + [0.5] + [1] * 4
    with pytest.raises(ValueError, match="at least two, got 1"):
        language_shares(1, percent=22)


def test_layers_are_swapped_to_the_bit_and_all_else_is_averaged():
    def model(value):
        tower = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(1, 1) for _ in range(7))})
        layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))
        made = nn.ModuleDict({"vision_tower": tower, "layers": layers, "head": nn.Linear(1, 1)})
        for parameter in made.parameters():
            nn.init.constant_(parameter, value)
        return made

    # The base does not count, nor do layers of a vision tower.
    found = result(model(torch.nan), [model(1.0), model(3.0)], "layer_swap", percent=75)
    for name, value in found.items():
        layer = int(name.split(".")[1]) if name.startswith("layers") else None
        assert value == {0: 1, 1: 1, 2: 3, 3: 1}.get(layer, 2), name


def test_refusals_leave_the_base_as_it_was(family, trio):
    base, donors = trio()
    away = accelerate.cpu_offload(family(), torch.device("cpu"))
    cases = [
        (donors, "soup", {}, "method 'soup' is none of union"),
        ([donors[0], family("llama")], "ties", {}, "donor and target do not fit"),
        ([away], "task_arithmetic", {}, "is offloaded"),
        (donors, "mean_weights", {"scale": 0.4}, "has no scale, so it must be 1, got 0.4"),
        (donors, "task_arithmetic", {"percent": 50}, "but 50 % were asked for"),
        (donors, "union", {}, "of 2 donors was given 0 masks"),
        (donors, "ties", {"percent": 101}, r"percent must be in \(0, 100\]"),
    ]
    for given, method, settings, message in cases:
        with unchanged(base), pytest.raises(ValueError, match=message):
            result(base, given, method, **settings)
