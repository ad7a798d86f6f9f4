"""What is read off sweeps: known effects are found, nothing is picked on test items."""

import numpy as np
import pandas as pd
import pytest

from actlib.study import evidence

LOST, RETAINED = ["fr-maths", "de-maths"], ["en-maths"]
CELLS = [*LOST, *RETAINED]


@pytest.fixture
def rows():
    """`rows(method, lost, retained, **labels)`: item rows with known mean NLL on either part.

    Two seeds, twenty items a cell and purpose; all methods share the items' own difficulty.
    """
    rng = np.random.default_rng(0)
    noise = {purpose: rng.normal(0, 0.3, size=(2, 3, 20)) for purpose in ("validation", "test")}

    def make(method, lost, retained, validation=0.0, **labels):
        found = [
            {
                "seed": seed,
                "purpose": purpose,
                "cell": cell,
                "item": f"{cell}/{n}",
                "cluster": f"{cell[-5:]} {n}",
                "nll": noise[purpose][seed, c, n]
                + (lost if cell in LOST else retained)
                + (validation if purpose == "validation" else 0),
                "exact": 0.0,
            }
            for purpose in noise
            for seed in (0, 1)
            for c, cell in enumerate(CELLS)
            for n in range(20)
        ]
        return pd.DataFrame(found).assign(method=method, **labels)

    return make


@pytest.fixture
def transfer(rows):
    """Donor 1 and 4, target 4 and 1 (lost and retained NLL); ACT half way, random a quarter."""
    moved = []
    for percent, part in ((5, 0.5), (50, 1.0)):
        here = {"top_percent": percent, "scale": 1.0, "parameters_percent": percent + 1}
        moved.append(rows("act_global", 4 - 3 * 0.5 * part, 1 + part, draw=0, **here))
        for draw in range(2):
            shift = 0.1 if draw else -0.1
            nll = 4 - 3 * 0.25 * part + shift
            moved.append(rows("random_matched", nll, 1 + part, draw=draw, **here))
    ends = [rows("donor", 1.0, 4.0), rows("target", 4.0, 1.0)]
    return pd.concat([*moved, *ends], ignore_index=True)


def test_curves_give_the_share_of_the_gap_and_average_draws(transfer):
    table = evidence.curves(transfer, LOST).set_index(["method", "top_percent"])
    assert table.loc[("act_global", 50), "recovery"] == pytest.approx(0.5)
    assert table.loc[("random_matched", 50), "recovery"] == pytest.approx(0.25)
    assert table.loc[("random_matched", 5), "recovery"] == pytest.approx(0.125)
    assert (table["seeds"] == 2).all() and len(table) == 4
    assert table.loc[("act_global", 5), "parameters_percent"] == 6


def test_controls_are_paired_and_corrected(transfer):
    table = evidence.controls(transfer, LOST)
    assert list(table["against"]) == ["random_matched"] * 2
    assert table["difference"].tolist() == pytest.approx([0.375, 0.75])
    # Paired by item, a constant shift leaves no spread.
    assert (table["high"] - table["low"]).max() < 1e-9
    assert (table["p_corrected"] >= table["p_value"]).all() and (table["p_corrected"] < 0.01).all()


def test_settings_are_picked_on_validation_and_judged_on_test(rows):
    ends = [rows("donor", 1.0, 4.0), rows("target", 4.0, 1.0)]
    here = {"draw": 0, "scale": 1.0}
    # On validation items p = 5 looks better, on test items p = 50 is.
    trials = [
        rows("act_global", 3.0, 1.0, validation=-2.0, top_percent=5, **here),
        rows("act_global", 2.0, 1.0, top_percent=50, **here),
        rows("bottom", 3.5, 2.0, top_percent=5, **here),
        rows("bottom", 3.7, 2.0, top_percent=50, **here),
    ]
    result, compared = evidence.settled(pd.concat([*trials, *ends]), LOST, RETAINED)
    result = result.set_index("method")
    assert result["top_percent"].to_dict() == {"act_global": 5, "bottom": 5}
    assert (result["trials"] == 2).all()
    assert result.loc["act_global", "recovery"] == pytest.approx(1 / 3)
    assert result.loc["bottom", "retained"] == pytest.approx(-1.0)
    assert result.loc["act_global", "retained"] == pytest.approx(0.0)
    compared = compared.set_index(["part", "against"])["difference"]
    assert compared["lost", "bottom"] == pytest.approx(0.5)
    assert compared["retained", "bottom"] == pytest.approx(1.0)


def test_only_the_first_draw_is_a_trial_but_all_are_judged(rows):
    ends = [rows("donor", 1.0, 4.0), rows("target", 4.0, 1.0)]
    here = {"top_percent": 5, "scale": 1.0}
    trials = [rows("act_global", 3.0, 1.0, draw=0, **here)]
    trials += [rows("random_matched", 3.0 + draw, 1.0, draw=draw, **here) for draw in (0, 1)]
    result, compared = evidence.settled(pd.concat([*trials, *ends]), LOST, RETAINED)
    assert (result["trials"] == 1).all()
    assert compared.set_index("part")["difference"]["lost"] == pytest.approx(0.5)


def test_arms_of_tuning_are_compared_at_each_step(rows):
    arms = [
        rows(arm, 4.0 - gain * steps, 1.0, steps=steps)
        for arm, gain in (("sft_only", 0.1), ("random_sft", 0.2), ("act_sft", 0.3))
        for steps in (0, 5)
    ]
    means, compared = evidence.tuned(pd.concat(arms), LOST)
    compared = compared.set_index(["part", "steps", "method", "against"])["difference"]
    assert compared["lost", 5, "act_sft", "sft_only"] == pytest.approx(1.0)
    assert compared["lost", 5, "act_sft", "random_sft"] == pytest.approx(0.5)
    assert compared["lost", 0, "act_sft", "sft_only"] == pytest.approx(0.0)
    assert compared["retained", 5, "act_sft", "sft_only"] == pytest.approx(0.0)
    means = means[means["measure"] == "nll"].set_index(["part", "method", "steps"])["mean"]
    gained = means["lost", "act_sft", 5] - means["lost", "act_sft", 0]
    assert gained == pytest.approx(1.5)


def test_merges_are_compared_on_each_specialist_s_abilities(rows):
    here = {"specialists": 2, "draw": 0}
    table = pd.concat(
        [
            rows("act_sum", 2.0, 2.0, top_percent=20, scale=1.0, model=None, **here),
            rows("act_sum", 3.0, 3.0, top_percent=5, scale=1.0, model=None, **here),
            rows("ties", 2.5, 1.0, top_percent=20, scale=1.0, model=None, **here),
            rows("ends", 4.0, 4.0, top_percent=0, scale=0, model="base", **here),
        ]
    )
    owners = {2: {"multilingual": LOST, "maths": RETAINED}}
    settings, scores, compared = evidence.merges(table, owners)
    assert settings.set_index("method")["top_percent"].to_dict() == {"act_sum": 20, "ties": 20}
    compared = compared.set_index(["ability", "against"])["difference"]
    assert compared["multilingual", "ties"] == pytest.approx(0.5)
    assert compared["maths", "ties"] == pytest.approx(-1.0)
    assert compared["maths", "base"] == pytest.approx(2.0)
    assert set(scores["method"]) == {"act_sum", "ties", "base"}


def test_a_verdict_needs_a_corrected_p_value_below_the_level():
    table = pd.DataFrame(
        {"difference": [1.0, -1.0, 1.0, np.nan, 0.0], "p_corrected": [0.01, 0.04, 0.06, 0.01, 0.01]}
    )
    unclear = "not distinguishable from"
    assert evidence.verdicts(table) == ["above", "below", unclear, "undefined", unclear]
    assert evidence.verdicts(table, level=0.02)[1] == unclear
    assert evidence.verdicts(table.assign(p_corrected=np.nan)) == ["undefined"] * 5


def test_a_frontier_is_on_test_items_only_where_all_trials_were_judged_on_them(transfer):
    assert set(evidence.frontier_rows(transfer, LOST, RETAINED)["purpose"]) == {"test"}
    picked = (transfer["purpose"] == "validation") | (transfer["top_percent"] != 5)
    found = evidence.frontier_rows(transfer[picked], LOST, RETAINED)
    assert set(found["purpose"]) == {"validation"}
    assert set(found["method"]) == {"act_global", "random_matched", "donor", "target"}
    assert set(zip(found["cell"], found["part"], strict=True)) == {
        *((cell, "lost") for cell in LOST),
        *((cell, "retained") for cell in RETAINED),
    }


def test_panels_have_act_and_at_most_four_others():
    names = ["act_global", "act_scaled", "random_matched", "bottom", "weight_scaled"]
    table = evidence.in_panels(pd.DataFrame({"method": names}))
    found = {panel: list(rows["method"]) for panel, rows in table.groupby("panel", sort=False)}
    assert found == {
        "rankings": ["act_global", "act_scaled"],
        "random channels": ["act_global", "random_matched"],
        "weights": ["act_global", "weight_scaled"],
        "other choices": ["act_global", "bottom"],
    }
