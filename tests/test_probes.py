"""Probes tell labels off channels where there is something to tell, and only there."""

import numpy as np
import pytest

from actlib.study import probes


def test_probes_read_labels_off_channels_against_chance(study, models, scores):
    found = probes.probe_accuracies(study, models[1], scores, [2, 16], draws=2)
    assert found[["accuracy", "low", "high", "chance"]].stack().between(0, 1).all()
    assert ((found["low"] <= found["accuracy"]) & (found["accuracy"] <= found["high"])).all()
    chances = found.groupby("label")["chance"].first().to_dict()
    # Two French cells and one English, two of maths and one of science, 12 items each.
    expected = {"ability": 1 / 3, "language": 2 / 3, "domain": 2 / 3}
    assert chances == pytest.approx(expected)
    assert set(zip(found["method"], found["draw"], strict=True)) == {
        *[("act_global", 0), ("random_uniform", 0), ("random_uniform", 1)]
    }
    assert len(found) == 3 * 3 * 2
    ability = found[(found["label"] == "ability") & (found["channels"] == 16)]
    assert (ability["accuracy"] > 0.5).all()  # their words differ, so even random channels tell


def test_a_label_that_is_the_ability_by_another_name_is_not_asked():
    told = probes._labels(np.array(["de-maths", "en-maths", "de-maths"]))
    assert list(told) == ["ability"]
    told = probes._labels(np.array(["de-maths", "en-maths", "en-science"]))
    assert {name: list(wanted) for name, wanted in told.items()} == {
        "ability": ["de-maths", "en-maths", "en-science"],
        "language": ["de", "en", "en"],
        "domain": ["maths", "maths", "science"],
    }


def test_probes_of_labels_that_say_nothing_find_nothing():
    rng = np.random.default_rng(0)
    features, wanted = rng.normal(size=(120, 4)), np.repeat(["x", "y"], 60)
    assert abs(probes._cross_validated(features, wanted).mean() - 0.5) < 0.2
    features[:60, 1] += 4
    assert probes._cross_validated(features, wanted).mean() > 0.95


def test_the_channels_that_are_probed_are_the_highest_scores(study, models, scores, monkeypatch):
    seen, original = [], probes.record_activations

    def note(model, batches, mask):
        seen.append(mask)
        return original(model, batches, mask)

    monkeypatch.setattr(probes, "record_activations", note)
    probes.probe_accuracies(study, models[1], scores, [5], draws=1)
    total = scores.top(100).count
    best = scores.top(100 * 5.5 / total)
    assert best.count == 5
    assert all((best - mask).count == 0 for mask in seen)
    assert all(mask.count <= 10 for mask in seen)
