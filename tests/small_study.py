"""A study small enough for unit tests: a few questions of two languages, models of seconds."""

import copy
import json
from pathlib import Path

import pandas as pd
import yaml
from transformers import PreTrainedModel

from actlib.study.presets import ScratchModel
from actlib.study.questions import load_items
from actlib.study.training import small_model

LANGUAGES = ("en", "fr")
ITEMS = {"train": 48, "validation": 16, "test": 16}
TUNED = {"steps": 15, "learning_rate": 3e-3, "batch_size": 8}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "tie_word_embeddings": True}
FAMILY = {
    "base": {"scratch": SIZES, "vocabulary": 400, "abilities": ["en-science"], **TUNED},
    "multilingual": {"start": "base", "abilities": ["fr-maths", "fr-science"], **TUNED},
    "forgetful": {"start": "multilingual", "abilities": ["en-maths"], **TUNED},
    "maths": {"start": "base", "abilities": ["en-maths"], **TUNED},
}
ROLES = {"donor": "multilingual", "target": "forgetful", "base": "base"}
PRESET = {
    "name": "small",
    "description": "for unit tests",
    "dtype": "float32",
    "models": FAMILY,
    "roles": {
        **ROLES,
        "specialists": ["multilingual", "maths"],
        "three_specialists": ["multilingual", "maths", "forgetful"],
    },
    "lost": ["fr-maths", "fr-science"],
    "retained": ["en-maths"],
    "evaluation": {"validation_items": 4, "test_items": 8, "recording_items": 12, "batch_size": 8},
    "sft": {"steps": 2, "learning_rate": 1e-3, "batch_size": 4},
    "sweep": {"seeds": [0]},
}

# A short fine-tuning, and what it is of.
SETTINGS = {"steps": 12, "learning_rate": 5e-3, "batch_size": 4, "mixed_precision": False}
SETTINGS |= {"progress": False}
QUESTIONS = [{"question": f"{n} + {n}?", "answer": f"It is {2 * n}."} for n in range(1, 9)]

# Parameters of notebook 03.
QUICK = {"percents": [20], "methods": ["act_module", "random_module"], "others": []}
QUICK |= {"interpolations": [0.5], "draws": 1}


def write_data(folder: Path) -> Path:
    """Some of the shipped questions of two languages, laid out like the shipped data."""
    for split, count in ITEMS.items():
        (folder / split).mkdir(parents=True)
        items = pd.DataFrame(load_items(split=split))
        for language in LANGUAGES:
            tasks = items[items["language"] == language].groupby("task")
            drawn = tasks.sample(count // 4, random_state=0).sort_index()
            drawn.to_json(folder / split / f"{language}.jsonl", orient="records", lines=True)
    return folder


def write_preset(path: Path, data: Path | None, start: dict | None = None, **changes) -> str:
    """Write a preset like ``start`` (the small family if None) with top-level keys changed."""
    raw = copy.deepcopy(PRESET if start is None else start) | changes
    if data is not None:
        raw["data"] = {"path": str(data)}
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return str(path)


def random_model(tokenizer) -> PreTrainedModel:
    """A model of the small family before any training."""
    unused = {"abilities": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
    return small_model(ScratchModel(scratch=SIZES, **unused), tokenizer)


def write_pair(folder: Path, tokenizer) -> None:
    """Folders of donor, target and base, with random weights and a tokenizer."""
    for role in ("donor", "target", "base"):
        random_model(tokenizer).save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)


def write_own(folder: Path, text="", file="mine.yaml", **changes) -> str:
    """Write what `write_pair` made as ten lines of YAML, keys changed, or left out by None."""
    raw = {"donor": "donor", "target": "target", "questions": "questions.jsonl"}
    raw |= {"lost": "de-maths", "retained": "en-maths"} | changes
    raw = {key: value for key, value in raw.items() if value is not None}
    (folder / file).write_text(yaml.safe_dump(raw) + text, encoding="utf-8")
    return str(folder / file)


def write_questions(folder: Path, *abilities: str, count: int = 60, answer="It is {}.") -> None:
    """Write `questions.jsonl`, with as many questions of each ability."""
    rows = [
        {"question": f"{name} {n}?", "answer": answer.format(n), "ability": name}
        for n in range(count)
        for name in abilities
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
