import json

import pytest
import torch
import yaml

from actlib.channels import channel_modules
from actlib.folders.cards import patch_card, write_card
from actlib.folders.checkpoints import transfer_checkpoint
from actlib.folders.patches import apply_patch, inspect_patch, make_patch, revert_patch
from actlib.masks import ChannelMask

OWN = """---
license: apache-2.0
language: [de, en]
pipeline_tag: text-generation
datasets: [secret/data]
---
# The target

Use it well.
"""


@pytest.fixture
def folders(pair, tmp_path):
    """Donor and target under tmp_path; gives a mask made of the target."""
    donor, target = pair("llama")
    donor.save_pretrained(tmp_path / "donor")
    target.save_pretrained(tmp_path / "target")
    found = channel_modules(target).items()
    return {name: torch.arange(each.channels) % 7 == 0 for name, each in found}


def transferred(tmp_path, channels, metadata=None, output="out", target="target"):
    mask = ChannelMask(channels, metadata or {})
    transfer_checkpoint(tmp_path / target, tmp_path / "donor", mask, tmp_path / output, 0.25)
    return (tmp_path / output / "README.md").read_text(), mask


def metadata_of(card):
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)


def test_the_card_says_what_was_done(folders, tmp_path):
    card, mask = transferred(tmp_path, folders, {"ranking": "module", "ability": "maths"})
    told = metadata_of(card)
    assert told["base_model"] == ["target", "donor"] and told["library_name"] == "transformers"
    assert "license" not in told
    row = next(line for line in card.splitlines() if line.startswith("| transfer"))
    for part in ("donor", "0.25", "module", "maths", mask.digest, str(mask.count)):
        assert part in row
    assert f"{mask.percent:.3g} %" in row and "torch" in card
    assert str(tmp_path) not in card
    note = json.loads((tmp_path / "out" / "act_transfer.json").read_text())
    assert (note["ranking"], note["ability"], note["method"]) == ("module", "maths", "transfer")
    assert str(tmp_path) not in json.dumps(note)


def test_the_targets_card_is_kept_beside_and_its_license_carried(folders, tmp_path):
    (tmp_path / "target" / "README.md").write_text(OWN)
    card, _ = transferred(tmp_path, folders)
    told = metadata_of(card)
    assert (told["license"], told["language"]) == ("apache-2.0", ["de", "en"])
    assert told["pipeline_tag"] == "text-generation" and "datasets" not in told
    assert (tmp_path / "out" / "README.target.md").read_text() == OWN
    assert "README.target.md" in card and "Use it well" not in card


@pytest.mark.parametrize(
    "own",
    [
        "no metadata at all",
        "---\nlicense: [\n---\n",
        "---\n- a\n---\n",
        "---\nlicense: {a: b}\n---\n",
    ],
)
def test_a_card_that_states_nothing_readable_carries_nothing(folders, tmp_path, own):
    (tmp_path / "target" / "README.md").write_text(own)
    card, _ = transferred(tmp_path, folders)
    assert "license" not in metadata_of(card)
    assert (tmp_path / "out" / "README.target.md").read_text() == own


def test_text_from_metadata_stays_text(folders, tmp_path):
    evil = "<script>alert(1)</script> [x](javascript:alert(2)) | `a` \n\n# big --- {title}"
    card, _ = transferred(tmp_path, folders, {"ranking": evil, "ability": "<!-- "})
    assert "<script" not in card and "](javascript" not in card and "\n# big" not in card
    assert card.count("<!--") == 1
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1 and len(rows) == 3


def test_a_second_transfer_tells_of_the_first(folders, tmp_path):
    (tmp_path / "target" / "README.md").write_text(OWN)
    transferred(tmp_path, folders, {"ranking": "module"}, "middle")
    card, _ = transferred(tmp_path, folders, {"ranking": "scaled"}, "out", "middle")
    rows = [line for line in card.splitlines() if line.startswith("| transfer")]
    assert ["module" in row for row in rows] == [True, False]
    assert metadata_of(card)["license"] == "apache-2.0"
    assert (tmp_path / "out" / "README.target.md").read_text() == OWN
    note = json.loads((tmp_path / "out" / "act_transfer.json").read_text())
    assert note["target"] == "middle" and [each["target"] for each in note["earlier"]] == ["target"]


def test_paths_in_older_notes_are_not_passed_on(folders, tmp_path):
    note = {"donor": "/home/me/models/secret", "target": "org/model", "scale": 0.4}
    (tmp_path / "target" / "act_transfer.json").write_text(json.dumps(note))
    card, _ = transferred(tmp_path, folders)
    assert "/home/me" not in card + (tmp_path / "out" / "act_transfer.json").read_text()
    assert "org/model" in metadata_of(card)["base_model"]


@pytest.mark.parametrize("text", ["{", "[]", '{"earlier": 3}'])
def test_a_broken_note_is_one_sentence_and_nothing_is_written(folders, tmp_path, text):
    (tmp_path / "target" / "act_transfer.json").write_text(text)
    with pytest.raises(ValueError, match=r"act_transfer.json is not"):
        transferred(tmp_path, folders)
    assert {path.name for path in tmp_path.iterdir()} == {"donor", "target"}


@pytest.mark.parametrize("own", [OWN, None])
def test_a_reverted_patch_gives_the_targets_card_back(folders, tmp_path, own):
    if own:
        (tmp_path / "target" / "README.md").write_text(own)
    mask, path = ChannelMask(folders, {"ability": "maths"}), tmp_path / "patch"
    make_patch(tmp_path / "target", tmp_path / "donor", mask, path)
    apply_patch(tmp_path / "target", path, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| patch"))
    assert mask.digest in row and "maths" in row and "0.4" in row
    assert metadata_of(card).get("license") == ("apache-2.0" if own else None)
    revert_patch(tmp_path / "out", path, tmp_path / "back")
    names = [{each.name for each in (tmp_path / part).iterdir()} for part in ("target", "back")]
    assert names[0] == names[1]
    assert own is None or (tmp_path / "back" / "README.md").read_text() == own


def test_a_patch_on_a_transferred_model_reverts_to_its_card(folders, tmp_path):
    card, _ = transferred(tmp_path, folders)
    other = {name: chosen.roll(1) for name, chosen in folders.items()}
    path = tmp_path / "patch"
    make_patch(tmp_path / "out", tmp_path / "donor", ChannelMask(other), path)
    apply_patch(tmp_path / "out", path, tmp_path / "both")
    both = (tmp_path / "both" / "README.md").read_text()
    assert "| transfer" in both and "| patch" in both
    revert_patch(tmp_path / "both", path, tmp_path / "back")
    assert (tmp_path / "back" / "README.md").read_text() == card


@pytest.mark.parametrize("reversible", [True, False])
def test_the_card_of_a_patch_says_what_it_is_and_acts_on_nothing(folders, tmp_path, reversible):
    mask, path = ChannelMask(folders, {"ability": "<b>maths</b>"}), tmp_path / "patch"
    told = {"target": "someone/target", "donor": "someone/donor"}
    options = {"scale": 0.25, "metadata": told, "reversible": reversible}
    info = make_patch(tmp_path / "target", tmp_path / "donor", mask, path, **options)
    card = patch_card(inspect_patch(path))
    assert metadata_of(card)["base_model"] == ["someone/target", "someone/donor"]
    row = next(line for line in card.splitlines() if line.startswith("| parameters"))
    assert f"{info.elements:,}" in row and f"{info.parameter_percent:.3g} %" in row
    assert mask.digest in card and "0.25" in card and "<b>" not in card
    assert ("patch revert" in card) == reversible


def test_a_folder_without_notes_keeps_its_card(tmp_path):
    (tmp_path / "README.md").write_text(OWN)
    write_card(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == OWN
