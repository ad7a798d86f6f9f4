"""What each plotting function draws from a small fixed table, against a kept picture.

After a change that was meant, write the pictures anew, look at them, and commit them:

    ACTLIB_KEEP_PICTURES=1 python -m pytest tests/test_pictures.py

Fonts and FreeType come with matplotlib, so the pictures do not depend on the machine; the tolerance
is for other versions of either, which move the edge of a letter.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.testing.compare import compare_images

from actlib import plotting
from actlib.plotting.style import settle

BASELINES = Path(__file__).parent / "baselines"
TOLERANCE = 1  # root mean square, of 255; another color or marker of one series gives more


def lines(methods, x, y, steps=(1, 5, 20), rise=0.2):
    rows = [
        (method, step, rise * place + 0.01 * step)
        for place, method in enumerate(methods)
        for step in steps
    ]
    table = pd.DataFrame(rows, columns=["method", x, y])
    return table.assign(low=table[y] - 0.05, high=table[y] + 0.08)


def cells(rows, columns, names):
    count = len(rows) * len(columns)
    keys = [(row, column) for row in rows for column in columns]
    return pd.DataFrame(keys, columns=names), np.linspace(-0.4, 0.9, count)


def ccdf():
    scores = np.geomspace(0.02, 20, 30)
    parts = [
        pd.DataFrame({"value_over_mean": scores * k, "ccdf": 1 / (1 + scores**2), "ranking": name})
        for k, name in ((1, "raw"), (0.5, "scaled"))
    ]
    return pd.concat(parts).assign(name="all")


def shares():
    keys, values = cells(["q_proj", "lm_head"], [1, 5], ["name", "top_percent"])
    return keys.assign(share_percent=20 + 20 * values, null_share_percent=[3, 14, 3, 14])


def tradeoff():
    table = lines(["act_global", "interpolation"], "scale", "recovered", (0.2, 0.6, 1.0))
    return table.drop(columns=["low", "high"]).assign(retained=lambda t: 1 - t["scale"] ** 2 / 2)


def tuning():
    level = {"method": "donor", "steps": 0, "accuracy": 0.7, "low": 0.6, "high": 0.8}
    arms = lines(["act_sft", "sft_only"], "steps", "accuracy", (0, 10, 20))
    return pd.concat([arms, pd.DataFrame([level])])


def merges():
    methods = ["base", "specialist", "union", "random_matched", "ties"]
    keys, values = cells(["maths", "science"], methods, ["ability", "method"])
    return keys.assign(score=-1 - values, low=-1.1 - values, high=-0.8 - values)


def makeup():
    keys, values = cells(["embed_tokens", "mlp.up_proj"], [-1, 0, 1, 2], ["kind", "layer"])
    keys["masked_percent"] = 40 + 40 * values
    return keys[(keys["layer"] < 0) == (keys["kind"] == "embed_tokens")]


def overlaps():
    names = ["maths", "science", "de"]
    keys, values = cells(names, names, ["ability_a", "ability_b"])
    return keys.assign(jaccard=abs(values), expected_jaccard=0.05)


def forgetting():
    keys, values = cells(["base", "donor", "target"], ["maths", "de"], ["model", "cell"])
    return keys.assign(value=3 * values)


def causal():
    keys, values = cells(["maths", "de", "random"], ["de", "maths"], ["moved", "measured"])
    return keys.assign(recovery=values)


def verdicts():
    keys, _ = cells(["Concentrated", "Stable"], ["smol", "tiny"], ["claim", "family"])
    told = ["holds", "holds in part (so far)", "not seen here", "not run"]
    return keys.assign(verdict=told, notebook=[1, 1, 4, 4])


def frontier():
    rows = [
        ("act_global", 0.5, 0.9, True),
        ("act_global", 0.8, 0.4, True),
        ("act_global", 0.4, 0.3, False),
        ("interpolation", 0.9, 0.7, True),
        ("interpolation", -3.0, 0.7, False),
    ]
    return pd.DataFrame(rows, columns=["method", "recovered", "retained", "on_frontier"])


def areas():
    rows = [("random_matched", 0.3, 4), ("act_global", 0.5, 8), ("interpolation", 0.6, 8)]
    table = pd.DataFrame(rows, columns=["method", "area", "trials"])
    return table.assign(low=table["area"] - 0.1, high=table["area"] + 0.2)


def ablations():
    keys, _ = cells(["zero", "mean"], ["act_global", "random_matched"], ["how", "method"])
    parts = [keys.assign(part=part, change=c) for part, c in (("lost", 1.0), ("retained", -0.4))]
    return pd.concat(parts).assign(low=lambda t: t["change"] - 0.2, high=lambda t: t["change"] + 1)


METHODS = ["act_global", "random_matched", "weight_difference"]
DRAWN = {
    "concentration_ccdf": ccdf(),
    "share_bars": shares(),
    "probe_curves": lines(METHODS, "channels", "accuracy").assign(chance=0.1),
    "sufficiency_curves": lines(METHODS, "top_percent", "recovery"),
    "stability_curves": lines(["halves", "other"], "samples", "jaccard")
    .rename(columns={"method": "comparison"})
    .assign(expected_jaccard=0.1),
    "tradeoff": tradeoff(),
    "sft_curves": tuning(),
    "merge_bars": merges(),
    "makeup_heatmap": makeup(),
    "overlap_heatmap": overlaps(),
    "forgetting_heatmap": forgetting(),
    "causal_heatmap": causal(),
    "verdict_matrix": verdicts(),
    "pareto": frontier(),
    "area_bars": areas(),
    "ablation_bars": ablations(),
}


@pytest.fixture(autouse=True)
def theme():
    with plt.rc_context():
        plotting.set_theme("neurips")
        yield
    plotting.set_theme()
    plt.close("all")


def same(fig, name, folder):
    """None, or what matplotlib says of the difference."""
    fig.set_dpi(100)
    settle(fig)
    drawn, kept = folder / f"{name}.png", BASELINES / f"{name}.png"
    fig.savefig(drawn, dpi=100)
    if os.environ.get("ACTLIB_KEEP_PICTURES"):
        BASELINES.mkdir(exist_ok=True)
        shutil.copyfile(drawn, kept)
    return compare_images(str(kept), str(drawn), TOLERANCE)


@pytest.mark.parametrize("name", DRAWN)
def test_functions_draw_the_kept_picture(name, tmp_path):
    fig, ax = plotting.figure("column", 0.5)
    getattr(plotting, name)(DRAWN[name], ax)
    assert same(fig, name, tmp_path) is None


def test_panels_draw_the_kept_picture(tmp_path):
    table = lines(METHODS, "top_percent", "recovery")
    table = pd.concat([table.assign(cell=name) for name in ("maths", "science", "de")])
    fig = plotting.panels(plotting.sufficiency_curves, table, "cell", aspect=0.6)
    assert same(fig, "panels", tmp_path) is None


def test_every_plotting_function_has_a_picture():
    drawn = {made.plot.__name__ for made in plotting.FIGURES.values()}
    assert drawn <= set(DRAWN)
    assert {path.stem for path in BASELINES.glob("*.png")} == {*DRAWN, "panels"}


def test_another_color_or_marker_of_one_series_is_noticed(tmp_path, monkeypatch):
    if os.environ.get("ACTLIB_KEEP_PICTURES"):
        pytest.skip("the pictures are being written")
    for table, change in ((plotting.PALETTE, "#D55E00"), (plotting.MARKERS, "X")):
        with monkeypatch.context() as patched:
            patched.setitem(table, "weight_difference", change)
            fig, ax = plotting.figure("column", 0.5)
            plotting.sufficiency_curves(DRAWN["sufficiency_curves"], ax)
            assert same(fig, "sufficiency_curves", tmp_path) is not None
