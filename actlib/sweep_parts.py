"""What the sweep measures: transfer, light fine-tuning, merging, and interventions on activations.

A part has bundles of methods, one job of the runner each. For every method it lists its cells (one
setting each) and measures those it is asked for, in turn. Nothing is chosen from what was seen: all
cells of the preset's grid are run, on validation and on test items, for every method alike.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product

import pandas as pd
from transformers import PreTrainedModel

from .baselines import baseline_merged
from .choices import RANDOM, chosen, everything, random_instead
from .entries import entries_transferred, top_entries
from .experiments import light_sft, merged
from .interventions import ablated, patched
from .localize import weight_differences
from .masks import ChannelMask
from .moving import moving
from .presets import Sweep, Training, TunedModel
from .scores import ChannelScores
from .study import Study
from .transfer import parameter_percent, selections

Cell = dict[str, str | int | float]
Measured = Iterator[tuple[Cell, pd.DataFrame]]
PURPOSES = ("validation", "test")
MERGING_DRAWS = 3
ABLATIONS = ("zero", "mean", "resample")
ARMS = ("sft_only", "act_sft", "random_sft", "interpolation_sft", "donor_sft")
LORA_ARMS = ("sft_only_lora", "act_sft_lora")


@dataclass(frozen=True)
class Part:
    """One part of the sweep.

    Attributes:
        bundles: methods by the job that runs them.
        models: roles and names of the models that it needs.
        cells: the settings of a method on the grid of a preset.
        measure: runs the given cells of a method in turn, and yields each with its items.
    """

    bundles: dict[str, tuple[str, ...]]
    models: Callable[[Study], list[str]]
    cells: Callable[[Sweep, str], list[Cell]]
    measure: Callable[[Study, int, str, Sequence[Cell]], Measured]


def _pair(study: Study) -> list[str]:
    return ["donor", "target"]


def transfer_cells(sweep: Sweep, method: str) -> list[Cell]:
    """Percent, scale and draw; interpolation has as many trials as another method, all scales.

    Random methods have all their draws at full scale, where the curves over p are drawn, and the
    first draw at the others, so that they have as many trials to pick from as the rest.
    """
    if method == "ends":
        return [{"method": name} for name in ("donor", "target")]
    if method == "interpolation":
        count = len(sweep.percents) * len(sweep.scales)
        scales = [round((n + 1) / (count + 1), 4) for n in range(count)]
        return [{"method": method, "top_percent": 100, "scale": s, "draw": 0} for s in scales]
    draws = sweep.random_draws if method in RANDOM else 1
    return [
        {"method": method, "top_percent": percent, "scale": scale, "draw": draw}
        for scale, percent in product(sweep.scales, sweep.percents)
        for draw in range(draws if scale == max(sweep.scales) else 1)
    ]


def measure_transfer(study: Study, seed: int, method: str, cells: Sequence[Cell]) -> Measured:
    """The target with what each cell moves, judged; only what changes between cells is written."""
    models = {name: study.model(name, seed) for name in ("donor", "target")}
    donor, target = models.values()
    if method == "ends":
        for cell in cells:
            yield cell, study.judge(models[cell["method"]], study.cells, *PURPOSES)
        return
    scores = study.scores(study.lost, seed, off=study.retained)
    if method == "task_vector":
        yield from _entries(study, donor, target, scores, cells)
        return
    weights = weight_differences(donor, target) if method.startswith("weight") else None
    with moving(target, donor) as move:
        for cell in cells:
            name = "all_rows" if method == "interpolation" else method
            mask = chosen(name, cell["top_percent"], scores, weights, cell["draw"])
            move(mask, cell["scale"])
            held = parameter_percent(target, mask)
            rows = study.judge(target, study.cells, *PURPOSES, parameters_percent=held)
            yield cell, rows.assign(channels_percent=mask.percent)


def _entries(
    study: Study,
    donor: PreTrainedModel,
    target: PreTrainedModel,
    scores: ChannelScores,
    cells: Sequence[Cell],
) -> Measured:
    total = sum(parameter.numel() for parameter in target.parameters())
    for cell in cells:
        same = selections(target, scores.top(cell["top_percent"]))
        count = sum(part.size for part in same.values())
        entries = top_entries(donor, target, count)
        with entries_transferred(target, donor, entries, cell["scale"]):
            held = 100 * count / total
            yield cell, study.judge(target, study.cells, *PURPOSES, parameters_percent=held)


def sft_cells(sweep: Sweep, method: str) -> list[Cell]:
    """One arm is one cell."""
    return [{"method": method}]


def measure_sft(study: Study, seed: int, method: str, cells: Sequence[Cell]) -> Measured:
    """One arm of light fine-tuning; the arms share data, order, steps and learning rate.

    Only LoRA has a learning rate of its own, since it needs a larger one.
    """
    settings = study.preset.sweep.sft
    lora = method.endswith("_lora")
    rate = settings.lora_learning_rate if lora else settings.learning_rate
    training = Training(steps=settings.steps, learning_rate=rate, batch_size=settings.batch_size)
    for cell in cells:
        start = sft_start(study, seed, method.removesuffix("_lora"))
        yield cell, light_sft(study, seed, start, training, settings.judged, lora=lora)


def sft_start(study: Study, seed: int, arm: str) -> tuple[ChannelMask, float] | None:
    """What is transferred before an arm of fine-tuning: a mask and a scale, or nothing."""
    settings = study.preset.sweep.sft
    if arm == "sft_only":
        return None
    scores = study.scores(study.lost, seed)
    if arm in ("donor_sft", "interpolation_sft"):
        return everything(scores), settings.interpolation if arm == "interpolation_sft" else 1.0
    name = {"act_sft": "act_global", "random_sft": "random_matched"}[arm]
    return chosen(name, settings.percent, scores), settings.scale


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
    return spec.cells if isinstance(spec, TunedModel) else study.abilities_of(name)


def merging_cells(sweep: Sweep, method: str) -> list[Cell]:
    """Percent (density of TIES and DARE, layers of layer swapping), scale, draw, and how many."""
    grid = list(product(sweep.merging_percents, sweep.scales))
    scales = [round((n + 1) / (len(grid) + 1), 4) for n in range(len(grid))]
    if method == "ends":
        settings = [{"top_percent": 0, "scale": 0, "draw": 0}]
    elif method == "mean_weights":
        settings = [{"top_percent": 100, "scale": 1, "draw": 0}]
    elif method == "task_arithmetic":
        settings = [{"top_percent": 100, "scale": scale, "draw": 0} for scale in scales]
    elif method == "layer_swap":
        settings = [{"top_percent": 100 * scale, "scale": 1, "draw": 0} for scale in scales]
    else:
        draws = range(MERGING_DRAWS if method == "random_matched" else 1)
        settings = [
            {"top_percent": percent, "scale": scale, "draw": draw}
            for (percent, scale), draw in product(grid, draws)
        ]
    sizes = (2,) if method == "layer_swap" else (2, 3)
    return [{"method": method, **s, "specialists": n} for n, s in product(sizes, settings)]


def measure_merging(study: Study, seed: int, method: str, cells: Sequence[Cell]) -> Measured:
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
                yield cell, study.judge(model, judged, *PURPOSES)


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
        share = {"density": percent / 100} if method in ("ties", "dare_linear") else {}
        share |= {"percent": percent} if method == "layer_swap" else {}
        models = list(donors.values())
        return baseline_merged(base, models, method, scale=scale, seed=cell["draw"], **share)
    masks = {name: scores[name].top(percent) for name in donors}
    if method == "random_matched":
        masks = random_instead(masks, cell["draw"])
    parts = [(donors[name], masks[name], scale) for name in donors]
    return merged(base, parts, MERGES.get(method, "sum"))


def causal_cells(sweep: Sweep, method: str) -> list[Cell]:
    """Patching at each percent, and each ablation at the smallest; random masks in all draws."""
    if method == "ends":
        return [{"method": name} for name in ("donor", "target")]
    kinds = [("patch", percent) for percent in sweep.causal_percents]
    kinds += [(how, min(sweep.causal_percents)) for how in ABLATIONS]
    return [
        {"method": method, "how": how, "top_percent": percent, "draw": draw}
        for how, percent in kinds
        for draw in range(sweep.random_draws if method in RANDOM else 1)
    ]


def measure_causality(study: Study, seed: int, method: str, cells: Sequence[Cell]) -> Measured:
    """The target with the donor's activations patched in, and the donor with its own ablated."""
    models = {name: study.model(name, seed) for name in ("donor", "target")}
    scores = study.scores(study.lost, seed)
    means = study.scores(study.cells, seed).means
    for cell in cells:
        if method == "ends":
            yield cell, study.judge(models[cell["method"]], study.cells)
            continue
        mask = chosen(method, cell["top_percent"], scores, draw=cell["draw"])
        if cell["how"] == "patch":
            model, change = models["target"], partial(patched, donor=models["donor"])
        else:
            how = {"how": cell["how"], "means": means, "seed": cell["draw"]}
            model, change = models["donor"], partial(ablated, **how)
        with change(model, mask=mask):
            yield cell, study.judge(model, study.cells)


PARTS = {
    "transfer": Part(
        {
            "rankings": (
                "ends", "act_global", "act_module", "act_scaled", "act_relative", "act_contrast",
            ),
            "controls": (
                "weight_difference", "weight_scaled", "bottom", "whole_modules", "task_vector",
                "interpolation",
            ),
            "random": RANDOM,
        },
        _pair,
        transfer_cells,
        measure_transfer,
    ),
    "sft": Part(
        {"full": ARMS, "lora": LORA_ARMS}, _pair, sft_cells, measure_sft
    ),
    "merging": Part(
        {"act": ("ends", *MERGES), "random": ("random_matched",), "baselines": BASELINES},
        lambda study: list(
            dict.fromkeys(
                ["base", *(name for names in merging_sizes(study).values() for name in names)]
            )
        ),
        merging_cells,
        measure_merging,
    ),
    "causality": Part(
        {"all": ("ends", "act_global", "act_scaled", "random_matched", "random_scaled")},
        _pair,
        causal_cells,
        measure_causality,
    ),
}  # fmt: skip
"""The parts of the sweep by name."""
