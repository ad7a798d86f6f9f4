"""What a report on a pair of models holds, and how it is shown; `reports` makes it."""

import html
import math
from collections import Counter
from dataclasses import asdict, dataclass

import pandas as pd

from actlib.pairing.changes import ParameterChanges

OK, WARNING, MISMATCH = "ok", "warning", "mismatch"
_WIDTH = 36  # letters of a cell in plain text


@dataclass(frozen=True)
class PairCheck:
    """One thing that was compared.

    Attributes:
        check: what.
        donor: what the donor has.
        target: what the target has.
        verdict: ``ok``; ``warning``, the pair works, but read the note; ``mismatch``, it does not.
        note: why, where the verdict is not ``ok``.
    """

    check: str
    donor: str
    target: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class PairReport:
    """Whether two models can exchange channels, check by check.

    Printed it is a table in plain text, in a notebook one in HTML.

    Attributes:
        rows: the checks.
        weights: norms of the parameters' change; None where the weights were not read, because
            the models do not fit anyway or hold none.
    """

    rows: tuple[PairCheck, ...]
    weights: ParameterChanges | None = None

    @property
    def fits(self) -> bool:
        """Whether no check is a mismatch; warnings may remain."""
        return all(row.verdict != MISMATCH for row in self.rows)

    @property
    def headline(self) -> str:
        """Verdict on the pair in one sentence."""
        counts = Counter(row.verdict for row in self.rows)
        told = [
            f"{counts[verdict]} {verdict if counts[verdict] == 1 else several}"
            for verdict, several in ((MISMATCH, "mismatches"), (WARNING, "warnings"))
            if counts[verdict]
        ]
        begin = "Donor and target fit" if self.fits else "Donor and target do not fit"
        end = "" if self.weights else " The weights were not compared."
        return ": ".join([begin, *([", ".join(told)] if told else [])]) + f".{end}"

    @property
    def changes(self) -> pd.DataFrame:
        """One row a kind of module and a last one ``overall``; empty where nothing was read.

        Returns:
            kind, parameters (how many) and relative_norm, ||donor - target|| / ||target||.
        """
        return (self.weights or ParameterChanges(())).table()

    def table(self) -> pd.DataFrame:
        """One row a check: check, donor, target, verdict, note."""
        columns = ["check", "donor", "target", "verdict", "note"]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=columns)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON has it: fits, rows, changes, not_finite; no number is None."""
        changes = self.changes.to_dict("records")
        for row in changes:
            row["parameters"] = int(row["parameters"])
            if not math.isfinite(row["relative_norm"]):
                row["relative_norm"] = None
        return {
            "fits": self.fits,
            "rows": [asdict(row) for row in self.rows],
            "changes": changes,
            "not_finite": list(self.weights.not_finite) if self.weights else [],
        }

    def __str__(self) -> str:
        """The checks, then a line for each note, then the changes, in plain text."""
        table = self.table()
        notes = [f"{row.verdict}, {row.check}: {row.note}" for row in self.rows if row.note]
        parts = [self.headline, _plain(table.drop(columns="note")), "\n".join(notes)]
        if len(self.changes):
            parts.append(_plain(self.changes.assign(relative_norm=_rounded)))
        return "\n\n".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{html.escape(self.headline)}</strong></p>"]
        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            parts.append(self.table().to_html(index=False, escape=True))
            if len(self.changes):
                shown = self.changes.assign(relative_norm=_rounded)
                parts.append(shown.to_html(index=False, escape=True))
        return "\n".join(parts)


def _rounded(table: pd.DataFrame) -> list[str]:
    return [f"{value:.3g}" for value in table["relative_norm"]]


def _plain(table: pd.DataFrame) -> str:
    """Columns of text, left-aligned; long cells are cut."""
    cells = [list(table), *table.astype(str).to_numpy().tolist()]
    cells = [[_cut(cell) for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
