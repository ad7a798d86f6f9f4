"""Compute the primary contrasts again, from the kept rows, and compare.

python tools/recompute.py [PRESET]    # tiny, or another preset with kept rows and tables

It shares no code with the notebooks, only the rows in `data/items/PRESET`: of six contrasts those
of single items, of *concentrated*, *disentangled* and *stable* shares and overlaps of masks. The
exit status is 1 if treatment, control or difference of a seed differ from those in
`figures/PRESET/tab*_contrast.csv`, mean or Student's 95 % interval from `tab07_claims.csv`, or if a
published seed has no rows. Rows of seeds that are measured and not published yet are left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4  # published numbers have six digits


class Rows(NamedTuple):
    """The kept rows of a family, and its configuration."""

    folder: Path
    family: dict[str, Any]

    def select(self, function: str, value: str, *by: str, **where: Any) -> pd.DataFrame:
        """The wanted rows of a cached function that have the columns asked for."""
        files, columns = (self.folder / function).glob("seed*-*.parquet"), {value, *by, *where}
        rows = pd.concat([t for t in map(pd.read_parquet, files) if columns <= {*t}])
        for column, values in where.items():
            rows = rows[rows[column].isin(np.atleast_1d(values))]
        if rows.empty:
            sys.exit(f"error: {self.folder / function} lacks rows of {where}")
        return rows

    def mean(self, function: str, value: str, *by: str, **where: Any) -> pd.Series:
        """Mean of a column by seed and `by`, over the items, draws and all else of wanted rows."""
        return self.select(function, value, *by, **where).groupby(["seed", *by])[value].mean()

    def share(self, value: str, function: str, *by: str, **where: Any) -> pd.Series:
        """Recovered share of the gap on the lost abilities: 0 is the target, 1 the donor."""
        lost = {"ability": self.family["lost"]}
        rows = self.select(function, value, *by, **lost, **where)
        ends = self.select("reference_items", value, "method", **lost)
        # on as many items: notebook 02 may ask fewer of them than 03
        asked = ends.groupby("_setting")["item"].transform("nunique")
        ends = ends[asked == rows["item"].nunique()].groupby(["seed", "method"])[value].mean()
        ends = ends.unstack()
        above = rows.groupby(["seed", *by])[value].mean().sub(ends["target"], level="seed")
        return above.div(ends["donor"] - ends["target"], level="seed")


def compare_concentration(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Share of the top 5 % of a module, mean over modules: donor and target, two donors."""
    keys, pair = ["_setting", "module"], ["seed", "_setting"]
    share = rows.mean("module_shares", "share", *keys, top_percent=5)
    total = rows.mean("module_shares", "total", *keys, top_percent=5)
    # The rows do not name their two models. Of the two pairs of a seed, donor and target are the
    # one whose top channels hold as much of all differences as notebook 02 measured for it.
    difference_percent = 100 * (share * total).groupby(pair).sum() / total.groupby(pair).sum()
    known = rows.mean("measure_mask", "difference_percent", method="act_module", ranking="module")
    order = difference_percent.sub(known, level="seed").abs().groupby("seed").rank()
    yield "concentrated", *(share.groupby(pair).mean()[order == n].droplevel(1) for n in (1, 2))


def compare_masks(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Jaccard index of masks per module: of one ability twice, of two abilities."""
    table = rows.mean("overlap_rows", "jaccard", "ability", "other", ranking="module").reset_index()
    names = table[["ability", "other"]]  # such as fr-maths: a language and a domain
    one, other = (names[name].str.split("-", expand=True) for name in names)
    halves = table[names["ability"] == names["other"]]
    apart = table[(one != other).all(axis=1) & names.isin(rows.family["lost"]).all(axis=1)]
    yield "disentangled", *(part.groupby("seed")["jaccard"].mean() for part in (halves, apart))
    source = rows.mean("reading_rows", "jaccard", comparison="other source", ranking="module")
    two = rows.mean("growing_rows", "jaccard", "comparison", "samples", ranking="module")
    yield "stable", source, two.xs("other ability", level=1).unstack().iloc[:, -1]  # most samples


def compare_shares(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Recovered shares: of NLL by patching at 5 %, of exact match over the sizes 20 to 80 %."""
    how, by = {"how": "patch", "ranking": "module"}, ("method", "top_percent")
    patch = rows.share("nll", "intervention_items", "method", **how).unstack()
    yield "causal", patch["act_module"], patch["random_equal_difference"]
    curves = rows.share("exact", "transfer_items", *by, scale=1).unstack().loc[:, 20:80]
    areas = curves.apply(np.trapezoid, axis=1, x=curves.columns).unstack()
    heights = areas / np.ptp(curves.columns)
    yield "sufficient", heights["act_module"], heights["random_module"]
    moved = rows.share("exact", "moved_items", *by, scale=1, purpose="test")
    as_far = rows.share("exact", "as_far_items", *by)
    act, far = (each.loc[:, "act_module", 20:80].groupby("seed").mean() for each in (moved, as_far))
    yield "recovers", act, far


def compare_answers(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Exact match: of the models, after 10 steps of fine-tuning, of the weakest after a merge."""
    lost, by = {"ability": rows.family["lost"]}, ["method", "top_percent", "scale"]
    models = rows.mean("model_items", "exact", "model", **lost).unstack()
    yield "forgets", *(models[rows.family["roles"][role]] for role in ("donor", "target"))
    tuned = rows.mean("tuned_items", "exact", "method", steps=10, lora=False, **lost).unstack()
    yield "fine_tuning", tuned["act_module_sft"], tuned["sft_only"]
    exact, nll, test = (  # a column each ability
        rows.mean("merged_items", value, *by, "ability", purpose=part, specialists=2).unstack()
        for value, part in (("exact", "validation"), ("nll", "validation"), ("exact", "test"))
    )
    trials = pd.concat([-exact.min(axis=1), -exact.mean(axis=1), nll.mean(axis=1)], axis=1)
    trials = trials.sort_values([*trials], kind="stable")  # of ties the first that was tried
    picks = trials.groupby(["seed", "method"]).head(1).index
    merged = test.min(axis=1).reindex(picks).droplevel([2, 3]).unstack()
    yield "merges", merged["union"], merged["task_arithmetic"]


def recompute(preset: str = "tiny", items: Path = ROOT / "data/items") -> pd.DataFrame:
    """One row a claim: both means with intervals, the largest difference, whether all agrees."""
    family = yaml.safe_load((ROOT / f"configs/{preset}.yaml").read_text("utf-8"))
    figures, results = ROOT / "figures" / preset, dict[str, Any]()
    by_seed = pd.concat(map(pd.read_csv, sorted(figures.glob("tab*_contrast.csv"))))
    by_seed = by_seed.dropna(subset="difference").set_index(["claim", "seed"])
    summary = pd.read_csv(figures / "tab07_claims.csv", index_col="claim").loc[:, "estimate":"high"]
    summary = summary[summary["estimate"].notna()]  # of the claims that this family can test
    parts = [compare_answers, compare_masks, compare_shares]
    parts += [compare_concentration] if "concentrated" in summary.index else []
    pairs = {claim: arms for part in parts for claim, *arms in part(Rows(items / preset, family))}
    for claim in summary.index.union(by_seed.index.unique("claim"), sort=False):
        again: pd.DataFrame = pd.concat(
            pairs[claim], axis=1, keys=["treatment", "control"]
        ).dropna()
        again = again[again.index.isin(by_seed.loc[claim].index)]  # others await their reading
        again["difference"] = values = again["treatment"] - again["control"]
        half = stats.t.ppf(0.975, len(values) - 1) * values.sem()
        both = summary.loc[claim], [values.mean(), values.mean() - half, values.mean() + half]
        off = (again - by_seed.loc[claim]).abs().to_numpy().max()  # NaN: a seed on one side alone
        agrees = off <= TOLERANCE and np.allclose(*both, rtol=0, atol=TOLERANCE, equal_nan=True)
        intervals = [f"{m:.4f} [{a:.4f}, {b:.4f}]" for m, a, b in both]
        results[claim] = [*intervals, f"{off:.1e}", agrees]
    return pd.DataFrame(results, ["published", "recomputed", "largest difference", "agrees"]).T


if __name__ == "__main__":
    result = recompute(sys.argv[1] if sys.argv[1:] else "tiny")
    print(result.to_string())
    sys.exit(int(not result["agrees"].all()))
