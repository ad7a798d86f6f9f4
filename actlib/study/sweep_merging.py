"""The sweep's merges: unions of masks, random unions, the methods of others, at every setting."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import product

import pandas as pd
from transformers import PreTrainedModel

from actlib.controls.baselines import baseline_merged
from actlib.controls.choices import random_instead
from actlib.scores import ChannelScores
from actlib.study.experiments import merged
from actlib.study.old_session import Study
from actlib.study.presets import Sweep, TunedModel
from actlib.study.sweep_channels import Cell

PURPOSES = ("validation", "test")


def purposes_of(cell: Cell) -> tuple[str, ...]:
    """Items that a cell is judged on: of a random method only the first draw can be picked."""
    return PURPOSES if cell.get("draw", 0) == 0 else ("test",)


MERGES = {"act_sum": "sum", "act_average": "average", "act_largest": "largest"}
BASELINES = ("task_arithmetic", "mean_weights", "ties", "dare_linear", "layer_swap")


def merging_sizes(study: Study) -> dict[int, list[str]]:
    """Specialists merged, by their number."""
    roles = study.preset.roles
    three = {3: roles.three_specialists} if roles.three_specialists else {}
    return {2: roles.specialists[:2], **three}


def specialities(study: Study, name: str) -> list[str]:
    """Abilities that a specialist was trained on, also those outside the lost and retained ones."""
    spec = study.preset.models[name]
    return spec.abilities if isinstance(spec, TunedModel) else study.abilities_of(name)


def merging_cells(sweep: Sweep, method: str) -> list[Cell]:
    """Percent (density of TIES and DARE, layers of layer swapping), scale, draw, and how many."""
    grid = list(product(sweep.merging_percents, sweep.scales))
    scales = [round((n + 1) / (len(grid) + 1), 4) for n in range(len(grid))]
    settings: list[Cell]
    if method == "ends":
        settings = [{"top_percent": 0, "scale": 0, "draw": 0}]
    elif method == "mean_weights":
        settings = [{"top_percent": 100, "scale": 1, "draw": 0}]
    elif method == "task_arithmetic":
        settings = [{"top_percent": 100, "scale": scale, "draw": 0} for scale in scales]
    elif method == "layer_swap":
        settings = [{"top_percent": 100 * scale, "scale": 1, "draw": 0} for scale in scales]
    else:
        draws = range(sweep.random_draws if method == "random_matched" else 1)
        settings = [
            {"top_percent": percent, "scale": scale, "draw": draw}
            for (percent, scale), draw in product(grid, draws)
        ]
    sizes = (2,) if method == "layer_swap" else (2, 3)
    return [{"method": method, **s, "specialists": n} for n, s in product(sizes, settings)]


def measure_merging(
    study: Study, seed: int, method: str, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """The base with specialists merged in, judged on the abilities of all of them."""
    for size, names in merging_sizes(study).items():
        here = [cell for cell in cells if cell["specialists"] == size]
        if not here:
            continue
        judged = list(dict.fromkeys(cell for name in names for cell in specialities(study, name)))
        base = study.model("base", seed)
        donors = {name: study.model(name, seed) for name in names}
        scores = {
            name: study.scores(specialities(study, name), seed, donor=name, target="base")
            for name in names
        }
        for cell in here:
            if method == "ends":
                yield cell, _untouched(study, {"base": base, **donors}, judged)
                continue
            with _merge_of(base, donors, scores, cell) as model:
                yield cell, study.judge(model, judged, *purposes_of(cell))


def _untouched(study: Study, models: dict[str, PreTrainedModel], judged: list[str]) -> pd.DataFrame:
    frames = [study.judge(model, judged, *PURPOSES, model=name) for name, model in models.items()]
    return pd.concat(frames, ignore_index=True)


def _merge_of(
    base: PreTrainedModel,
    donors: dict[str, PreTrainedModel],
    scores: dict[str, ChannelScores],
    cell: Cell,
) -> AbstractContextManager[PreTrainedModel]:
    method, percent, scale = cell["method"], cell["top_percent"], cell["scale"]
    if method in BASELINES:
        share: dict[str, float] = {"percent": percent} if method == "layer_swap" else {}
        share |= {"density": percent / 100} if method in ("ties", "dare_linear") else {}
        models = list(donors.values())
        return baseline_merged(base, models, method, scale=scale, seed=cell["draw"], **share)
    masks = {name: scores[name].top(percent) for name in donors}
    if method == "random_matched":
        masks = random_instead(masks, cell["draw"])
    parts = [(donors[name], masks[name], scale) for name in donors]
    return merged(base, parts, MERGES.get(method, "sum"))
