"""Model cards: of folders that a transfer, merge or patch made, and of trained models.

    step = describe_step("transfer", "target", "donor", mask, scale=0.4)
    write_card(folder, [*read_steps(folder), step])            # in the copy of the target's folder

`actlib.json` in a folder lists its steps for programs, and the card in README.md says the same for
people, without a path of the machine. The target's own card goes beside it as `README.target.md`:
what it reports was measured on the target, and its terms must not get lost. Its license, language
and task are taken over. The prose is in `templates/`. Names, rankings and abilities come from
others and appear as plain text, whatever HTML or Markdown is in them.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

import actlib
from actlib.loading import is_hub_name, public_name
from actlib.masks import ChannelMask

CARD, TARGET_CARD, STEPS = "README.md", "README.target.md", "actlib.json"
_MARK = "<!-- Written by actlib from what it did; it replaces this card at each further step. -->"
_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_TAGS = ["ability-transfer", "act", "actlib"]
_CARRIED = ("license", "license_name", "license_link", "language", "pipeline_tag")


def describe_step(
    method: str,
    target: str | os.PathLike,
    donor: str | os.PathLike,
    mask: ChannelMask,
    scale: float,
    **more: Any,
) -> dict[str, Any]:
    """What a folder's list of steps says of a transfer, a patch or one donor of a merge.

    Further entries are such as `collisions`, the rule of a merge.
    """
    libraries = ("torch", "transformers", "safetensors")
    versions = [f"actlib {actlib.__version__}", *(f"{name} {version(name)}" for name in libraries)]
    return {
        "method": method,
        "target": public_name(target),
        "donor": public_name(donor),
        "scale": float(scale),
        "channels": mask.count,
        "percent": mask.percent,
        "mask_sha256": mask.digest,
        **{key: mask.metadata[key] for key in ("ranking", "ability") if key in mask.metadata},
        **more,
        "created_with": ", ".join(versions),
    }


def read_steps(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """What was done to a folder, the first step first; empty where nothing was.

    Raises:
        ValueError: the list is there and is not readable.
    """
    path = Path(folder) / STEPS
    try:
        steps = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}; remove it") from error
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"{path} is not a list of steps; remove it to go on without it")
    return steps


def write_card(folder: str | os.PathLike, steps: Sequence[Mapping[str, Any]]) -> None:
    """Write the list of steps and the card of a copy of the target's folder.

    Without a step the target's own card is given back.
    """
    card, saved = Path(folder) / CARD, Path(folder) / TARGET_CARD
    if card.is_file() and _MARK not in card.read_text(encoding="utf-8", errors="replace"):
        card.replace(saved)
    if steps:
        text = json.dumps(list(steps), indent=2, ensure_ascii=False)
        (Path(folder) / STEPS).write_text(f"{text}\n", encoding="utf-8")
        card.write_text(_folder_card(steps, saved), encoding="utf-8")
        return
    for path in (card, Path(folder) / STEPS):
        path.unlink(missing_ok=True)
    if saved.is_file():
        saved.replace(card)


def model_card(title: str, metadata: Mapping[str, Any], **parts: Any) -> str:
    """A model's card in Markdown, from the template.

    Args:
        title: of the page, as Markdown; see `plain` for text of others.
        metadata: what model hubs read, such as license and language.
        **parts: what the template shows; of a trained model its `summary`, and `sections`, headings
            with their text.
    """
    data = ModelCardData(library_name="transformers", ignore_metadata_errors=True, **metadata)
    return f"{ModelCard.from_template(data, str(_TEMPLATE), title=title, **parts)}\n"


def plain(text: object) -> str:
    """Text as text: on one line, and with nothing in it that HTML or Markdown would act on."""
    marks = r"[&<>\"'\\`*_{}\[\]()#|~$!:@]"
    return re.sub(marks, lambda mark: f"&#{ord(mark[0])};", " ".join(str(text).split()))


def _folder_card(steps: Sequence[Mapping[str, Any]], target_card: Path) -> str:
    """The card of a folder that was changed in steps."""
    target = str(steps[0].get("target", "the target"))
    donors = list(dict.fromkeys(str(step.get("donor", "a donor")) for step in steps))
    on_hub = [name for name in dict.fromkeys([target, *donors]) if is_hub_name(name)]
    collisions = [
        f"{step.get('collided_channels', 'some')} by the rule {step['collisions']}"
        for step in steps
        if "collisions" in step
    ]
    return model_card(
        f"{plain(target)}, with channels of {plain(', '.join(donors))}",
        {"base_model": on_hub or None, "tags": _TAGS, **_read_terms(target_card)},
        mark=_MARK,
        target=plain(target),
        steps=[{key: plain(text) for key, text in step.items()} for step in steps],
        collisions=plain(", ".join(dict.fromkeys(collisions))),
        target_card=TARGET_CARD if target_card.is_file() else "",
        record=STEPS,
    )


def _read_terms(card: Path) -> dict[str, str | list[str]]:
    """What a card states of license, language and task, where anybody can read it."""
    try:
        stated = ModelCard(card.read_text("utf-8", "replace"), ignore_metadata_errors=True).data
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}
    terms = {key: stated.get(key) for key in _CARRIED}
    lists = {key: term if isinstance(term, list) else [term] for key, term in terms.items()}
    fine = {key for key, parts in lists.items() if parts and all(isinstance(p, str) for p in parts)}
    return {key: term for key, term in terms.items() if key in fine}
