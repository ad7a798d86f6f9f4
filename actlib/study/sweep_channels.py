"""The sweep's statistics of channels on every seed: concentration, overlap, split halves."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TypedDict

import pandas as pd

from actlib.analysis import nulls
from actlib.study.old_session import PARTS, Study
from actlib.study.presets import Sweep

METHODS = ("concentration", "overlap", "halves")
RANKINGS = ("global", "scaled", "relative", "contrast")
PERCENT = 5.0


class Cell(TypedDict, total=False):
    """One setting of one method of the sweep; a part uses the keys that it needs."""

    method: str
    how: str
    top_percent: float
    scale: float
    draw: int
    specialists: int


def channel_cells(sweep: Sweep, method: str) -> list[Cell]:
    """One cell each; nothing is swept but the seed."""
    return [{"method": method}]


def measure_channels(
    study: Study, seed: int, method: str, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Statistics of recorded scores, which need no forward pass once they are recorded.

    ``concentration`` of the lost abilities' pooled scores, raw and scaled; ``overlap`` of the top
    5 % of every two abilities in each ranking, each against all other abilities of the preset where
    the ranking needs some; ``halves``: agreement of two disjoint halves of one ability's inputs.
    """
    measure = {"concentration": _concentration, "overlap": _overlap, "halves": _halves}[method]
    for cell in cells:
        yield cell, measure(study, seed)


def _concentration(study: Study, seed: int) -> pd.DataFrame:
    scores = study.scores(study.lost, seed)
    tables = [
        nulls.concentration(scores.ranked(ranking)).assign(ranking=name)
        for name, ranking in (("raw", "global"), ("scaled", "scaled"))
    ]
    return pd.concat(tables, ignore_index=True).drop(columns="name")


def _of(study: Study, seed: int, cell: str, parts: Sequence[int]):
    others = [other for other in study.cells if other != cell]
    return study.scores(cell, seed, parts=parts, off=others)


def _overlap(study: Study, seed: int) -> pd.DataFrame:
    found = {cell: _of(study, seed, cell, range(PARTS)) for cell in study.cells}
    tables = [
        nulls.overlap_table({c: s.top(PERCENT, r).channels for c, s in found.items()}).assign(
            ranking=r
        )
        for r in RANKINGS
    ]
    table = pd.concat(tables, ignore_index=True)
    pairs = [set(pair) for pair in combinations(study.cells, 2)]
    one = [
        {a, b} in pairs and study.cells.index(a) < study.cells.index(b)
        for a, b in zip(table["ability_a"], table["ability_b"], strict=True)
    ]
    return table[one].assign(top_percent=PERCENT)


def _halves(study: Study, seed: int) -> pd.DataFrame:
    rows = []
    halves = range(PARTS // 2), range(PARTS // 2, PARTS)
    for cell in study.cells:
        first, second = (_of(study, seed, cell, half) for half in halves)
        for ranking in RANKINGS:
            one, other = (half.top(PERCENT, ranking).channels for half in (first, second))
            agreed = {"top_percent": PERCENT, **nulls.overlap(one, other)}
            agreed |= nulls.rank_agreement(first.ranked(ranking), second.ranked(ranking))
            agreed["expected_jaccard"] = nulls.overlap(one, other, True)["expected_jaccard"]
            rows.append({"ability_a": cell, "ability_b": cell, "ranking": ranking, **agreed})
    return pd.DataFrame(rows)
