import pytest
import torch

from actlib import running_sums
from actlib.channels import channel_modules
from actlib.localize import record_differences
from actlib.running_sums import RunningSums


def given(dtype=torch.float32, tokens=50):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, tokens, 6, generator=generator)
    a[:, 1] += 1e4  # far from zero, with a small spread
    a[:, 2] = 3.0
    return a.to(dtype), b.to(dtype)


@pytest.mark.parametrize("way", ["_by_rows", "_by_reduction"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_give_sums_mean_and_variance(way, dtype):
    a, b = (each.double() for each in given(dtype))
    found = getattr(running_sums, way)(*given(dtype))
    expected = (
        (a - b).abs().sum(0),
        (a.abs() + b.abs()).sum(0) / 2,
        a.mean(0),
        a.var(0, correction=0),
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        # The float32 mean at 1e4 is known to 1e-3, which shows in the variance beside it.
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=1e-6)
    assert found[3][2] == 0


@pytest.fixture
def sums(family):
    modules = channel_modules(family())
    return RunningSums({name: modules[name] for name in ("model.norm", "model.embed_tokens")})


def test_results_are_means_over_the_tokens_of_all_calls(sums):
    generator = torch.Generator().manual_seed(1)
    calls = [torch.randn(2, tokens, 16, generator=generator) for tokens in (3, 8, 1)]
    for ours, theirs in calls:
        sums.add("model.norm", ours.clone(), theirs.clone())
    a, b = torch.cat(calls, dim=1)
    values, magnitudes, means, spreads = sums.results()
    torch.testing.assert_close(values["model.norm"], (a - b).abs().mean(0))
    torch.testing.assert_close(magnitudes["model.norm"], (a.abs() + b.abs()).mean(0) / 2)
    torch.testing.assert_close(means["model.norm"], a.mean(0))
    torch.testing.assert_close(spreads["model.norm"], a.std(0, correction=0))
    assert all((part["model.embed_tokens"] == 0).all() for part in (values, means, spreads))


def test_results_do_not_share_memory_with_the_sums(sums):
    sums.add("model.norm", torch.ones(2, 16), torch.zeros(2, 16))
    first, _, _, _ = sums.results()
    sums.add("model.norm", torch.ones(2, 16) * 9, torch.zeros(2, 16))
    assert (first["model.norm"] == 1).all()


def test_states_of_several_add_up(sums, pair, batches):
    donor, target = pair()
    whole, modules = record_differences(donor, target, batches), channel_modules(target)
    a, b = RunningSums(modules), RunningSums(modules)
    for each, seed in ((a, 0), (b, 1)):
        generator = torch.Generator().manual_seed(seed)
        for name, module in modules.items():
            each.add(name, *torch.randn(2, 3, module.channels, generator=generator))
    both = RunningSums(modules)
    both.set_state(*(one + other for one, other in zip(a.state(), b.state(), strict=True)))
    for part, one, other in zip(both.results()[:3], a.results(), b.results(), strict=False):
        assert list(part) == list(whole.values)
        for name in part:
            torch.testing.assert_close(part[name], (one[name] + other[name]) / 2)


def test_infinity_is_refused_by_module(sums):
    sums.add("model.embed_tokens", torch.ones(2, 16), torch.ones(2, 16))
    sums.require_finite()
    sums.add("model.norm", torch.full((2, 16), torch.inf), torch.ones(2, 16))
    with pytest.raises(ValueError, match="module model.norm gave NaN or infinite activations"):
        sums.require_finite()
