"""The long statistics: every setting of a grid on every training seed, each kept, none run twice.

    run(study, "transfer", "rankings", seed=0)    # one job of the runner; goes on where it stopped
    collect(study)                                # data/sweeps/PRESET/PART.parquet, kept in git
    table = kept("smol", "transfer")              # what the notebooks read

A cell is one setting of one method on one seed. Its items are kept in a file named by a digest of
all that decides them, so that a rerun measures only what is missing or has another recipe.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from actlib.files import atomic_file, write_text
from actlib.study.locking import locked
from actlib.study.old_session import Study
from actlib.study.presets import ROOT
from actlib.study.provenance import write_provenance
from actlib.study.questions import data_digest
from actlib.study.recipes import recipe
from actlib.study.sweep_channels import Cell
from actlib.study.sweep_parts import PARTS, Part, require_sweep

KEPT = Path(os.environ.get("ACT_SWEEPS", ROOT / "data" / "sweeps"))
MEASURING = 1  # raised when a measurement changes its meaning, so that cells are measured anew
FIRST = ("part", "seed", "specialists", "method", "how", "top_percent", "scale", "draw", "steps")


def open_sweep(preset: str) -> Study:
    """The study of a preset with the sweep's numbers of items.

    Raises:
        ValueError: the preset is unknown or wrong, or has no section ``sweep``.
    """
    study = Study.open(preset)
    sweep = require_sweep(study.preset)
    counts = {"validation_items": sweep.validation_items, "test_items": sweep.test_items}
    evaluation = study.preset.evaluation.model_copy(update=counts)
    return replace(study, preset=study.preset.model_copy(update={"evaluation": evaluation}))


def digest_of(study: Study, part: str, seed: int, cell: Cell) -> str:
    """Digest of all that decides a cell's items: models, questions, settings, and the cell."""
    preset = study.preset
    names = [study.name_of(role) for role in PARTS[part].models(study)]
    told = [MEASURING, part, cell, {name: recipe(preset, name, seed) for name in names}]
    told += [preset.evaluation.model_dump(), data_digest(preset.data), preset.lost, preset.retained]
    told += [require_sweep(preset).sft.model_dump(exclude={"lora"})] if part == "sft" else []
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def run(study: Study, part: str, bundle: str, seed: int) -> Path:
    """Measure what is missing of one bundle of methods on one seed; see `PARTS`.

    Returns:
        A note that lists the bundle's cells with their files, each of which holds one row an item:
        the cell's settings, cell (the ability), purpose, item, cluster, nll (nats per answer
        token), exact (0 or 1), seconds (that the cell took).

    Raises:
        ValueError: the part or the bundle is unknown.
    """
    if part not in PARTS or bundle not in PARTS[part].bundles:
        known = [f"{name} {one}" for name, found in PARTS.items() for one in found.bundles]
        raise ValueError(f"unknown part {part!r} {bundle!r}: expected one of {', '.join(known)}")
    lock = _folder(study) / f".{part}-{bundle}-seed{seed}.lock"
    with locked(lock, f"measuring {part} {bundle}, seed {seed}"):
        return _run(study, part, bundle, seed)


def _run(study: Study, part: str, bundle: str, seed: int) -> Path:
    files = _files(study, part, bundle, seed)
    missing = {method: cells for method, cells in files.items() if any(_absent(cells))}
    bar = tqdm(total=sum(map(len, files.values())), desc=f"sweep {part} {bundle}, seed {seed}")
    bar.update(bar.total - sum(len(list(_absent(cells))) for cells in missing.values()))
    for method, cells in missing.items():
        paths = {json.dumps(cell): path for cell, path in cells}
        wanted = [cell for cell, path in _absent(cells)]
        started = time.perf_counter()
        for cell, rows in PARTS[part].measure(study, seed, method, wanted):
            seconds = time.perf_counter() - started
            labels: dict[str, Any] = {"part": part, "seed": seed, **cell, "seconds": seconds}
            _write(rows.assign(**labels), paths[json.dumps(cell)])
            bar.update()
            started = time.perf_counter()
    bar.close()
    note = _folder(study) / f"{part}-{bundle}-seed{seed}.json"
    listed = [{**cell, "file": path.name} for cells in files.values() for cell, path in cells]
    write_text(note, json.dumps(listed, indent=1) + "\n")
    for role in PARTS[part].models(study):
        study.folder(role, seed)
    study.write_provenance(_folder(study), note.stem, seeds=[seed], measuring=MEASURING)
    return note


def collect(study: Study) -> list[Path]:
    """Merge the cells of all seeds into one tidy table a part, under ``data/sweeps/PRESET``.

    Returns:
        The files written.

    Raises:
        ValueError: a cell was not measured yet; the sentence tells how many.
    """
    paths = []
    for name, part in PARTS.items():
        files = [path for _, path in _all_files(study, name, part)]
        missing = sum(not path.is_file() for path in files)
        if missing:
            raise ValueError(f"{missing} of {len(files)} cells of the part {name!r} are missing")
        table = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
        first = [column for column in FIRST if column in table]
        table = table[[*first, *(column for column in table if column not in first)]]
        table.attrs = {"actlib": _origin(study, name, part)}
        path = KEPT / study.preset.name / f"{name}.parquet"
        _write(table, path)
        settings = {"measuring": MEASURING, "data_sha256": data_digest(study.preset.data)}
        seeds = require_sweep(study.preset).seeds
        write_provenance(path.parent, name, {}, seeds=seeds, **settings)
        paths.append(path)
    return paths


def kept(preset: str, part: str) -> pd.DataFrame:
    """The kept table of a part of the sweep: one row an item and cell; see `run`.

    Raises:
        ValueError: there is none; the sentence tells how to make it.
    """
    path = KEPT / preset / f"{part}.parquet"
    if not path.is_file():
        raise ValueError(
            f"no sweep of the preset {preset!r} is kept ({part}): run `make sweep PRESET={preset}`"
        )
    return pd.read_parquet(path)


def kept_or(study: Study, part: str, measured: pd.DataFrame) -> pd.DataFrame:
    """The kept table where it is of this study's models, otherwise the rows ``measured`` now.

    It says which in one printed line, so that a reader of the notebook knows.
    """
    name = study.preset.name
    if (KEPT / name / f"{part}.parquet").is_file():
        table = kept(name, part)
        study.reads(f"kept sweep, {part}", KEPT / name / f"{part}.parquet")
        # Taken off: pandas would copy them into every frame made of this one.
        made = table.attrs.pop("actlib", {}).get("recipes", {})
        if all(_same_model(study, model, digest) for model, digest in made.items()):
            seeds = table["seed"].nunique()
            print(f"rows of the kept sweep: {len(table):,} over {seeds} training seeds")
            return table
    print(f"rows measured in this notebook; for all seeds and methods: make sweep PRESET={name}")
    return measured


def measured(study: Study, part: str, cells: Iterable[Cell], seeds: Iterable[int]) -> pd.DataFrame:
    """Rows of some cells of a part, measured now and not kept; see `run` for the columns."""
    frames, cells = [], list(cells)
    for seed in seeds:
        for method in dict.fromkeys(cell["method"] for cell in cells):
            group = "ends" if method in ("donor", "target") else method
            wanted = [cell for cell in cells if cell["method"] == method]
            steps = PARTS[part].measure(study, seed, group, wanted)
            for cell, rows in tqdm(steps, total=len(wanted), desc=f"{part}: {method}, seed {seed}"):
                frames.append(rows.assign(part=part, seed=seed, **cell))
    return pd.concat(frames, ignore_index=True)


def _same_model(study: Study, model: str, digest: str) -> bool:
    name, _, seed = model.rpartition("-seed")
    known = name in study.preset.models
    return known and recipe(study.preset, name, int(seed)) == digest


def _folder(study: Study) -> Path:
    return study.store / study.preset.name / "sweep"


def _origin(study: Study, name: str, part: Part) -> dict:
    # What a table was made from, so that a test can tell a stale one.
    names = [study.name_of(role) for role in part.models(study)]
    seeds = require_sweep(study.preset).seeds
    recipes = {f"{n}-seed{s}": recipe(study.preset, n, s) for n in names for s in seeds}
    told = {"part": name, "measuring": MEASURING, "recipes": recipes}
    return told | {"data_sha256": data_digest(study.preset.data)}


def _files(study: Study, part: str, bundle: str, seed: int) -> dict[str, list[tuple[Cell, Path]]]:
    sweep, folder = require_sweep(study.preset), _folder(study)
    return {
        method: [
            (cell, folder / f"{part}-{digest_of(study, part, seed, cell)}.parquet")
            for cell in PARTS[part].cells(sweep, method)
            if cell.get("specialists", 2) == 2 or study.preset.roles.three_specialists
        ]
        for method in PARTS[part].bundles[bundle]
    }


def _all_files(study: Study, name: str, part: Part) -> Iterator[tuple[Cell, Path]]:
    for seed in require_sweep(study.preset).seeds:
        for bundle in part.bundles:
            for cells in _files(study, name, bundle, seed).values():
                yield from cells


def _absent(cells: list[tuple[Cell, Path]]) -> Iterator[tuple[Cell, Path]]:
    return ((cell, path) for cell, path in cells if not path.is_file())


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_file(path) as unfinished:
        table.to_parquet(unfinished, index=False, compression="zstd")
