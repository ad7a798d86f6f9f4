"""Hold statistics of the kept sweeps to those of commit 967e252.

    PYTHONPATH=OLD python tools/gate_statistics.py save FILE.npz    # once, with 967e252's code
    PYTHONPATH=. python tools/gate_statistics.py compare FILE.npz   # exit status 1 if one fails

Intervals are bootstraps from fixed seeds, so they too must agree within 1e-9. Frontiers'
areas, other bootstraps, p-values and overlaps are no longer computed.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

SWEEPS = Path(__file__).parents[1] / "data" / "sweeps"
LOST, RETAINED = ["fr-maths", "fr-science"], ["en-maths"]
KEYS = ["method", "top_percent", "scale", "seed", "cell", "item", "cluster"]
SHARES = ["recovery", "low", "high", "gap", "gap_low", "gap_high"]


def checks(lost, five, sweep) -> dict[int, object]:
    """The numbers of one sweep, with the code of this checkout, by their place in `old_checks`."""
    from actlib.analysis import contrasts, stats

    changes = stats.differences(five, "act_global", resamples=10_000)
    return {
        0: stats.recovery(lost, ["method", "top_percent"])[SHARES],
        1: changes[["difference", "low", "high"]] * -1,
        3: stats.means(five, ["method"])[["mean", "low", "high"]],
        7: contrasts.student_interval(sweep["share_percent"].dropna().to_numpy()),
    }


def old_checks(lost, five, every, sweep) -> list:
    """The same with the code of 967e252."""
    from actlib.measures import analysis, frontiers, intervals, statistics

    rng = np.random.default_rng(0)
    a, b = ({name: rng.random(90 * n) < 0.2 for n, name in enumerate("xy", 1)} for _ in "12")
    a, b = SimpleNamespace(channels=a), SimpleNamespace(channels=b)
    target, donor = (lost[lost["method"] == name] for name in ("target", "donor"))
    moved = lost[~lost["method"].isin(["target", "donor"])].groupby(KEYS[:2], sort=False)
    methods = dict(list(five.groupby("method", sort=False)))
    act = methods.pop("act_global")
    changes = [intervals.paired_test(act, other, 10_000) for other in methods.values()]
    areas = frontiers.frontier_areas(every, LOST, RETAINED, "act_global", 1000)
    scores = SimpleNamespace(values={"x": rng.gamma(0.5, size=500)})
    return [
        [intervals.recovery(group, target, donor)[:6] for _, group in moved],
        np.array(changes)[:, [0, 2, 1]],  # low and high change places with the sign
        intervals.corrected([change.p_value for change in changes]),
        intervals.score_table(five, ["method"])[["mean", "low", "high"]],
        frontiers.frontier_table(every, LOST, RETAINED, 1000).iloc[:, 3:6],
        areas[["area", "low", "high", "difference", "p_value", "p_corrected"]],
        intervals.bootstrap_interval(sweep["jaccard"].dropna().to_numpy()),
        statistics.seed_interval(sweep["share_percent"].dropna().to_numpy()),
        analysis.concentration_table(scores).query("group == 'all'").iloc[:, 3:],
        [list(f(a, b).values()) for f in (analysis.overlap, analysis.matched_overlap)],
    ]


action, path = sys.argv[1:]
results: dict[str, np.ndarray] = {}
for preset in ("smol", "tiny"):
    table = pd.read_parquet(SWEEPS / preset / "transfer.parquet").query("purpose == 'test'")
    table = table.astype({"nll": float})  # the old frontiers averaged float32 as it came
    every = table.groupby(KEYS, sort=False, dropna=False)["nll"].mean().reset_index()
    every["score"] = -every["nll"]
    full, ends = every["scale"] == 1, every["method"].isin(["donor", "target"])
    lost = every[(full | ends) & every["cell"].isin(LOST)]
    five = every[full & (every["top_percent"] == 5) & every["cell"].isin(RETAINED)]
    sweep = pd.read_parquet(SWEEPS / preset / "channels.parquet")
    if action == "save":
        numbers = dict(enumerate(old_checks(lost, five, every, sweep)))
    else:
        numbers = checks(lost, five, sweep)
    results |= {f"{preset} {n}": np.asarray(x, dtype=float) for n, x in numbers.items()}
if action == "save":
    np.savez(path, **results)  # type: ignore[arg-type]
else:
    before = np.load(path)
    bad = [n for n, x in results.items() if not np.allclose(x, before[n], 0, 1e-9, True)]
    print(f"{len(results)} checks, {len(bad)} differ {bad}")
    sys.exit(bool(bad))
