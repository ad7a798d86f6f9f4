"""What a model's weights are decided by, as a digest: its recipe, or the content of its folder.

    recipe(preset, "multilingual", seed=0)            # of a model that the study builds
    content_digest(preset, "donor", seed=0)           # of any model of a preset, without the code

Results that depend on a model are kept under its digest and that of the code, so that they are
computed again when its settings, its data, the code that trains it or the files that someone
brought change.
"""

import inspect
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actlib import finetune, prompts
from actlib.study import training
from actlib.study.presets import LoadedModel, Preset, WheelModel
from actlib.study.questions import data_digest, training_items
from actlib.study.sources import digest_text, syntax_of


def recipe(preset: Preset, name: str, seed: int) -> str:
    """Digest of all that decides a model's weights: its settings and data, code, and versions.

    The kind of processor is no part of it, since the nodes of a cluster differ; weights trained on
    another kind differ in last digits, and in what grows out of them.
    """
    return digest_text(settings_digest(preset, name, seed), training_code())


def settings_digest(preset: Preset, name: str, seed: int) -> str:
    """Digest of what a model is made of: settings of it and its ancestors, seed and data."""
    parts: list[Any] = []
    for part in [name, *preset.ancestors(name)]:
        spec = preset.models[part]
        is_loaded = isinstance(spec, LoadedModel)
        parts.append(content_digest(preset, part, seed) if is_loaded else spec.model_dump())
    seed = 0 if isinstance(preset.models[name], WheelModel) else seed  # one folder for all seeds
    data = data_digest(preset.data)  # their content, wherever they lie
    return digest_text(json.dumps([parts, data, preset.dtype, seed], sort_keys=True))


@cache
def training_code() -> str:
    """Digest of the code that trains and of its libraries' versions."""
    parts = finetune, prompts, training, training_items
    versions = [f"{each} {version(each)}" for each in ("torch", "transformers", "peft")]
    return digest_text(*(syntax_of(inspect.getsource(part)) for part in parts), *versions)


def content_digest(preset: Preset, name: str, seed: int) -> str:
    """Digest of what a model is made of: its settings and data, or what a folder holds.

    Of a folder the names, sizes and times of its files, without those in hidden folders, so that
    weights that are trained again in the same place have another; of a model of the Hub its id and
    revision. The abilities that a loaded model names count, since notebook 06 evaluates by them.
    """
    spec = preset.models[name]
    if not isinstance(spec, LoadedModel):
        return settings_digest(preset, name, seed)
    folder, named = Path(spec.load), spec.abilities or []
    if not folder.is_dir():
        return " ".join([f"{spec.load}@{spec.revision or 'main'}", *named])
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if not any(part[0] == "." for part in path.parts[:-1])]
    stats = [(folder / path).stat() for path in paths]
    facts = [f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in zip(paths, stats, strict=True)]
    return digest_text(str(folder.resolve()), *facts, *named)
