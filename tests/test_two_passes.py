import gc
import weakref

import pytest
import torch

from actlib.recording import record_differences
from actlib.two_passes import record_differences_in_two_passes

PARTS = ("values", "magnitudes", "means", "stds")


def assert_same_bits(found, expected):
    assert found.metadata == expected.metadata and found.tokens == expected.tokens
    for part in PARTS:
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "mixtral", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_passes_have_the_bits_of_one(pair, batches, tmp_path, name, dtype):
    donor, target = pair(name, dtype)
    expected = record_differences(donor, target, batches, metadata={"a": "b"}, moments=True)
    scores = record_differences_in_two_passes(
        lambda: donor,
        lambda: target,
        batches,
        tmp_path / "kept",
        metadata={"a": "b"},
        moments=True,
    )
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


def test_models_that_do_not_fit_are_refused(pair, family, batches, tmp_path):
    donor, _ = pair()
    with pytest.raises(ValueError, match="do not fit: architecture Qwen2"):
        record_differences_in_two_passes(lambda: donor, lambda: family("llama"), batches, tmp_path)


def test_vocabularies_of_two_sizes_are_refused_until_the_larger_is_cut(pair, batches, tmp_path):
    donor, target = pair()
    donor.resize_token_embeddings(64, mean_resizing=False)
    places = [tmp_path / "donor", tmp_path / "target"]
    for place, model in zip(places, (donor, target), strict=True):
        model.save_pretrained(place)
    with pytest.raises(ValueError, match="two passes .* cut the larger .* resize_token_embeddings"):
        record_differences_in_two_passes(*places, batches, tmp_path)
    donor.resize_token_embeddings(61, mean_resizing=False)
    donor.save_pretrained(places[0])
    assert record_differences_in_two_passes(*places, batches, tmp_path).tokens


def test_batches_may_come_from_a_generator(pair, batches, tmp_path):
    donor, target = pair()
    found = record_differences_in_two_passes(lambda: donor, lambda: target, iter(batches), tmp_path)
    expected = record_differences(donor, target, batches)
    for name, values in expected.values.items():
        assert torch.equal(found.values[name], values)
