"""Rules of the claims: known effects get the verdict that their docstring promises."""

import numpy as np
import pandas as pd
import pytest

from actlib.study import claim_rules as rules
from actlib.study.findings import HOLDS, NOT_SEEN

PART = "holds in part ("


def forgotten(*lows):
    rows = [(f"c{n}", "nll", low + 0.5, low, low + 1.0) for n, low in enumerate(lows)]
    return pd.DataFrame(rows, columns=["cell", "measure", "target_minus_donor", "low", "high"])


@pytest.mark.parametrize(
    ("lows", "verdict"),
    [((0.5, 1.0), HOLDS), ((0.5, -0.5), f"{PART}on 1 of 2 abilities)"), ((0.5, -3), NOT_SEEN)],
)
def test_forgetting_is_judged_on_lost_abilities_alone(lows, verdict):
    table = forgotten(*lows, -9.0)  # the last is retained
    assert rules.premise(table, ["c0", "c1"]).verdict == verdict


def shares(raw, scaled):
    parts = (("raw", raw), ("scaled", scaled))
    rows = [(seed, 5.0, name, x, 15.0) for name, part in parts for seed, x in enumerate(part)]
    columns = ["seed", "top_percent", "ranking", "share_percent", "null_share_percent"]
    return pd.DataFrame(rows, columns=columns).assign(method="concentration")


@pytest.mark.parametrize(
    ("raw", "scaled", "verdict"),
    [
        ((20, 21), (16, 17), HOLDS),
        ((20, 21), (16, 10), f"{PART}raw activations only"),
        ((20, 14), (16, 17), f"{PART}scaled"),
        ((20, 14), (16, 14), NOT_SEEN),
    ],
)
def test_concentration_needs_every_seed_and_both_rankings(raw, scaled, verdict):
    found = rules.concentrated(shares(raw, scaled))
    assert found.verdict.startswith(verdict)
    assert "half-normal 15.0 %" in found.shown and "2 seeds" in found.shown
    assert "null 15.0 %" in found.brief and f"{np.mean(raw):.1f} [" in found.brief


def channels(halves, pairs, chance):
    """Rows of either ranking: eight abilities or pairs around the means given, little spread."""
    labels = {"seed": 0, "null": "matched", "expected_jaccard": chance}
    rows = [
        {"method": method, "ranking": ranking, "jaccard": mean + spread, **labels}
        for ranking in ("global", "scaled")
        for method, mean in (("halves", halves), ("overlap", pairs))
        for spread in (-0.02, -0.01, 0.0, 0.01, 0.02)
    ]
    return pd.DataFrame(rows)


def specificity(*differences):
    rows = [("a", "b", d, d - 0.1, d + 0.1) for d in differences]
    rows.append(("a", "random", -9.0, -9.1, -8.9))  # a control, not another ability
    return pd.DataFrame(rows, columns=["cell", "other", "own_minus_other", "low", "high"])


@pytest.mark.parametrize(
    ("overlap", "own", "verdict"),
    [
        (0.1, (0.5, 0.5), HOLDS),
        (0.1, (0.5, 0.0), f"{PART}masks overlap less than split halves; own channels better"),
        (0.4, (-0.5, -0.5), f"{PART}masks overlap less than split halves)"),
        (0.8, (0.5, 0.0), f"{PART}own channels better in 1 of 2)"),
        (0.8, (0.5, -0.5), NOT_SEEN),
    ],
)
def test_disentangled_needs_overlap_at_chance_and_specific_causes(overlap, own, verdict):
    found = rules.disentangled(channels(0.8, overlap, 0.1), specificity(*own))
    assert found.verdict.startswith(verdict)


@pytest.mark.parametrize(
    ("halves", "pairs", "verdict"),
    [(0.8, 0.4, HOLDS), (0.8, 0.8, f"{PART}above chance"), (0.1, 0.05, NOT_SEEN)],
)
def test_stable_is_above_two_abilities_and_above_chance(halves, pairs, verdict):
    found = rules.stable(channels(halves, pairs, 0.1))
    assert found.verdict.startswith(verdict)
    assert f"{halves:.2f} and {pairs:.2f}" in found.shown  # of the scaled ranking


def curves(low):
    rows = [("act_global", 5.0, low + 0.1, low, low + 0.2), ("random_matched", 5.0, 0.1, 0.0, 0.2)]
    return pd.DataFrame(rows, columns=["method", "top_percent", "recovery", "low", "high"])


def controls(**sides):
    """Differences at p = 1, 5, 50 %: +, - or 0; those of another control never count."""
    signs = {"up": (0.5, 0.01), "down": (-0.5, 0.01), "level": (0.5, 0.2)}
    rows = [(float(p[1:]), "random_matched", *signs[side]) for p, side in sides.items()]
    rows += [(5.0, "bottom", -9.0, 0.001)]
    columns = ["top_percent", "against", "difference", "p_corrected"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("low", "sides", "verdict"),
    [
        (0.6, {"p1": "up", "p5": "up", "p50": "level"}, HOLDS),
        (0.4, {"p1": "up", "p5": "up", "p50": "up"}, f"{PART}better than random channels at p = 1"),
        (0.6, {"p1": "level", "p5": "up", "p50": "up"}, f"{PART}better than random"),
        (0.6, {"p1": "down", "p5": "up", "p50": "up"}, NOT_SEEN),
        (0.6, {"p1": "level", "p5": "level", "p50": "level"}, NOT_SEEN),
    ],
)
def test_sufficient_needs_half_of_the_gap_and_more_than_random(low, sides, verdict):
    found = rules.sufficient(curves(low), controls(**sides))
    assert found.verdict.startswith(verdict)
    assert ("5 % recover only" in found.verdict) == (low == 0.4)


def areas(random, interpolation, p=0.01):
    rows = [("act_global", 0.6, 0.0, None), ("random_matched", 0.6 - random, -random, p)]
    rows += [("interpolation", 0.6 - interpolation, -interpolation, p)]
    table = pd.DataFrame(rows, columns=["method", "area", "difference", "p_corrected"])
    return table.assign(low=table["area"] - 0.1, high=table["area"] + 0.1)


@pytest.fixture
def settled():
    row = {"method": "act_global", "recovery": 0.5, "low": 0.4, "high": 0.6}
    row |= {"retained": -0.1, "retained_low": -0.2, "retained_high": 0.0}
    return pd.DataFrame([row])


def test_recovering_while_preserving_is_more_area_than_both_controls(settled):
    assert rules.recovers(areas(0.2, 0.2), settled).verdict == HOLDS
    part = rules.recovers(areas(0.2, -0.2), settled).verdict
    assert part == f"{PART}above matched random channels, below interpolation)"
    assert rules.recovers(areas(-0.2, -0.2), settled).verdict == NOT_SEEN
    assert rules.recovers(areas(0.2, 0.2, p=0.5), settled).verdict == NOT_SEEN
    assert "no clear gap" in rules.recovers(areas(float("nan"), 0.2), settled).shown


def arms(lost, random, retained):
    rows = [
        (10, "lost", "act_sft", "sft_only", lost),
        (10, "lost", "act_sft", "random_sft", random),
        (10, "retained", "act_sft", "sft_only", retained),
        (0, "lost", "act_sft", "sft_only", -9.0),  # an earlier step does not count
        (10, "lost", "donor_sft", "sft_only", -9.0),
    ]
    table = pd.DataFrame(rows, columns=["steps", "part", "method", "against", "difference"])
    ends = {"low": table["difference"] - 0.1, "high": table["difference"] + 0.1}
    return table.assign(**ends, p_corrected=(table["difference"].abs() < 0.1) * 1.0)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.5, 0.5, 0.0), HOLDS),
        ((0.5, 0.0, 0.0), f"{PART}better than SFT alone, but no better than random channels)"),
        ((0.5, 0.5, -0.5), f"{PART}better than SFT alone, but worse on retained abilities)"),
        ((0.0, 0.5, 0.5), NOT_SEEN),
    ],
)
def test_light_tuning_is_judged_at_its_last_step(differences, verdict):
    assert rules.light_sft(arms(*differences)).verdict == verdict


def clear(table):
    """Differences with narrow intervals, told from zero unless they are zero."""
    ends = {"low": table["difference"] - 0.1, "high": table["difference"] + 0.1}
    return table.assign(**ends, p_corrected=(table["difference"] == 0) * 1.0)


def merged(random, ties):
    rows = [("random_matched", d) for d in random] + [("ties", d) for d in ties]
    rows += [("act_average", -9.0), ("base", -9.0)]  # neither is a control of the claim
    return clear(pd.DataFrame(rows, columns=["against", "difference"]))


@pytest.mark.parametrize(
    ("random", "ties", "verdict"),
    [
        ((1, 1), (0, 1), HOLDS),
        ((1, 1), (0, -1), f"{PART}above random unions in 2 of 2; below TIES in some)"),
        ((1, 0), (0, 0), f"{PART}above random unions in 1 of 2)"),
        ((1, -1), (1, 1), NOT_SEEN),
        ((0, 0), (1, 1), NOT_SEEN),
    ],
)
def test_merging_is_judged_against_random_unions_and_other_methods(random, ties, verdict):
    assert rules.merges(merged(random, ties)).verdict == verdict


@pytest.mark.parametrize(
    ("patch", "zero", "verdict"),
    [(1, -1, HOLDS), (1, 0, f"{PART}as claimed in 1 of 2"), (1, 1, NOT_SEEN), (-1, -1, NOT_SEEN)],
)
def test_causes_are_patches_above_and_ablations_below(patch, zero, verdict):
    rows = [("patch", "lost", patch), ("zero", "lost", zero), ("zero", "retained", 9)]
    table = pd.DataFrame(rows, columns=["how", "part", "difference"])
    table = clear(table.assign(method="act_global", against="random_matched"))
    found = rules.causal(table)
    assert found.verdict.startswith(verdict)
    assert f"{patch:.2f} [{patch - 0.1:.2f}, {patch + 0.1:.2f}]" in found.brief


def test_own_channels_count_once_corrected():
    table = specificity(0.5, 0.5)  # both intervals exclude zero
    corrected = table.assign(p_corrected=[0.2, 0.01, 0.01])
    apart = channels(0.8, 0.8, 0.1)
    assert "2 of 2" in rules.disentangled(apart, table).verdict
    assert "1 of 2" in rules.disentangled(apart, corrected).verdict


def test_what_is_not_there_is_named():
    with pytest.raises(rules.Missing, match="5 %"):
        rules.concentrated(shares((20,), (16,)).assign(top_percent=1.0))
    with pytest.raises(rules.Missing, match="random unions"):
        rules.merges(merged((), (1,)))
