"""Cards of trained models say what presets and kept tables say, and presets' text stays text."""

import pandas as pd
import pytest
import yaml

from actlib.study.presets import ROOT, load_preset
from actlib.study.trained_cards import kept_scores, trained_card, trained_models

MODELS = [
    (family, name) for family in ("smol", "tiny") for name in trained_models(load_preset(family))
]


@pytest.mark.parametrize(("family", "name"), MODELS)
def test_a_card_tells_how_its_model_was_made_and_what_it_scores(family, name):
    preset = load_preset(family)
    spec, card = preset.models[name], trained_card(preset, name)
    if hasattr(spec, "steps"):
        assert f"| steps | {spec.steps} |" in card
        assert f"| learning rate | {spec.learning_rate} |" in card
    if hasattr(spec, "start"):
        assert f"| start | {spec.start} |" in card
    table = pd.read_csv(ROOT / "figures" / family / "tab00_accuracies.csv")
    table = table.rename(columns={"cell": "ability"})
    for row in table[table["model"] == name].itertuples():
        assert f"| {row.ability}, {row.measure} | {row.mean:.3g} " in card.replace("&#91;", "[")


def test_the_metadata_hold_the_license():
    card = trained_card(load_preset("smol"), "multilingual", seed=2)
    front = yaml.safe_load(card.split("---\n", 2)[1])
    assert front["license"] == "apache-2.0"
    assert "\n# smol: multilingual, seed 2\n" in card
    assert "license" not in yaml.safe_load(
        trained_card(load_preset("tiny"), "base").split("---")[1]
    )


def test_a_changed_preset_is_not_given_the_measurements_of_the_shipped_one():
    preset = load_preset("tiny")
    longer = preset.models["maths"].model_copy(update={"steps": 121})
    other = preset.model_copy(update={"models": {**preset.models, "maths": longer}})
    assert kept_scores(other, "maths").empty and not kept_scores(preset, "maths").empty
    assert "Not among the kept measurements" in trained_card(other, "maths")


def test_a_presets_text_is_only_text():
    evil = "<script>alert(1)</script> [x](javascript:alert(2)) <img src=x onerror=alert(3)>"
    card = trained_card(load_preset("tiny").model_copy(update={"description": evil}), "base")
    assert "<script" not in card and "<img" not in card and "[x]" not in card
