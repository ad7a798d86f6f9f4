"""Time grows with the number of channels, and of questions, not with its square."""

import json
import time

import pytest
import torch

from actlib import ChannelMask, ChannelScores, load_questions, random_like

TIMES = 8
MOST = 3 * TIMES  # the machine may be busy; the square would be 64


def modules(channels, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = torch.rand(channels, generator=generator).split(1000)
    return {f"layers.{n}.made": part.clone() for n, part in enumerate(parts)}


def masks(channels, path):
    one, other = (
        ChannelMask({name: part < 0.05 for name, part in modules(channels, seed).items()})
        for seed in (0, 1)
    )

    def run():
        assert 0 < (one | other).count < channels and one.jaccard(other) < 1
        random_like(one, 0).save(path)
        assert ChannelMask.load(path).count == one.count

    return run


def rankings(channels, path):
    values = modules(channels, 0)
    scores = ChannelScores(values, values, 1, {})
    return lambda: [scores.top(5.0, ranking) for ranking in ("global", "module", "scaled")]


def questions(count, path):
    path = path.with_suffix(".jsonl")
    row = {"answer": "So.\n#### 1.200", "language": "de"}
    lines = [json.dumps(row | {"question": f"Q{n}?"}) + "\n" for n in range(count // 100)]
    path.write_text("".join(lines))
    return lambda: load_questions(path)


def best(run):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("work", [masks, rankings, questions])
def test_growth_is_linear(work, tmp_path):
    small, large = (best(work(size, tmp_path / "file")) for size in (100_000, TIMES * 100_000))
    assert large < MOST * small, f"{small:.4f} s, and {large:.4f} s at {TIMES} times the size"
