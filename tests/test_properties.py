"""Whatever bytes, numbers or questions come in: a clean sentence, or a right result."""

import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_models import same_bits, tiny_model

from actlib.channels import channel_modules
from actlib.masks import ChannelMask
from actlib.patches import apply_patch, inspect_patch, make_patch
from actlib.questions import load_questions
from actlib.scores import ChannelScores
from actlib.stored import SINGLE, stored_tensors
from actlib.transfer import transfer_

# Derandomized, so that a run of continuous integration is no lottery.
CALM = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
damages = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True)),
    st.tuples(st.just("flip"), st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))),
    st.tuples(st.just("header"), st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def damaged(data, damage):
    """Cut bytes off, or flip a bit anywhere or in the header of a safetensors file."""
    kind, how = damage
    if kind == "cut":
        return data[: int(how * len(data))]
    place, bit = how
    size = 8 + int.from_bytes(data[:8], "little") if kind == "header" else len(data)
    changed = bytearray(data)
    changed[int(place * size)] ^= 1 << bit
    return bytes(changed)


def loaded(read):
    """What reading gives, or None where it refuses cleanly; anything else fails the test."""
    try:
        return read()
    except Exception as error:
        assert isinstance(error, ValueError | OSError) and str(error).strip(), repr(error)
        return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of a mask, of scores, of a patch and of a model, and the pair they belong to."""
    folder = tmp_path_factory.mktemp("whole")
    for name, seed in (("target", 0), ("donor", 1)):
        tiny_model("llama", seed).save_pretrained(folder / name)
    sizes = {n: each.channels for n, each in channel_modules(tiny_model("llama", 0)).items()}
    generator = torch.Generator().manual_seed(5)
    drawn = {name: torch.rand(size, generator=generator) for name, size in sizes.items()}
    ChannelScores(drawn, drawn, 7, {"ability": "fr"}).save(folder / "scores")
    ChannelScores.load(folder / "scores").top(20).save(folder / "mask")
    mask = ChannelMask.load(folder / "mask")
    make_patch(folder / "target", folder / "donor", mask, folder / "patch", scale=0.5)
    return folder


@CALM
@given(damage=damages)
@example(damage=("flip", (0.9999, 0)))
def test_a_damaged_mask_or_scores_file_is_refused_or_gives_what_was_saved(whole, tmp_path, damage):
    path = tmp_path / "file"
    path.write_bytes(damaged((whole / "mask").read_bytes(), damage))
    mask = loaded(lambda: ChannelMask.load(path))
    assert mask is None or same_bits(mask.channels, ChannelMask.load(whole / "mask").channels)
    path.write_bytes(damaged((whole / "scores").read_bytes(), damage))
    scores = loaded(lambda: ChannelScores.load(path))
    assert scores is None or same_bits(scores.values, ChannelScores.load(whole / "scores").values)


@CALM
@given(damage=damages)
def test_a_damaged_patch_is_refused_or_gives_the_moved_model(whole, tmp_path, family, damage):
    path = tmp_path / "file"
    path.write_bytes(damaged((whole / "patch").read_bytes(), damage))
    loaded(lambda: inspect_patch(path))
    model, target = family("llama", 0), family("llama", 0)
    done = loaded(lambda: apply_patch(model, path) or True)
    if done:
        transfer_(target, family("llama", 1), ChannelMask.load(whole / "mask"), 0.5)
    assert same_bits(model.state_dict(), target.state_dict())


@CALM
@given(header=st.one_of(st.binary(max_size=40), values.map(lambda v: json.dumps(v).encode())))
@example(header=b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}')
@example(header=b"[" * 100_000)
def test_any_header_is_refused_or_says_what_the_file_holds(tmp_path, header):
    path = tmp_path / SINGLE
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    found = loaded(lambda: stored_tensors(tmp_path)) or {}
    size = path.stat().st_size
    assert all(each.offset + each.size <= size for each in found.values())
    for read in (ChannelMask.load, ChannelScores.load, inspect_patch):
        assert loaded(lambda read=read: read(path)) is None


@CALM
@given(percent=st.floats(), other=st.floats(0, 100, exclude_min=True), seed=st.integers(0, 99))
@example(percent=0.0, other=1.0, seed=0)
@example(percent=100.0, other=29.0, seed=0)
@example(percent=5e-324, other=100.0, seed=1)
def test_any_percent_is_refused_or_gives_a_mask_of_that_size(percent, other, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.rand(size, generator=generator) for name, size in (("a", 37), ("b", 63))}
    scores = ChannelScores(drawn, drawn, 3)
    mask = loaded(lambda: scores.top(percent))
    assert (mask is None) == (not 0 < percent <= 100)
    for part, share in ((mask, percent), (scores.top(other), other)):
        if part is not None:
            assert part.count == max(1, math.floor(Fraction(str(share)) * 100 / 100))
    if mask is not None:
        small, large = sorted((mask, scores.top(other)), key=lambda each: each.count)
        assert (small - large).count == 0


texts = st.text(min_size=1, max_size=30).filter(lambda text: text.strip())


@CALM
@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_questions_come_back_as_they_were_written(tmp_path, pairs):
    path = tmp_path / "own.jsonl"
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    for ascii_only in (True, False):
        lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8", newline="")
        items = load_questions(path)
        assert [(row["question"], row["answer"]) for row in items] == pairs
