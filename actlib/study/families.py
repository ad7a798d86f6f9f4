"""The models of a preset, built once, in folders that transformers can load.

    folder = build(preset, "multilingual", seed=0, store=Path("artifacts"))

A model is built in a hidden folder and renamed into place, so a folder that exists is whole. It
holds ``built.json``, its record and the recipe it was made by; a folder made by another recipe is
built again. A second process that wants the same model waits, and a long training that was killed
goes on from its last checkpoint.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch

from actlib.files import atomic_folder
from actlib.study.locking import locked
from actlib.study.presets import LoadedModel, Preset, TunedModel, WheelModel
from actlib.study.provenance import provenance
from actlib.study.questions import data_digest, data_folder
from actlib.study.recipes import recipe
from actlib.study.trained_cards import trained_card
from actlib.study.training import dequantize, train_model


def model_folder(preset: Preset, name: str, seed: int, store: Path) -> Path | str:
    """Where a model of a preset lies, built or not: its own folder or Hub id if it is loaded."""
    spec = preset.models[name]
    if isinstance(spec, LoadedModel):
        return spec.load
    part = name if isinstance(spec, WheelModel) else f"{name}-seed{seed}"
    return store / preset.name / "models" / part


def build(preset: Preset, name: str, seed: int, store: Path) -> Path | str:
    """Folder (or Hub id) of a model, built first with its ancestors where it is missing or stale.

    Raises:
        ValueError: the wheel's hash is not the preset's.
    """
    spec, folder = preset.models[name], model_folder(preset, name, seed, store)
    if not isinstance(folder, Path):  # of a model that is only loaded
        return folder
    digest = recipe(preset, name, seed)
    if _is_there(folder, digest):
        return folder
    start = build(preset, spec.start, seed, store) if isinstance(spec, TunedModel) else None
    with locked(folder.with_name(f".{folder.name}.lock"), f"building the model {folder.name}"):
        if not _is_there(folder, digest):  # made by another process meanwhile
            _make(preset, name, seed, folder, start)
    return folder


def _is_there(folder: Path, digest: str) -> bool:
    note = folder / "built.json"
    return note.is_file() and json.loads(note.read_text())["recipe"] == digest


def _make(preset: Preset, name: str, seed: int, folder: Path, start: Path | str | None) -> None:
    spec = preset.models[name]
    assert not isinstance(spec, LoadedModel), "a model that is only loaded is not built"
    checkpoints = folder.with_name(f".{folder.name}.training")
    losses: list[float] = []
    for left in folder.parent.glob(f".{folder.name}.*.partial"):  # by a process that was killed
        shutil.rmtree(left)
    with atomic_folder(folder, replace=True) as unfinished:
        if isinstance(spec, WheelModel):
            with tempfile.TemporaryDirectory(dir=unfinished.parent) as scratch:
                model, tokenizer = dequantize(spec, Path(scratch))
        else:
            model, tokenizer, losses = train_model(preset, spec, start, seed, True, checkpoints)
        model.to(getattr(torch, preset.dtype)).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        note = {"recipe": recipe(preset, name, seed), "model": name, "seed": seed}
        note |= {"training_loss": losses, "preset": preset.name}
        inputs = {"start": start} if start is not None else {}
        inputs |= {"training data": data_folder(preset.data)} if preset.data.path else {}
        note |= {"provenance": provenance(inputs, data_sha256=data_digest(preset.data))}
        (unfinished / "built.json").write_text(json.dumps(note))
        card = trained_card(preset, name, seed)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(checkpoints, ignore_errors=True)
