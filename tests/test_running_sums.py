import pytest
import torch

from actlib import running_sums
from actlib.channels import Layout, channel_modules
from actlib.localize import record_differences
from actlib.running_sums import RunningSums


def given(dtype=torch.float32, tokens=50):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, tokens, 6, generator=generator)
    a[:, 1] += 1e4  # far from zero, with a small spread
    a[:, 2] = 3.0
    return a.to(dtype), b.to(dtype)


def computed(way, a, b, rows):
    if way == "_by_rows":
        return running_sums._by_rows(a, b, rows, torch.empty(3 * a.numel()))
    return running_sums._by_reduction(a, b, rows)


@pytest.mark.parametrize("way", ["_by_rows", "_by_reduction"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_give_the_four_sums(way, dtype):
    a, b = (each.double() for each in given(dtype))
    found = computed(way, *given(dtype), 4)
    expected = [(a - b).abs().sum(0), (a.abs() + b.abs()).sum(0) / 2, a.sum(0)]
    for ours, theirs in zip(found, expected, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-4)
    # The float32 mean at 1e4 is known to 1e-3, which shows in the variance beside it.
    variance = found[3] / len(a) - (found[2] / len(a)).square()
    torch.testing.assert_close(variance, a.var(0, correction=0), rtol=2e-5, atol=2e-6)
    assert variance[2].abs() < 1e-12
    (alone,) = computed(way, *given(dtype), 1)
    torch.testing.assert_close(alone.double(), found[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_tokens_at_a_time_give_the_same_sums(monkeypatch, dtype):
    a, b = given(dtype)
    whole = computed("_by_rows", a, b, 4)
    monkeypatch.setattr(running_sums, "CACHED_NUMBERS", 20)  # three tokens of six channels
    torch.testing.assert_close(computed("_by_rows", a, b, 4), whole, rtol=1e-6, atol=1e-4)


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


def test_values_alone_are_those_of_all_sums(pair):
    for family in ("llama", "mixtral"):
        _, target = pair(family)
        modules = channel_modules(target)
        both = RunningSums(modules), RunningSums(modules, values_only=True)
        for sums in both:
            generator = torch.Generator().manual_seed(0)
            for name, module in modules.items():
                if module.layout is not Layout.PACKED:
                    sums.add(name, *torch.randn(2, 9, module.channels, generator=generator))
        (whole, *_), (alone, *others) = (sums.results() for sums in both)
        assert all(torch.equal(alone[name], whole[name]) for name in modules)
        assert others == [{}, {}, {}]
        assert both[1].state()[0].shape[0] == 1
