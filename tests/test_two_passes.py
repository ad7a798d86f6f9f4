import gc
import weakref

import pytest
import torch
from tiny_models import same_bits

from actlib.recording import record_differences
from actlib.two_passes import record_differences_in_two_passes


@pytest.mark.parametrize(("name", "dtype"), [("gpt2", torch.float32), ("mixtral", torch.bfloat16)])
def test_two_passes_have_the_bits_of_one(pair, batches, tmp_path, name, dtype):
    donor, target = pair(name, dtype)
    donor.config.tie_word_embeddings = True  # though mixtral's is not
    expected = record_differences(donor, target, batches, metadata={"a": "b"}, moments=True)
    folder = tmp_path / "kept"
    scores = record_differences_in_two_passes(
        lambda: torch.nn.DataParallel(donor),
        lambda: target,
        iter(batches),
        folder,
        metadata={"a": "b"},
        moments=True,
    )
    assert scores.metadata == expected.metadata and scores.tokens == expected.tokens
    for part in ("values", "magnitudes", "means", "stds"):
        assert same_bits(getattr(scores, part), getattr(expected, part)), part
    assert not list(folder.iterdir())


def test_the_donor_is_gone_before_the_target_comes(pair, batches, tmp_path):
    models = list(pair())
    seen = weakref.ref(models[0])

    def load_target():
        gc.collect()
        assert seen() is None
        return models.pop()

    record_differences_in_two_passes(lambda: models.pop(0), load_target, batches, tmp_path)


def test_places_are_loaded_and_checked_before_any_work(pair, family, batches, tmp_path):
    for model, place in zip((*pair(), family("llama")), "abc", strict=True):
        model.save_pretrained(tmp_path / place)
    found = record_differences_in_two_passes(
        tmp_path / "a", str(tmp_path / "b"), batches, tmp_path / "kept"
    )
    assert same_bits(found.values, record_differences(*pair(), batches).values)
    assert found.metadata["donor"] == "a"
    for other in (tmp_path / "c", lambda: family("llama")):
        with pytest.raises(ValueError, match="do not fit: architecture Qwen2ForCausalLM against"):
            record_differences_in_two_passes(tmp_path / "a", other, batches, tmp_path / "other")
        assert not (tmp_path / "other").exists() or callable(other)
    with pytest.raises(ValueError, match="need models of transformers, got Linear"):
        record_differences_in_two_passes(lambda: torch.nn.Linear(2, 2), "none", batches, tmp_path)
    with pytest.raises(ValueError, match="metadata"):  # before a place is looked at
        record_differences_in_two_passes("none", "none", batches, "none", metadata={"step": 3})
