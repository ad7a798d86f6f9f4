"""Cards say what was done, keep the target's terms, and show the text of others as text."""

import json

import pytest
import torch
import yaml

from actlib.cards import describe_step, read_steps, write_card
from actlib.loading import public_name
from actlib.masks import ChannelMask
from actlib.study.presets import load_preset
from actlib.study.trained_cards import trained_card

OWN = """---
license: apache-2.0
language: [de, en]
pipeline_tag: text-generation
datasets: [secret/data]
---
# The target

Use it well.
"""
EVIL = "<script>alert(1)</script> [x](javascript:alert(2)) | `a` \n\n# big --- {title} {{ 1 + 1 }}"


def mask(**metadata):
    return ChannelMask({"norm": torch.tensor([True, False, False, False])}, metadata)


def step(target="someone/target", donor="someone/donor", **metadata):
    return describe_step("transfer", target, donor, mask(**metadata), 0.25)


def written(folder, *steps):
    """The card of a folder after these steps."""
    write_card(folder, [*read_steps(folder), *steps])
    return (folder / "README.md").read_text()


def front(card):
    return yaml.safe_load(card.split("---\n", 2)[1])


def test_the_card_and_the_list_of_steps_say_what_was_done(tmp_path):
    card = written(tmp_path, step(ranking="module", ability="maths"))
    assert front(card)["base_model"] == ["someone/target", "someone/donor"]
    assert front(card)["library_name"] == "transformers" and "license" not in front(card)
    for part in ("someone/donor", "1 (25 %)", "0.25", "module", "maths", mask().digest):
        assert f"| {part} |" in card
    (noted,) = json.loads((tmp_path / "actlib.json").read_text())
    assert noted["mask_sha256"] == mask().digest and "torch" in noted["created_with"]
    later = written(tmp_path, step(ranking="scaled"))
    assert 0 < later.index("| module |") < later.index("| scaled |")


def test_a_local_folder_has_no_path_and_is_no_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "target").mkdir(parents=True)
    card = written(tmp_path, step("models/target", tmp_path / "models" / "target"))
    assert "base_model" not in front(card) and public_name("models/target") == "target"
    assert str(tmp_path) not in card + (tmp_path / "actlib.json").read_text()
    cached = tmp_path / "models--org--name" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    assert public_name(cached) == "org/name"  # of the Hub's cache


def test_the_targets_card_is_kept_beside_and_comes_back(tmp_path):
    (tmp_path / "README.md").write_text(OWN)
    card = written(tmp_path, step())
    assert (front(card)["license"], front(card)["language"]) == ("apache-2.0", ["de", "en"])
    assert front(card)["pipeline_tag"] == "text-generation" and "datasets" not in front(card)
    assert "README.target.md" in card and "Use it well" not in card
    assert front(written(tmp_path, step()))["license"] == "apache-2.0"
    assert (tmp_path / "README.target.md").read_text() == OWN
    write_card(tmp_path, [])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": OWN}


@pytest.mark.parametrize("own", ["nothing", "---\nlicense: [\n---\n", "---\n- a\n---\n"])
def test_a_card_that_states_nothing_readable_carries_nothing(tmp_path, own):
    (tmp_path / "README.md").write_text(own)
    assert "license" not in front(written(tmp_path, step()))
    assert (tmp_path / "README.target.md").read_text() == own


def test_text_of_others_stays_text(tmp_path):
    card = written(tmp_path, step(EVIL, EVIL, ranking=EVIL, ability="<!-- "))
    assert "<script" not in card and "](javascript" not in card and "\n# big" not in card
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert card.count("<!--") == 1 and len({row.count("|") for row in table}) == 1


def test_the_card_of_a_trained_model_states_the_license_of_what_it_starts_from():
    card = trained_card(load_preset("smol"), "multilingual", seed=2)
    assert front(card)["license"] == "apache-2.0"
    assert ", seed 2\n" in card and "training seed: 2\n" in card and "training seeds" not in card
    every = trained_card(load_preset("tiny"), "multilingual_again")
    assert "training seeds:\n    - 1000\n    - 1001\n" in every and "training seed:" not in every
    card = trained_card(load_preset("tiny").model_copy(update={"description": EVIL}), "base")
    assert "license" not in front(card)
    assert "<script" not in card and "](javascript" not in card
