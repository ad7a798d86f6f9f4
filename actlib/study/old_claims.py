"""The paper's claims, what each family of models shows of them, and a verdict by a fixed rule.

    table = claims_table(["smol", "tiny"])
    print(markdown(table))

Everything is read from kept tables: the sweep's (``data/sweeps``) and those that the notebooks left
(``figures``). No model is built or run. The rules are those of `actlib.study.claim_rules`.
"""

import contextlib
import inspect
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from actlib.analysis.frontier import frontier_areas
from actlib.study import claim_rules as rules
from actlib.study import evidence
from actlib.study.claim_rules import Missing
from actlib.study.findings import NOT_RUN, NOT_SEEN, Finding
from actlib.study.old_session import Study
from actlib.study.presets import ROOT
from actlib.study.sweep_merging import merging_sizes, specialities
from actlib.study.sweeps import kept_or

STATED, OURS = "stated", "ours"
"""Where a statement is from: the paper's abstract, or this study."""


@dataclass
class Family:
    """The kept tables of one family of models, each read once.

    Attributes:
        study: the family's preset; its models need not be there.
    """

    study: Study
    _rows: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def table(self, name: str) -> pd.DataFrame:
        """A table that a notebook left beside the figures.

        Raises:
            Missing: it did not run yet.
        """
        path = self.study.figures / f"{name}.csv"
        if not path.is_file():
            raise Missing(f"make study PRESET={self.study.preset.name}")
        return pd.read_csv(path)

    def rows(self, part: str) -> pd.DataFrame:
        """The kept sweep's rows of a part.

        Raises:
            Missing: none is kept, or it is of other models.
        """
        if part not in self._rows:
            with contextlib.redirect_stdout(io.StringIO()):  # the verdict tells whether it is there
                self._rows[part] = kept_or(self.study, part, pd.DataFrame())
        if self._rows[part].empty:
            raise Missing(f"make sweep PRESET={self.study.preset.name}")
        return self._rows[part]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        claim: short name.
        notebook: number of the notebook that studies it.
        source: ``stated`` (the paper's abstract) or ``ours``.
        statement: what is claimed, in our words.
        rule: of `actlib.study.claim_rules`; its docstring tells when the claim holds.
        read: what the rule is given of a family.
    """

    claim: str
    notebook: str
    source: str
    statement: str
    rule: Callable[..., Finding]
    read: Callable[[Family], tuple]

    def judged(self, family: Family) -> Finding:
        """The finding on a family; ``not run`` where a table is missing."""
        try:
            return self.rule(*self.read(family))
        except Missing as missing:
            return Finding(str(missing), NOT_RUN)


def _sufficient(family: Family) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, lost = family.rows("transfer"), family.study.lost
    return evidence.curves(rows, lost), evidence.controls(rows, lost)


def _recovers(family: Family) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, study = family.rows("transfer"), family.study
    areas = frontier_areas(evidence.frontier_rows(rows, study.lost, study.retained))
    return areas, evidence.settled(rows, study.lost, study.retained)[0]


def _merges(family: Family) -> tuple[pd.DataFrame]:
    rows, study = family.rows("merging"), family.study
    owners = {
        size: {name: specialities(study, name) for name in names}
        for size, names in merging_sizes(study).items()
        if size in set(rows["specialists"])
    }
    return (evidence.merges(rows, owners)[2],)


CLAIMS = (
    Claim(
        "Specialization forgets", "00", STATED,
        "Models trained on for a domain, language or skill lose other capabilities.",
        rules.premise, lambda family: (family.table("tab00_forgotten"), family.study.lost),
    ),
    Claim(
        "Concentrated", "01", STATED,
        "Ability-related activations lie in a small set of channels, typically under 5 %.",
        rules.concentrated, lambda family: (family.rows("channels"),),
    ),
    Claim(
        "Disentangled", "02", STATED,
        "These channels are largely disentangled between abilities.",
        rules.disentangled,
        lambda family: (family.rows("channels"), family.table("tab02_specificity")),
    ),
    Claim(
        "Causal", "02", OURS,
        "Their activations act: patched they bring the ability back, ablated they break it.",
        rules.causal,
        lambda family: (evidence.effects(family.rows("causality"), family.study.lost)[1],),
    ),
    Claim(
        "Sufficient", "03", STATED,
        "These channels show good sufficiency.",
        rules.sufficient, _sufficient,
    ),
    Claim(
        "Stable", "04", STATED,
        "These channels show stability.",
        rules.stable, lambda family: (family.rows("channels"),),
    ),
    Claim(
        "Recovers while preserving", "05", STATED,
        "ACT recovers forgotten abilities while preserving retained skills.",
        rules.recovers, _recovers,
    ),
    Claim(
        "Light fine-tuning helps", "05", STATED,
        "Lightweight fine-tuning follows the transfer, for compatibility.",
        rules.light_sft,
        lambda family: (evidence.tuned_against(family.rows("sft"), family.study.lost),),
    ),
    Claim(
        "Merges with little interference", "06", STATED,
        "ACT merges several specialized models into one with minimal interference.",
        rules.merges, _merges,
    ),
)  # fmt: skip
"""In the order of the notebooks."""


def claims_table(
    families: Iterable[str | Study] = ("smol", "tiny"), folder: Path = ROOT / "figures"
) -> pd.DataFrame:
    """Every claim with what each family shows of it and the verdict.

    Args:
        families: presets, whose tables lie in ``folder``, or open studies, which know their own.
        folder: of figures and tables, one folder a preset.

    Returns:
        claim, notebook, source (stated, ours), statement, family, shown (words with numbers,
        intervals and nulls), verdict ("holds", "holds in part (HOW)", "not seen here", or "not run"
        where a table is missing: ``shown`` then tells how to make it), brief (the numbers that the
        verdict turns on).

    Raises:
        ValueError: a preset is unknown.
    """
    read = [Family(one if isinstance(one, Study) else _opened(one, folder)) for one in families]
    rows = []
    for claim in CLAIMS:
        about = {"claim": claim.claim, "notebook": claim.notebook, "source": claim.source}
        for family in read:
            labels = {"statement": claim.statement, "family": family.study.preset.name}
            rows.append({**about, **labels, **claim.judged(family)._asdict()})
    return pd.DataFrame(rows)


def rules_told() -> str:
    """When each claim holds, as a Markdown list: what the docstrings of the rules say."""
    lines = []
    for claim in CLAIMS:
        text = (inspect.getdoc(claim.rule) or "").split("\n\nArgs:")[0]
        lines.append(f"- **{claim.claim}.** {' '.join(text.split())}")
    return "\n".join(lines)


def told_together(study: Study, families: Iterable[str] = ("smol", "tiny")) -> list[str | Study]:
    """The families with a study in the place of its own preset, or after them if it has none."""
    name = study.preset.name
    told = [study if family == name else family for family in families]
    return told if study in told else [*told, study]


def verdict_counts(table: pd.DataFrame) -> str:
    """Counts of the verdicts of each family in words; nothing is said of what none got."""
    kinds = {"holds": "hold{}", "holds in part": "hold{} in part"}
    kinds |= {told: told for told in (NOT_SEEN, NOT_RUN)}
    verdicts = table["verdict"].str.replace(r" \(.*", "", regex=True)
    parts = []
    for family, found in verdicts.groupby(table["family"], sort=False):
        counts = found.value_counts()
        told = [
            f"{counts[kind]} {words.format('s' if counts[kind] == 1 else '')}"
            for kind, words in kinds.items()
            if kind in counts
        ]
        parts.append(f"{family}: {', '.join(told)}")
    return f"Of {table['claim'].nunique()} claims, {'; '.join(parts)}."


def markdown(table: pd.DataFrame, brief: bool = False) -> str:
    """The table of `claims_table` as Markdown: a row a claim, a column a family.

    Args:
        table: from `claims_table`.
        brief: verdicts first, that of the first family with the numbers that it turns on, those of
            the others alone.
    """
    families = list(table["family"].unique())
    lines = [f"| claim (notebook) | statement | {' | '.join(families)} |"]
    lines.append("| --- " * (2 + len(families)) + "|")
    for (claim, notebook), rows in table.groupby(["claim", "notebook"], sort=False):
        first, found = rows.iloc[0], rows.set_index("family")
        cells = [f"{claim} ({notebook})", f"{first['statement']} ({first['source']})"]
        for family in families:
            row = found.loc[family]
            shown = f"`{row.shown}`" if row.verdict == NOT_RUN else row.shown
            if brief:
                word, opened, how = row.verdict.partition(" (")
                verdict = f"**{word}**{opened}{how}"
                alone = family != families[0] and row.verdict != NOT_RUN
                cells.append(verdict if alone else f"{verdict}: {row.brief or shown}")
            else:
                cells.append(f"{shown}: **{row.verdict}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _opened(preset: str, folder: Path) -> Study:
    study = Study.open(preset)
    return replace(study, figures=Path(folder) / study.preset.name)
