"""What is kept of a donor comes back as it was, and only to whom it belongs."""

import pytest
import torch

from actlib.channels import channel_modules
from actlib.experts import Routed
from actlib.hooks import evaluating
from actlib.kept_activations import KeptActivations
from actlib.parallel import Share
from actlib.passes import held_activations, parts


@pytest.fixture
def kept(family, batches, tmp_path):
    """`kept(name, dtype)`: what is kept of one part, the part, its donor, and what that gave."""

    def keep(name, dtype=torch.float32):
        donor, part = family(name, dtype=dtype), next(parts(batches, 100, Share()))
        found = KeptActivations(tmp_path / "kept")
        found.begin(donor)
        with evaluating(donor):
            held = held_activations(donor, channel_modules(donor), part)
        found.write(part, held)
        return found, part, donor, held

    return keep


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_call_comes_back_bit_by_bit_and_then_nothing(kept, name, dtype):
    found, part, donor, held = kept(name, dtype)
    modules = channel_modules(donor)
    assert held.keys() == modules.keys()
    with found.opened(part, modules) as take:
        for module, calls in held.items():
            for ours in calls:
                theirs = take(module)
                if isinstance(ours, Routed):
                    assert (ours.count, ours.total) == (theirs.count, theirs.total)
                    pairs = zip(
                        (ours.tokens, ours.experts), (theirs.tokens, theirs.experts), strict=True
                    )
                    assert all(torch.equal(*each) for each in pairs)
                    ours, theirs = ours.values, theirs.values
                assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
            assert take(module) is None


def test_other_items_are_not_taken_for_these(kept, items, collate):
    found, part, donor, _ = kept("llama")
    assert found.has(part)
    other = next(parts(collate(items[::-1], 6), 100, Share()))
    assert other.number == part.number and not found.has(other)
    with pytest.raises(ValueError, match="record anew"), found.opened(other, {}):
        pass


def test_a_file_that_was_cut_off_is_not_there(kept):
    found, part, *_ = kept("llama")
    (path,) = found.folder.glob("part-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert not found.has(part)


def test_the_folder_is_one_donors(kept, family):
    found, _, donor, _ = kept("llama")
    assert found.begin(donor)["architecture"] == "LlamaForCausalLM"
    for other in (family("llama", seed=1), family("qwen2")):
        with pytest.raises(ValueError, match="holds activations of another donor"):
            found.begin(other)


def test_removing_leaves_what_is_anothers(kept):
    found, part, donor, _ = kept("llama")
    (found.folder / "own.txt").write_text("mine")
    found.remove()
    assert [path.name for path in found.folder.iterdir()] == ["own.txt"]
    assert found.note() is None and not found.has(part)
    (found.folder / "own.txt").unlink()
    found.remove()
    assert not found.folder.exists()
