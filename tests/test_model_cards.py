"""Cards say what presets and kept tables say, and no text of a preset acts as HTML or Markdown."""

import pandas as pd
import pytest
import yaml

from actlib.study.model_cards import kept_measures, produced, published_card, write_card
from actlib.study.presets import ROOT, load_preset

FAMILIES = ("smol", "tiny")
EACH = [(family, name) for family in FAMILIES for name in produced(load_preset(family))]


@pytest.mark.parametrize(("family", "name"), EACH)
def test_a_card_tells_how_its_model_was_made(family, name):
    preset = load_preset(family)
    spec, card = preset.models[name], published_card(preset, name)
    for head in ("How it was made", "Intended use", "Limits", "What it scores", "License"):
        assert f"\n## {head}\n" in card
    if hasattr(spec, "cells"):
        assert ", ".join(spec.cells) in card
        assert f"{spec.steps} of {spec.batch_size}" in card
        assert f"{spec.learning_rate:g}" in card
    if hasattr(spec, "start"):
        assert f"| starts from | {spec.start} |" in card


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_kept_table(family):
    table = pd.read_csv(ROOT / "figures" / family / "tab00_accuracies.csv")
    preset = load_preset(family)
    for name in produced(preset):
        card, rows = published_card(preset, name), table[table["model"] == name]
        told = [line for line in card.splitlines() if line.endswith("|") and " to " in line]
        assert len(told) == len(rows)
        for row in rows.itertuples():
            assert any(f"| {row.cell} |" in line and f"| {row.mean:.3g} |" in line for line in told)


def test_what_starts_from_smollm_has_its_license_and_what_starts_from_nothing_has_none():
    assert "Apache-2.0, the license of SmolLM2-135M-Instruct" in published_card(
        load_preset("smol"), "forgetful"
    )
    assert "None of its own" in published_card(load_preset("tiny"), "forgetful")


def test_a_changed_preset_is_not_given_the_measurements_of_the_shipped_one():
    preset = load_preset("tiny")
    longer = preset.models["maths"].model_copy(update={"steps": 121})
    other = preset.model_copy(update={"models": {**preset.models, "maths": longer}})
    assert not kept_measures(preset, "maths").empty
    assert kept_measures(other, "maths").empty
    assert "Not among the kept measurements" in published_card(other, "maths")


def test_a_presets_text_is_only_text():
    evil = "<script>alert(1)</script> [x](javascript:alert(2)) <img src=x onerror=alert(3)>"
    preset = load_preset("tiny").model_copy(update={"description": evil})
    card = published_card(preset, "base")
    assert "<script" not in card and "<img" not in card and "[x]" not in card.replace(r"\[", "")


def test_the_card_in_a_models_folder_opens_with_what_hubs_read(tmp_path):
    write_card(tmp_path, load_preset("smol"), "multilingual", seed=2)
    _, head, text = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["license"] == "apache-2.0" and front["language"] == ["en", "fr", "de"]
    assert text.startswith("# smol: multilingual, seed 2\n")
