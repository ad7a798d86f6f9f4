import gc
import weakref

import pytest
import torch

import actlib.two_passes
from actlib.recording import record_differences
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
    expected = record_differences(donor, target, batches, metadata={"a": "b"}, moments=True)
    loaders, options = map(loads, (donor, target)), {"metadata": {"a": "b"}, "moments": True}
    scores = record_differences_in_two_passes(*loaders, batches, tmp_path / "kept", **options)
    assert_same_bits(scores, expected)
    assert not list((tmp_path / "kept").iterdir())


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
def stored(pair, batches, loads, tmp_path):
    """Donor, target, and a folder with the donor's activations of both batches."""
    donor, target = pair()
    record_differences_in_two_passes(loads(donor), loads(target), batches, tmp_path, keep=True)
    return donor, target, tmp_path


def count_forwards(model):
    counts = []
    model.register_forward_pre_hook(lambda *_: counts.append(1))
    return counts


def test_an_interrupted_first_pass_goes_on(stored, batches, loads):
    donor, target, folder = stored
    next(folder.iterdir()).unlink()
    forwards = count_forwards(donor)
    scores = record_differences_in_two_passes(loads(donor), loads(target), batches, folder)
    assert len(forwards) == 1 and not list(folder.glob("*"))
    assert_same_bits(scores, record_differences(donor, target, batches))


def test_what_is_stored_serves_another_target_of_the_donor(stored, batches, loads):
    donor, target, folder = stored
    next(iter(target.parameters())).data += 1
    expected = record_differences(donor, target, batches)
    forwards = count_forwards(donor)
    again = record_differences_in_two_passes(loads(donor), loads(target), batches, folder)
    assert not forwards
    assert_same_bits(again, expected)


@pytest.mark.parametrize("changed", ["donor", "data", "marks", "code"])
def test_nothing_is_taken_that_depends_on_something_else(
    stored, batches, loads, monkeypatch, changed
):
    donor, target, folder = stored
    if changed == "donor":  # one weight of many, as a transfer changes few rows
        with torch.no_grad():
            donor.model.layers[1].mlp.up_proj.weight[2, 3] += 0.5
    if changed == "data":
        batches[0]["input_ids"][0, -1] ^= 1
    if changed == "marks":
        batches[0]["answer_mask"][1, 1:] = 1
    if changed == "code":
        monkeypatch.setattr(actlib.two_passes, "CODE", actlib.two_passes.CODE[1:])
    forwards = count_forwards(donor)
    scores = record_differences_in_two_passes(loads(donor), loads(target), batches, folder)
    assert len(forwards) == (2 if changed in ("donor", "code") else 1)
    assert_same_bits(scores, record_differences(donor, target, batches))


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
