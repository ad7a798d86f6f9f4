"""Write the README's table of findings from the kept tables, so that no number in it is typed.

python tools/readme_findings.py            # rewrite the block between the markers
python tools/readme_findings.py --check    # exit status 1 if it is out of date
"""

import sys
from pathlib import Path

import pandas as pd

from actlib.findings import against, interval, overall, tally

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("smol", "tiny")
START, END = "<!-- findings: start -->\n", "<!-- findings: end -->\n"


def table(family: str, name: str) -> pd.DataFrame:
    """A kept table of a family."""
    return pd.read_csv(ROOT / "figures" / family / f"{name}.csv")


def words(rows: pd.DataFrame, value: str, null: float | str = 0) -> list[str]:
    """Verdict of each row: its interval against a number, or against a column."""
    nulls = rows[null] if isinstance(null, str) else [null] * len(rows)
    parts = zip(rows[value], rows["low"], rows["high"], nulls, strict=True)
    return [against(*part) for part in parts]


def forgetting(family: str) -> str:
    """How much worse the target is on the lost abilities."""
    rows = table(family, "tab00_forgotten").query("measure == 'nll'")
    gained = rows.nsmallest(1, "target_minus_donor")
    lost = rows.drop(gained.index)
    low, high = lost["target_minus_donor"].min(), lost["target_minus_donor"].max()
    told = tally([f"{word} the donor's" for word in words(lost, "target_minus_donor")])
    return f"target's NLL is {told} (by {low:.2f} to {high:.2f} nats)"


def concentration(family: str) -> str:
    """Share of the summed score in the top 5 %, raw and scaled, against the half-normal."""
    rows = table(family, "tab01_concentration").query("top_percent == 5")
    parts = []
    for ranking, group in rows.groupby("ranking", sort=False):
        told = words(group, "share_percent", "null_share_percent")
        low, high = group["share_percent"].min(), group["share_percent"].max()
        share = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"
        parts.append(f"{ranking} {share} % ({tally(told)} seeds)")
    null = rows["null_share_percent"].iloc[0]
    return f"top 5 % hold {', '.join(parts)}; half-normal {null:.0f} %"


def disentanglement(family: str) -> str:
    """Overlap of masks against chance, and the causal test of specificity."""
    pairs = table(family, "tab02_overlap").query("ranking == 'global' and ability_a < ability_b")
    means = pairs.groupby("null")[["jaccard", "expected_jaccard"]].mean()
    rows = table(family, "tab02_specificity").query("other != 'random'")
    told = words(rows, "own_minus_other")
    return (
        f"masks overlap {means.jaccard['matched']:.2f} (chance "
        f"{means.expected_jaccard['uniform']:.2f}, matched "
        f"{means.expected_jaccard['matched']:.2f}); own channels beat another ability's: "
        f"{tally(told)}: **{overall(told)}**"
    )


def sufficiency(family: str) -> str:
    """Recovery at 5 % of the channels, against matched random ones at every size."""
    rows = table(family, "tab03_sufficiency").query("top_percent == 5").set_index("method")
    act, random, weight = (
        interval(*rows.loc[name, ["recovery", "low", "high"]])
        for name in ("act_global", "random_matched", "weight_difference")
    )
    moved = table(family, "tab03_parameters_moved").query("top_percent == 5")
    share = moved.set_index("method")["parameters_percent"]
    gains = table(family, "tab03_act_against_controls").query("method == 'random_matched'")
    told = words(gains, "act_minus_control")
    return (
        f"5 % of the channels recover {act}, random matched ones {random}, those whose weights "
        f"differ most {weight} (they hold {share['weight_difference']:.0f} % of the parameters, "
        f"ACT's {share['act_global']:.0f} %); ACT against random: "
        f"{tally(told)} sizes: **{overall(told)}**"
    )


def stability(family: str) -> str:
    """Agreement of two halves of one ability, and of two abilities."""
    rows = table(family, "tab04_agreement").query("ranking == 'global'")
    rows = rows[rows["samples"] == rows["samples"].max()]
    means = rows.groupby("comparison")[["jaccard", "expected_jaccard"]].mean()
    return (
        f"split halves {means.jaccard['split_halves']:.2f}, two abilities "
        f"{means.jaccard['other_ability']:.2f}, matched chance "
        f"{means.expected_jaccard['split_halves']:.2f} (Jaccard)"
    )


def transfer(family: str) -> str:
    """Recovery and cost at the settings picked on validation items."""
    rows = table(family, "tab05_transfer").set_index("method")
    parts = []
    for name, label in (
        ("act_global", "ACT"),
        ("random_matched", "random"),
        ("interpolation", "interpolation"),
    ):
        row = rows.loc[name]
        cost = interval(row.retained_difference, row.retained_low, row.retained_high)
        parts.append(f"{label} recovers {interval(*row[['recovery', 'low', 'high']])} at {cost}")
    return "; ".join(parts) + " of the retained score (nats)"


def tuning(family: str) -> str:
    """What the transfer adds to light fine-tuning."""
    rows = table(family, "tab05_sft_against_sft_only").query("method == 'act_sft'")
    return "; ".join(
        f"{row.part}: {interval(row.difference, row.low, row.high)} nats against SFT only"
        for row in rows.itertuples()
    )


def merging(family: str) -> str:
    """The union against random unions and task arithmetic."""
    rows = table(family, "tab06_union_against")
    parts = []
    for other, label in (
        ("random_matched", "random unions"),
        ("task_arithmetic", "task arithmetic"),
    ):
        told = words(rows[rows["against"] == other], "union_minus_other")
        parts.append(f"against {label}: {tally(told)} specialists")
    return "; ".join(parts)


CLAIMS = {
    "Specialisation forgets (premise)": forgetting,
    "Concentrated, under 5 % (01)": concentration,
    "Disentangled (02)": disentanglement,
    "Sufficient (03)": sufficiency,
    "Stable (04)": stability,
    "Recovers while preserving (05)": transfer,
    "Light SFT helps (05)": tuning,
    "Merges with minimal interference (06)": merging,
}


def block() -> str:
    """The table of findings as Markdown."""
    lines = ["| claim (notebook) | smol | tiny |", "| --- | --- | --- |"]
    lines += [
        f"| {claim} | {' | '.join(measure(family) for family in FAMILIES)} |"
        for claim, measure in CLAIMS.items()
    ]
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    """Rewrite the README's block, or only compare it."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    fresh = f"{before}{START}\n{block()}\n{END}{after}"
    if check:
        return int(fresh != text)
    path.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
