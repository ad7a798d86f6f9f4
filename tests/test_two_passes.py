import gc
import weakref

import pytest
import torch

import actlib.two_passes
from actlib.localize import record_differences
from actlib.passes import bytes_per_token
from actlib.two_passes import record_differences_in_two_passes

PARTS = ("values", "magnitudes", "means", "stds")


def assert_same_bits(found, expected):
    assert found.metadata == expected.metadata and found.tokens == expected.tokens
    for part in PARTS:
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part


@pytest.fixture
def loads():
    """`loads(model)`: a function that gives the model, and lists how often it was called."""

    def make(model):
        def load():
            load.calls += 1
            return model

        load.calls = 0
        return load

    return make


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "mixtral", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_passes_have_the_bits_of_one(pair, batches, loads, tmp_path, name, dtype):
    donor, target = pair(name, dtype)
    tokens = 4 * bytes_per_token(donor)  # so that batches are split
    expected = record_differences(donor, target, batches, metadata={"a": "b"}, held_bytes=tokens)
    found = record_differences_in_two_passes(
        *map(loads, (donor, target)),
        batches,
        tmp_path / "kept",
        metadata={"a": "b"},
        held_bytes=tokens,
    )
    assert_same_bits(found, expected)
    assert not (tmp_path / "kept").exists()


def test_the_donor_is_gone_before_the_target_comes(pair, batches, tmp_path):
    models = list(pair())
    seen = weakref.ref(models[0])
    expected = record_differences(*models, batches)

    def load_target():
        gc.collect()
        assert seen() is None
        return models.pop()

    found = record_differences_in_two_passes(lambda: models.pop(0), load_target, batches, tmp_path)
    assert_same_bits(found, expected)


def test_places_are_loaded_and_checked_before_any_work(pair, family, batches, tmp_path):
    for model, place in zip((*pair(), family("llama")), "abc", strict=True):
        model.save_pretrained(tmp_path / place)
    found = record_differences_in_two_passes(
        tmp_path / "a", str(tmp_path / "b"), batches, tmp_path / "kept"
    )
    expected = record_differences(*pair(), batches)
    assert all(torch.equal(found.values[name], expected.values[name]) for name in expected.values)
    assert found.metadata["donor"] == "a"
    with pytest.raises(ValueError, match="do not fit: architecture Qwen2ForCausalLM against Llama"):
        record_differences_in_two_passes(
            tmp_path / "a", tmp_path / "c", batches, tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()


@pytest.fixture
def interrupted(pair, batches, loads, tmp_path, monkeypatch):
    """Donor, target, folder after a first pass that was killed before its second file."""
    donor, target = pair()
    write = actlib.two_passes.KeptActivations.write

    def once(self, part, held):
        if part.number == 1:
            raise KeyboardInterrupt
        write(self, part, held)

    monkeypatch.setattr(actlib.two_passes.KeptActivations, "write", once)
    with pytest.raises(KeyboardInterrupt):
        record_differences_in_two_passes(loads(donor), loads(target), batches, tmp_path)
    monkeypatch.setattr(actlib.two_passes.KeptActivations, "write", write)
    return donor, target, tmp_path


def test_an_interrupted_first_pass_goes_on(interrupted, batches, loads, monkeypatch):
    donor, target, folder = interrupted
    ran = []
    held = actlib.two_passes.held_activations
    monkeypatch.setattr(
        actlib.two_passes,
        "held_activations",
        lambda model, modules, part: ran.append(part.number) or held(model, modules, part),
    )
    load = loads(donor)
    found = record_differences_in_two_passes(load, loads(target), batches, folder, keep=True)
    assert ran == [1] and load.calls == 1
    assert_same_bits(found, record_differences(donor, target, batches))
    # All is there now: another target needs no donor, other batches need their own files.
    again = record_differences_in_two_passes(load, loads(donor), batches, folder, keep=True)
    assert load.calls == 1 and ran == [1]
    assert all((values == 0).all() for values in again.values.values())
    record_differences_in_two_passes(load, loads(target), batches[::-1], folder)
    assert load.calls == 2 and ran == [1, 0, 1]


def test_another_donor_does_not_go_on(interrupted, batches, loads):
    donor, target, folder = interrupted
    with pytest.raises(ValueError, match="activations of another donor .* empty it or name"):
        record_differences_in_two_passes(loads(target), loads(donor), batches, folder)


def test_a_disk_without_room_is_refused_before_anything_runs(
    pair, batches, loads, tmp_path, monkeypatch, capsys
):
    donor, target = pair()
    free = 15 * bytes_per_token(donor) - 1
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("actlib.two_passes.shutil.disk_usage", lambda _folder: usage)
    monkeypatch.setattr(actlib.two_passes, "held_activations", None)
    with pytest.raises(ValueError, match=r"need 0\.0 GB in .*, where 0\.0 GB are free; name"):
        record_differences_in_two_passes(
            loads(donor), loads(target), batches, tmp_path, progress=True
        )
    assert "the donor's activations take 0.0 GB" in capsys.readouterr().out


def test_models_that_do_not_fit_are_refused(pair, family, batches, loads, tmp_path):
    donor, _ = pair()
    wide = family()
    wide.resize_token_embeddings(70)
    for other, reason in (
        (family("llama"), "architecture Qwen2"),
        (wide, ".*vocabulary of 61 against"),
    ):
        with pytest.raises(ValueError, match=f"do not fit: {reason}"):
            record_differences_in_two_passes(loads(donor), loads(other), batches, tmp_path)


def test_batches_that_go_by_once_are_refused(pair, batches, loads, tmp_path):
    with pytest.raises(ValueError, match="gone through twice, such as a list"):
        record_differences_in_two_passes(*map(loads, pair()), iter(batches), tmp_path)
