import json

import pytest
import torch
from tiny_models import random_mask

from actlib.masks import ChannelMask
from actlib.merging import RULES, merge, merge_checkpoint


@pytest.fixture
def specialists(family, tmp_path):
    """`specialists(architecture, count, dtype)`: base and contributions, also under tmp_path."""

    def make(architecture="llama_tied", count=3, dtype=torch.float32, shard_size="1GB"):
        base = family(architecture, 0, dtype)
        base.save_pretrained(tmp_path / "base", max_shard_size=shard_size)
        contributions = []
        for seed in range(1, count + 1):
            donor = family(architecture, seed, dtype)
            donor.save_pretrained(tmp_path / f"donor{seed}", max_shard_size="9KB")
            contributions.append((donor, random_mask(base, 0.4, seed), 0.2 + 0.3 * seed))
        return base, contributions

    return make


def stored(tmp_path, contributions):
    return [
        (tmp_path / f"donor{i + 1}", mask, scale)
        for i, (_, mask, scale) in enumerate(contributions)
    ]


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("model*")}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("architecture", "dtype", "shard_size"),
    [
        ("llama_tied", torch.float32, "5KB"),
        ("gpt2", torch.bfloat16, "1GB"),
        ("mixtral", torch.bfloat16, "20KB"),
    ],
)
def test_same_bytes_and_report_as_in_memory(
    specialists, tmp_path, rule, architecture, dtype, shard_size
):
    base, contributions = specialists(architecture, 3, dtype, shard_size)
    expected = merge(base, contributions, rule)
    expected.model.save_pretrained(tmp_path / "memory", max_shard_size=shard_size)
    report = merge_checkpoint(
        tmp_path / "base", stored(tmp_path, contributions), tmp_path / "out", rule
    )
    assert report.folder == tmp_path / "out"
    assert (report.collisions, report.rule) == (expected.collisions, rule)
    assert report.union.digest == expected.union.digest
    assert weights(tmp_path / "out") == weights(tmp_path / "memory") != weights(tmp_path / "base")


def test_the_folder_says_what_was_merged(specialists, tmp_path):
    _, contributions = specialists("llama", 2)
    report = merge_checkpoint(tmp_path / "base", stored(tmp_path, contributions), tmp_path / "out")
    steps = json.loads((tmp_path / "out" / "actlib.json").read_text())
    note = steps[0]
    assert (note["method"], note["target"], note["collisions"]) == ("merge", "base", "sum")
    assert note["collided_channels"] == report.collisions > 0
    assert [each["donor"] for each in steps] == ["donor1", "donor2"]
    assert [each["mask_sha256"] for each in steps] == [mask.digest for _, mask, _ in contributions]
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


def test_refusals_write_nothing(specialists, tmp_path):
    _, contributions = specialists("llama", 2)
    places = stored(tmp_path, contributions)
    _, mask, _ = places[0]
    before = sorted(path.name for path in tmp_path.iterdir())
    cases = [
        (places, "first", "collision rule 'first' is none of sum"),
        ([], "sum", "no contribution"),
        ([*places, (tmp_path / "base", mask, 0.4)], "sum", "are the same folder"),
        ([*places, (places[0][0], ChannelMask({}), 0.4)], "sum", "the mask is of another"),
        ([*places, (places[0][0], mask, float("inf"))], "sum", "scale must be a finite"),
    ]
    for contributions, rule, message in cases:
        with pytest.raises(ValueError, match=message):
            merge_checkpoint(tmp_path / "base", contributions, tmp_path / "out", rule)
    with pytest.raises(ValueError, match="exists and is not empty"):
        merge_checkpoint(tmp_path / "base", places, tmp_path / "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
