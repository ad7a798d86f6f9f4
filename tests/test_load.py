"""Time grows with the size, not with its square: eight times as much takes less than 64 times."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actlib.masks import ChannelMask, random_like
from actlib.prompts import batches
from actlib.questions import load_questions
from benchmarks.load import letters, llama_70b, made_mask, write_examples
from benchmarks.rankings import heavy_tailed
from benchmarks.shapes import channel_layout

TIMES = 8
MOST = 3 * TIMES  # the machine may be busy; the square would be 64


def masks(size, folder):
    one, other = made_mask(size, 0), made_mask(size, 1)

    def run():
        assert 0 < (one | other).percent < 100 and one.jaccard(other) < 1
        random_like(one, 0, per_module=False).save(folder / f"{size}")
        assert ChannelMask.load(folder / f"{size}").count == one.count

    return run


def rankings(size, folder):
    scores = heavy_tailed({f"layers.{n}.made": 1000 for n in range(size // 1000)})
    return lambda: [scores.top(5.0, ranking) for ranking in ("module", "scaled", "contrast")]


def loading(size, folder):
    write_examples(folder / f"{size}.jsonl", size)
    return lambda: load_questions(folder / f"{size}.jsonl")


def batching(size, folder):
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(size)]
    tokenizer = letters()
    return lambda: batches(tokenizer, rows, 32)


def best(run):
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize(
    ("work", "size"), [(masks, 100_000), (rankings, 100_000), (loading, 1_000), (batching, 300)]
)
def test_growth_is_linear(work, size, tmp_path):
    small, large = (best(work(each, tmp_path)) for each in (size, TIMES * size))
    assert large < MOST * small, f"{small:.4f} s at {size}, {large:.4f} s at {TIMES * size}"


def test_the_bound_notices_a_square():
    def square(size):
        return lambda: [n for n in range(size) for _ in range(size)]

    assert best(square(8 * 200)) > MOST * best(square(200))


def test_the_70b_shape_has_its_channels():
    layout = channel_layout(llama_70b())
    a_layer = 2 * (8192 + 1024) + 3 * 8192 + 2 * 28672
    assert sum(layout.values()) == 80 * a_layer + 8192 * 2 + 128256
