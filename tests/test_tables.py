"""Tables of results: known recoveries are found, pairs are paired, the best trial is picked."""

import numpy as np
import pandas as pd
import pytest

from actlib.study import tables


@pytest.fixture
def synthetic():
    """`synthetic(method=..., shift=...)`: rows of one method whose NLL is the target's + shift."""
    rng = np.random.default_rng(0)
    cells = np.repeat(["fr-maths", "fr-science"], 12)
    first = pd.DataFrame({"cell": cells, "item": [f"{c}/{n}" for n, c in enumerate(cells)]})
    first["nll"] = rng.uniform(2, 3, size=24)

    def make(method, shift, **labels):
        nll = first["nll"] + shift
        return first.assign(nll=nll, exact=(nll < 2.5).astype(float), method=method, **labels)

    return make


def test_recovery_is_0_for_the_target_1_for_the_donor_and_linear_between(synthetic):
    rows = [synthetic("target", 0.0), synthetic("donor", -1.0), synthetic("none", 0.0)]
    rows += [synthetic("all", -1.0), synthetic("half", -0.5), synthetic("worse", 0.25)]
    table = tables.recovery_table(pd.concat(rows), ["method"]).set_index("method")
    for method, expected in {"none": 0, "all": 1, "half": 0.5, "worse": -0.25}.items():
        row = table.loc[method]
        assert row["recovery"] == pytest.approx(expected, abs=1e-9)
        assert row["low"] - 1e-9 <= expected <= row["high"] + 1e-9
        assert row["gap"] == pytest.approx(1) and row["gap_clear"]
        assert row["items"] == 24 and row["seeds"] == 1
    assert set(table.index) == {"none", "all", "half", "worse"}


def test_each_cell_has_its_own_gap(synthetic):
    rows = pd.concat([synthetic("target", 0.0), synthetic("donor", -1.0), synthetic("act", -0.5)])
    easy = (rows["method"] == "donor") & (rows["cell"] == "fr-maths")
    rows.loc[easy, "nll"] -= 1
    table = tables.recovery_table(rows, ["cell", "method"]).set_index("cell")
    assert table.loc["fr-maths", "recovery"] == pytest.approx(0.25)
    assert table.loc["fr-science", "recovery"] == pytest.approx(0.5)
    overall = tables.recovery_table(rows, ["method"])
    assert overall["recovery"][0] == pytest.approx(0.5 / 1.5)


def test_no_gap_no_recovery(synthetic):
    rng = np.random.default_rng(3)
    donor = synthetic("donor", rng.normal(0, 0.5, 24))
    rows = pd.concat([synthetic("target", 0.0), donor, synthetic("act", -0.5)])
    (row,) = tables.recovery_table(rows, ["method"]).to_dict("records")
    assert not row["gap_clear"] and np.isnan([row["recovery"], row["low"], row["high"]]).all()
    assert row["gap_low"] <= 0 <= row["gap_high"]


def test_draws_are_averaged_before_items_are_resampled(synthetic):
    draws = [synthetic("random", -shift, draw=n) for n, shift in enumerate((0.2, 0.6))]
    ends = [synthetic("target", 0.0), synthetic("donor", -1.0)]
    found = tables.scored(pd.concat(draws + ends), "nll")
    assert len(found) == 3 * 24
    table = tables.recovery_table(pd.concat(draws + ends), ["method"])
    assert table["recovery"][0] == pytest.approx(0.4)
    assert table["items"][0] == 24


def test_scores_are_higher_for_better_by_either_measure(synthetic):
    rows = synthetic("act", -0.5)
    nll, exact = (tables.scored(rows, measure) for measure in ("nll", "exact"))
    np.testing.assert_allclose(nll["score"], -rows["nll"])
    np.testing.assert_allclose(exact["score"], rows["exact"])
    assert "nll" not in nll and "exact" not in nll
    with pytest.raises(ValueError, match="'bleu'.*nll or exact"):
        tables.scored(rows, "bleu")


def test_differences_are_paired_and_above_zero_for_the_better(synthetic):
    rows = pd.concat([synthetic(m, s) for m, s in {"target": 0, "act": -0.3, "bad": 0.2}.items()])
    table = tables.difference_table(rows, ["cell"], "target").set_index(["cell", "method"])
    assert len(table) == 4
    for cell in ("fr-maths", "fr-science"):
        for method, expected in {"act": 0.3, "bad": -0.2}.items():
            # Items differ by up to 1, methods by a constant: paired, nothing is left to chance.
            found = table.loc[(cell, method)]
            assert found.tolist() == pytest.approx([expected] * 3)


def test_trials_are_compared_on_lost_and_retained_alike(study, synthetic):
    lost, kept = study.lost[0], study.retained[0]
    frames = []
    for scale, gains in {0.4: (0.2, 0.0), 1.0: (1.0, -2.0)}.items():
        for cell, gain in zip((lost, kept), gains, strict=True):
            frames.append(synthetic("act", -gain, scale=scale).assign(cell=cell))
    trials = tables.trial_table(pd.concat(frames), study.lost, ["method", "scale"])
    table = trials.set_index("scale")
    assert table.loc[1.0, "recovered"] - table.loc[0.4, "recovered"] == pytest.approx(0.8)
    assert table.loc[1.0, "retained"] - table.loc[0.4, "retained"] == pytest.approx(-2)
    expected = (table["recovered"] + table["retained"]) / 2
    np.testing.assert_allclose(table["criterion"], expected)
    (best,) = tables.best_trials(trials).to_dict("records")
    assert best["scale"] == 0.4
