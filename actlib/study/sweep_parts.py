"""What the sweep measures: transfer, fine-tuning, merging, interventions, statistics of channels.

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

from actlib.controls.choices import RANDOM, chosen, everything
from actlib.controls.entries import entries_transferred, top_entries
from actlib.interventions import ABLATIONS, ablated, patched
from actlib.masks import ChannelMask
from actlib.parameters import weight_differences
from actlib.scores import ChannelScores
from actlib.study.experiments import light_sft
from actlib.study.old_session import Study
from actlib.study.presets import Preset, Sweep, Training
from actlib.study.sweep_channels import METHODS as STATISTICS
from actlib.study.sweep_channels import Cell, channel_cells, measure_channels
from actlib.study.sweep_merging import (
    BASELINES,
    MERGES,
    PURPOSES,
    measure_merging,
    merging_cells,
    merging_sizes,
    purposes_of,
)
from actlib.transfer import parameter_percent, selections, transferred

Measured = Iterator[tuple[Cell, pd.DataFrame]]
ARMS = ("sft_only", "act_sft", "random_sft", "interpolation_sft", "donor_sft")
LORA_ARMS = ("sft_only_lora", "act_sft_lora", "random_sft_lora")


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


def require_sweep(preset: Preset) -> Sweep:
    """The section ``sweep`` of a preset.

    Raises:
        ValueError: there is none.
    """
    if preset.sweep is None:
        raise ValueError(
            f"preset {preset.name!r} has no section 'sweep': see configs/smol.yaml for one"
        )
    return preset.sweep


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
    for cell in cells:
        name = "all_rows" if method == "interpolation" else method
        mask = chosen(name, cell["top_percent"], scores, weights, cell["draw"])
        with transferred(target, donor, mask, cell["scale"]):
            held = parameter_percent(target, mask)
            rows = study.judge(target, study.cells, *purposes_of(cell))
        yield cell, rows.assign(parameters_percent=held, channels_percent=mask.percent)


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
    """One arm is one cell; none for an arm of LoRA where the preset has no time for it."""
    if method in LORA_ARMS and not sweep.sft.lora:
        return []
    return [{"method": method}]


def measure_sft(study: Study, seed: int, method: str, cells: Sequence[Cell]) -> Measured:
    """One arm of light fine-tuning; the arms share data, order, steps and learning rate.

    Only LoRA has a learning rate of its own, since it needs a larger one.
    """
    settings = require_sweep(study.preset).sft
    lora = method.endswith("_lora")
    rate = settings.lora_learning_rate if lora else settings.learning_rate
    training = Training(steps=settings.steps, learning_rate=rate, batch_size=settings.batch_size)
    for cell in cells:
        start = sft_start(study, seed, method.removesuffix("_lora"))
        yield cell, light_sft(study, seed, start, training, settings.judged, lora=lora)


def sft_start(study: Study, seed: int, arm: str) -> tuple[ChannelMask, float] | None:
    """What is transferred before an arm of fine-tuning: a mask and a scale, or nothing."""
    settings = require_sweep(study.preset).sft
    if arm == "sft_only":
        return None
    scores = study.scores(study.lost, seed)
    if arm in ("donor_sft", "interpolation_sft"):
        return everything(scores), settings.interpolation if arm == "interpolation_sft" else 1.0
    name = {"act_sft": "act_global", "random_sft": "random_matched"}[arm]
    return chosen(name, settings.percent, scores), settings.scale


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
    change: Callable[..., AbstractContextManager[None]]
    for cell in cells:
        if method == "ends":
            yield cell, study.judge(models[cell["method"]], study.cells)
            continue
        mask = chosen(method, cell["top_percent"], scores, draw=cell["draw"])
        if cell["how"] == "patch":
            model, change = models["target"], partial(patched, donor=models["donor"])
        else:
            model = models["donor"]
            change = partial(ablated, how=cell["how"], means=means, seed=cell["draw"])
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
    "channels": Part({"all": STATISTICS}, _pair, channel_cells, measure_channels),
}  # fmt: skip
"""The parts of the sweep by name."""
