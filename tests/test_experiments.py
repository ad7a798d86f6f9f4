"""Measurements: controls are fair, models come out as they went in, known recoveries are found."""

import numpy as np
import pandas as pd
import pytest

from actlib.controls import choices
from actlib.study import experiments


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(model, before):
    return all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_transfers_judge_and_leave_the_target_bit_for_bit(study, models, scores):
    donor, target = models
    before = bits(donor), bits(target)
    moves = [
        ({"method": "none", "draw": 0}, scores.top(5), 0.0),
        ({"method": "act_global", "draw": 0}, scores.top(5), 0.4),
        ({"method": "all_rows", "draw": 0}, choices.everything(scores), 1.0),
    ]
    rows = experiments.transfers(study, models, moves, study.cells, "test")
    assert same_bits(donor, before[0]) and same_bits(target, before[1])
    ends = experiments.ends(study, models, study.cells, "test")
    nll = pd.concat([rows, ends]).pivot(index="item", columns="method", values="nll")
    assert nll["none"].equals(nll["target"])
    np.testing.assert_allclose(nll["all_rows"], nll["donor"], atol=1e-4)
    assert (nll["act_global"] != nll["target"]).any()
    assert len(nll) == study.preset.evaluation.test_items * len(study.cells)


def test_the_target_comes_back_after_an_error(study, models, scores):
    before = bits(models[1])
    moves = [({"method": "all_rows"}, choices.everything(scores), 1.0)]
    with pytest.raises(ValueError, match="unknown purpose"):
        experiments.transfers(study, models, moves, study.cells, "play")
    assert same_bits(models[1], before)


@pytest.fixture
def sft(study):
    """`sft(start, steps, **labels)`: a light fine-tuning of the small target."""
    settings = study.preset.grids.sft

    def make(start, steps=(0, 1, 2), **labels):
        return experiments.light_sft(study, 0, start, settings, steps, **labels)

    return make


def test_every_arm_of_light_sft_sees_the_same_items(study, scores, sft, monkeypatch):
    seen, original = [], experiments.finetune

    def note(model, tokenizer, items, **settings):
        seen.append(([item["id"] for item in items], settings["seed"]))
        return original(model, tokenizer, items, **settings)

    monkeypatch.setattr(experiments, "finetune", note)
    bare = sft(None, method="sft_only", seed=0)
    moved = sft((scores.top(20), 1.0), method="act_sft", seed=0)
    assert seen[0] == seen[1]
    settings = study.preset.grids.sft
    assert len(seen[0][0]) == settings.steps * settings.batch_size
    tested = {row["id"] for cell in study.cells for row in study.items(cell)}
    assert not tested & set(seen[0][0])
    assert bare["steps"].unique().tolist() == moved["steps"].unique().tolist() == [0, 1, 2]
    assert bare.groupby("steps")["item"].nunique().eq(len(bare) / 3).all()
    assert set(moved["method"]) == {"act_sft"} and set(moved["cell"]) == set(study.cells)


def test_light_sft_starts_from_the_transfer_and_goes_down(study, models, scores, sft):
    mask = choices.everything(scores)
    ends = experiments.ends(study, models, study.cells, "test").set_index("item")
    for start, method in ((None, "target"), ((mask, 1.0), "donor")):
        rows = sft(start, method=method)
        first = rows[rows["steps"] == 0].set_index("item")["nll"]
        expected = ends[ends["method"] == method]["nll"]
        np.testing.assert_allclose(first, expected[first.index], atol=1e-4)
        means = rows.groupby("steps")["nll"].mean()
        assert means[2] < means[0]


def test_light_sft_leaves_the_family_s_files_alone(study, sft):
    paths = [study.folder(name) / "model.safetensors" for name in study.preset.models]
    before = [path.read_bytes() for path in paths]
    sft(None, (0, 1), method="sft_only")
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("rule", ["sum", "average", "largest"])
def test_a_merge_is_made_for_a_while(study, scores, rule):
    base = study.model("base")
    before = bits(base)
    parts = [
        (study.model("multilingual"), scores.top(20), 0.7),
        (study.model("maths"), study.scores("en-maths", donor="maths", target="base").top(20), 0.7),
    ]
    with experiments.merged(base, parts, rule) as model:
        assert not same_bits(model, before)
        inside = study.judge(model, study.retained, "validation")
    assert same_bits(base, before)
    outside = study.judge(base, study.retained, "validation")
    assert not inside["nll"].equals(outside["nll"])
    with pytest.raises(RuntimeError), experiments.merged(base, parts, rule):
        raise RuntimeError("stopped")
    assert same_bits(base, before)
    with pytest.raises(ValueError, match="unknown collision rule"):
        with experiments.merged(base, parts, "vote"):
            pass
    assert same_bits(base, before)


def test_task_arithmetic_over_one_donor_with_all_rows_is_the_donor(study, scores):
    base, donor = study.model("base"), study.model("donor")
    parts = [(donor, choices.everything(scores), 1.0)]
    with experiments.merged(base, parts) as model:
        merged = study.judge(model, study.lost, "validation")
    expected = study.judge(donor, study.lost, "validation")
    np.testing.assert_allclose(merged["nll"], expected["nll"], atol=1e-4)
