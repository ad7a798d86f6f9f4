"""Cards of trained models say what presets say, and presets' text stays text."""

import pytest
import yaml

from actlib.study.presets import load_preset
from actlib.study.trained_cards import trained_card

MODELS = [(family, name) for family in ("smol", "tiny") for name in load_preset(family).models]


@pytest.mark.parametrize(("family", "name"), MODELS)
def test_a_card_tells_how_its_model_was_made(family, name):
    preset = load_preset(family)
    spec, card = preset.models[name], trained_card(preset, name)
    if hasattr(spec, "steps"):
        assert f"| steps | {spec.steps} |" in card
        assert f"| learning rate | {spec.learning_rate} |" in card
    if hasattr(spec, "start"):
        assert f"| start | {spec.start} |" in card


def test_the_metadata_hold_the_license():
    card = trained_card(load_preset("smol"), "multilingual", seed=2)
    front = yaml.safe_load(card.split("---\n", 2)[1])
    assert front["license"] == "apache-2.0"
    assert "\n# smol: multilingual, seed 2\n" in card
    assert "license" not in yaml.safe_load(
        trained_card(load_preset("tiny"), "base").split("---")[1]
    )


def test_a_presets_text_is_only_text():
    evil = "<script>alert(1)</script> [x](javascript:alert(2)) <img src=x onerror=alert(3)>"
    card = trained_card(load_preset("tiny").model_copy(update={"description": evil}), "base")
    assert "<script" not in card and "<img" not in card and "[x]" not in card
