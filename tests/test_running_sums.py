import pytest
import torch

from actlib import running_sums
from actlib.channels import Layout, channel_modules
from actlib.localize import record_differences
from actlib.running_sums import RunningSums
from actlib.sum_loops import add_differences, add_sums, as_numbers


def given(dtype=torch.float32, tokens=50):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, tokens, 6, generator=generator)
    a[:, 1] += 1e4  # far from zero, with a small spread
    a[:, 2] = 3.0
    return a.to(dtype), b.to(dtype)


def computed(way, a, b, rows):
    if way == "reduction":
        return running_sums._by_reduction(a, b, rows)
    loop, sums = (add_sums if rows == 4 else add_differences), torch.zeros(rows, 3 + a.shape[1])
    sums = sums.double()
    chosen = torch.arange(len(a)).numpy()
    loop(as_numbers(a), as_numbers(b), chosen, 0, a.shape[1], sums.numpy(), 3)
    assert (sums[:, :3] == 0).all()
    return sums[:, 3:]


@pytest.mark.parametrize("way", ["loop", "reduction"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
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
@pytest.mark.parametrize("tokens", [1, 6, 7])
@pytest.mark.parametrize("channels", [6, 2500])
def test_loops_are_exact_to_the_last_bit_of_float64(dtype, tokens, channels):
    """Whatever is left over of blocks of channels and of tokens in pairs."""
    a, b = torch.randn(2, tokens, channels).to(dtype)
    expected = torch.zeros(4, channels, dtype=torch.float64)
    for x, y in zip(a.double(), b.double(), strict=True):
        expected += torch.stack([(x - y).abs(), (x.abs() + y.abs()) / 2, x, x * x])
    assert torch.equal(computed("loop", a, b, 4), expected)
    assert torch.equal(computed("loop", a, b, 1), expected[:1])


@pytest.mark.parametrize("rows", [4, 1])
def test_threads_that_share_the_channels_leave_no_trace(sums, monkeypatch, rows):
    modules, (ours, theirs) = sums.modules, torch.randn(2, 40, 16)
    found = []
    for numbers in (1, 2**20):
        monkeypatch.setattr(running_sums, "THREAD_NUMBERS", numbers)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        found.append(RunningSums(modules, values_only=rows == 1))
        found[-1].add("model.norm", ours, theirs)
    (shared, _), (alone, _) = (each.state() for each in found)
    assert torch.equal(shared, alone) and (shared != 0).sum() == rows * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_the_target_are_chosen(sums, dtype):
    ours, theirs = torch.randn(3, 16).to(dtype), torch.randn(7, 16).to(dtype)
    rows = torch.tensor([0, 4, 5])
    found = RunningSums(sums.modules)
    found.add("model.norm", ours, theirs, rows)
    sums.add("model.norm", ours, theirs[rows])
    assert torch.equal(found.state()[0], sums.state()[0])
    assert torch.equal(found.state()[1], sums.state()[1])


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
    values, magnitudes, means, stds = sums.results()
    torch.testing.assert_close(values["model.norm"], (a - b).abs().mean(0))
    torch.testing.assert_close(magnitudes["model.norm"], (a.abs() + b.abs()).mean(0) / 2)
    torch.testing.assert_close(means["model.norm"], a.mean(0))
    torch.testing.assert_close(stds["model.norm"], a.std(0, correction=0))
    assert all((part["model.embed_tokens"] == 0).all() for part in (values, means, stds))


def test_means_of_one_token_are_what_it_gives(sums):
    ours, theirs = torch.randn(2, 1, 16)
    sums.add("model.norm", ours, theirs)
    values, magnitudes, means, stds = (each["model.norm"] for each in sums.results())
    assert torch.equal(values, (ours - theirs).abs()[0])
    torch.testing.assert_close(magnitudes, (ours.abs() + theirs.abs())[0] / 2)
    assert torch.equal(means, ours[0]) and stds.max() < 1e-3


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
