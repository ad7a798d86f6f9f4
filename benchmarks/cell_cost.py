"""Time one setting of a sweep: by a fresh copy of the model, and by walking through transfers.

    python benchmarks/cell_cost.py --preset tiny --repeats 3
    python benchmarks/cell_cost.py --preset tiny --save     # also writes the table
    python benchmarks/cell_cost.py --preset smol     # trains models that are missing

A setting is one mask at one scale, judged on the test items of one ability. Three stages:

- *setting*: "copy" copies the target, transfers, tokenizes the items and judges; "walk" moves the
  one target on to the next mask and judges on batches that were made once.
- *moving*: the part of that which changes the model, also with `transferred`, which puts the
  target back each time. The scale stays, as in a walk over masks that are ordered by scale.
- *moving, new scale*: the same with a scale that differs from setting to setting, where a walk has
  to write the whole mask again.

All ways of a stage run in turn, so that a change in what else the machine does meets each of them.
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from transformers import PreTrainedModel

from actlib.evaluation import evaluate
from actlib.masks import ChannelMask
from actlib.study.session import Study
from actlib.transfer import transfer_, transferred
from actlib.walks import moving

Settings = Sequence[tuple[ChannelMask, float]]
Models = tuple[PreTrainedModel, PreTrainedModel]
Way = Callable[[], pd.DataFrame | None]


def cell_costs(study: Study, repeats: int = 3) -> pd.DataFrame:
    """Seconds a setting takes, by stage and way, over the preset's percents of channels in order.

    One run goes through all settings; its time, with what the way does before and after its loop
    such as keeping and restoring the target, is divided by their number.

    Args:
        study: of the preset; models and scores that are missing are built first, untimed.
        repeats: runs of each way, after one that is not counted.

    Returns:
        stage, way, median, min, max (seconds per setting over the runs), runs, settings.

    Raises:
        ValueError: there is no run, or the ways to judge a setting do not agree.
    """
    if repeats < 1:
        raise ValueError(f"expected at least 1 run of each way, got {repeats}")
    models = study.model("donor"), study.model("target")
    scores, scales = study.scores(study.lost), study.preset.grids.scales
    masks = [scores.top(percent) for percent in study.preset.grids.percents]
    fixed = [(mask, scales[0]) for mask in masks]
    # Every other one is halved, so that no two neighbors agree even if the preset has one scale.
    varied = [(mask, scales[0] / (1 + place % 2)) for place, mask in enumerate(masks)]
    stages = {
        "setting": judging_ways(study, models, fixed),
        "moving": moving_ways(models, fixed),
        "moving, new scale": moving_ways(models, varied),
    }
    rows = []
    for stage, ways in stages.items():
        for way, seconds in times_in_turn(ways, repeats).items():
            rows.append({"stage": stage, "way": way, **_spread(seconds, len(masks))})
    return pd.DataFrame(rows)


def judging_ways(study: Study, models: Models, settings: Settings) -> dict[str, Way]:
    """Ways to move and judge on the first lost ability; each returns the rows of all settings.

    Raises:
        ValueError: they do not give the same numbers.
    """
    donor, target = models
    cell = study.lost[0]
    batches = study.batches(cell, "test")

    def by_copy() -> pd.DataFrame:
        frames = []
        for mask, scale in settings:
            model = copy.deepcopy(target)
            transfer_(model, donor, mask, scale)
            frames.append(evaluate(model, study.batches(cell, "test")))  # tokenized anew
        return pd.concat(frames, ignore_index=True)[["nll", "exact"]]

    def by_walk() -> pd.DataFrame:
        frames = []
        with moving(target, donor) as move:
            for mask, scale in settings:
                move(mask, scale)
                frames.append(evaluate(target, batches))
        return pd.concat(frames, ignore_index=True)[["nll", "exact"]]

    if not by_copy().equals(by_walk()):
        raise ValueError("expected the same numbers from a copy and from a walk, and they differ")
    return {"copy": by_copy, "walk": by_walk}


def moving_ways(models: Models, settings: Settings) -> dict[str, Way]:
    """Ways to give the target one transfer after another, without judging it."""
    donor, target = models

    def by_copy() -> None:
        for mask, scale in settings:
            transfer_(copy.deepcopy(target), donor, mask, scale)

    def by_transferred() -> None:
        for mask, scale in settings:
            with transferred(target, donor, mask, scale):
                pass

    def by_walk() -> None:
        with moving(target, donor) as move:
            for mask, scale in settings:
                move(mask, scale)

    return {"copy": by_copy, "transferred": by_transferred, "walk": by_walk}


def times_in_turn(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each way, in rounds over the ways; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _spread(seconds: Sequence[float], settings: int) -> dict[str, float | int]:
    each = pd.Series(seconds) / settings
    told = {"median": each.median(), "min": each.min(), "max": each.max()}
    return told | {"runs": len(each), "settings": settings}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the preset of the command line and print the table."""
    parser = argparse.ArgumentParser(description="Time one setting of a sweep, two ways.")
    parser.add_argument("--preset", default="tiny", help="name in configs/ or path of a YAML file")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each way")
    parser.add_argument(
        "--save", action="store_true", help="write figures/PRESET/tab_cell_cost.csv"
    )
    parser.add_argument("--figures", default="", help="folder of the table instead")
    chosen = parser.parse_args(arguments)
    study = Study.open(chosen.preset, figures=chosen.figures)
    table = cell_costs(study, chosen.repeats)
    print(table.to_string(index=False, float_format="{:.4g}".format))
    if chosen.save:
        study.save_table(table, "tab_cell_cost")


if __name__ == "__main__":
    main()
