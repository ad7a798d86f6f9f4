"""The model card of a folder that a transfer, a merge or a patch made, and the card of a patch.

    write_card(folder)  # from the notes in it; also puts the target's own card aside
    print(patch_card(inspect_patch("maths.safetensors")))  # to publish beside the patch

The folder's card replaces the target's, which goes beside it as `README.target.md`: what that card
reports was measured on the target, while its terms and warnings must not get lost. Its license,
language and task are taken over as metadata. A folder without notes gets the target's card back, so
that reverting a patch restores the folder.

Names, rankings and abilities come from whoever made a mask or a patch. They appear in the card as
plain text, whatever HTML or Markdown is in them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from actlib.folders import notes
from actlib.folders.patch_files import PatchInfo

CARD, TARGET_CARD = "README.md", "README.target.md"
_MARK = "<!-- Written by actlib from the notes in this folder, and again at each further step. -->"
_CARRIED = ("license", "license_name", "license_link", "language", "pipeline_tag")
_REPOSITORY = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_COLUMNS = ("step", "from", "channels", "scale (λ)", "ranking", "ability", "mask (SHA-256)")
_TEMPLATE = """{mark}

# {title}

{target} with some of its channels moved by `actlib` towards the same channels of other models. Each
moved parameter is *target + λ · (donor − target)*; every other one has the bits of the target. The
method is *Ability Transfer and Recovery via Modularized Parameters Localization* (ACT,
[arXiv 2601.09398](https://arxiv.org/abs/2601.09398)). Nothing was trained, and what the model can
do now was not measured when this card was written.

{table}
{remarks}
The same for programs: {files}. Made with {versions}.
"""
_PATCH_TEMPLATE = """# Ability patch: {ability} for {target}

Some channels of {donor}, to be put into {target}: each parameter that the patch holds is
*target + λ · (donor − target)*, every other one stays. The method is *Ability Transfer and Recovery
via Modularized Parameters Localization* (ACT, [arXiv 2601.09398](https://arxiv.org/abs/2601.09398)).
Nothing was trained. The patch fits that target only: it is refused where the values that it
replaces are others.

|  |  |
| --- | --- |
{table}
Put it in{back} with `actlib`, where TARGET and OUTPUT are model folders:

```bash
{commands}
```

Made with {versions}.
"""


def write_card(folder: Path) -> None:
    """Write a folder's card from its notes, or give it the target's own back if it has none.

    Raises:
        ValueError: a note is not readable.
    """
    card, kept = folder / CARD, folder / TARGET_CARD
    if card.is_file() and _MARK not in card.read_text(encoding="utf-8", errors="replace"):
        card.replace(kept)
    steps, patches = notes.transfers(folder), notes.patches(folder)
    if steps or patches:
        card.write_text(_card(steps, patches, _metadata(kept)), encoding="utf-8")
        return
    card.unlink(missing_ok=True)
    if kept.is_file():
        kept.replace(card)


def patch_card(info: PatchInfo) -> str:
    """The card of a patch in Markdown, from what the patch says of itself.

    Its first lines are the metadata that model hubs read. It tells nothing of how the patched model
    does, which the patch does not know.
    """
    told = {name: _shown(text) for name, text in info.metadata.items()}
    target, donor = (told.get(role, f"the {role}") for role in ("target", "donor"))
    models = [info.metadata.get(role, "") for role in ("target", "donor")]
    metadata = ModelCardData(
        base_model=[name for name in models if _REPOSITORY.fullmatch(name)] or None,
        tags=["ability-transfer", "act", "actlib", "patch"],
        ignore_metadata_errors=True,
    )
    share = f"{float(info.metadata['channel_percent']):.3g} %"
    rows = {
        "target": target,
        "donor": donor,
        "ability": told.get("ability", "not told"),
        "ranking": told.get("ranking", "not told"),
        "channels": f"{told['channels']} ({share} of all)",
        "scale (λ)": told["scale"],
        "parameters": f"{info.elements:,} ({info.parameter_percent:.3g} % of all), in "
        f"{len(info.tensors)} tensors",
        "file": f"{info.bytes / 1e6:.1f} MB",
        "can be taken back": "yes, bit for bit" if info.reversible else "no",
        "mask (SHA-256)": told["mask_sha256"],
    }
    commands = ["actlib patch apply PATCH.safetensors --target TARGET --out OUTPUT"]
    if info.reversible:
        commands.append("actlib patch revert PATCH.safetensors --target OUTPUT --out RESTORED")
    body = _PATCH_TEMPLATE.format(
        ability=told.get("ability", "channels"),
        target=target,
        donor=donor,
        table="".join(f"| {name} | {text} |\n" for name, text in rows.items()),
        back=" or take it out" if info.reversible else "",
        commands="\n".join(commands),
        versions=_shown(_versions(info.metadata.get("created_with"))),
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


def _card(steps: list[dict], patches: list[dict], carried: Mapping[str, Any] | None) -> str:
    rows = [row for step in steps for row in _rows(step)] + [
        _row("patch", each) for each in patches
    ]
    first = (steps or patches)[0]
    target = str(first.get("target", "the target"))
    donors = [str(each["donor"]) for each in _donors(steps, patches)]
    named = [name for name in dict.fromkeys([target, *donors]) if _REPOSITORY.fullmatch(name)]
    metadata = ModelCardData(
        base_model=named or None,
        library_name="transformers",
        tags=["ability-transfer", "act", "actlib"],
        ignore_metadata_errors=True,
        **(carried or {}),
    )
    last = (steps or patches)[-1].get("created_with", {})
    files = [name for name, held in ((notes.TRANSFER, steps), (notes.PATCHES, patches)) if held]
    body = _TEMPLATE.format(
        mark=_MARK,
        title=f"{_shown(target)}, with channels of {_shown(', '.join(dict.fromkeys(donors)))}",
        target=_shown(target),
        table=_table(rows),
        remarks=_remarks(steps, carried is not None),
        files=" and ".join(f"`{name}`" for name in files),
        versions=_shown(_versions(last)),
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


def _donors(steps: Iterable[dict], patches: Iterable[dict]) -> list[dict]:
    found = [each for step in steps for each in step.get("contributions", [step])]
    return [each for each in [*found, *patches] if "donor" in each]


def _rows(step: dict) -> list[list[str]]:
    method = str(step.get("method", "transfer"))
    return [_row(method, each) for each in step.get("contributions", [step])]


def _row(method: str, told: Mapping[str, Any]) -> list[str]:
    count, percent = told.get("channels"), told.get("percent")
    share = "" if percent is None else f" ({float(percent):.3g} %)"
    named = [told.get(key, "not told") for key in ("scale", "ranking", "ability", "mask_sha256")]
    held = "not told" if count is None else f"{count}{share}"
    return [str(each) for each in (method, told.get("donor", "not told"), held, *named)]


def _table(rows: list[list[str]]) -> str:
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *([_shown(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _remarks(steps: list[dict], has_card: bool) -> str:
    merges = [step for step in steps if "collisions" in step]
    told = [
        f"Channels that several donors claimed: {_shown(str(step.get('collided_channels')))}, "
        f"settled by the rule {_shown(str(step['collisions']))}.\n"
        for step in merges
    ]
    if has_card:
        told.append(
            f"The target's own card is kept as [{TARGET_CARD}]({TARGET_CARD}). License, language "
            "and task above are the target's; the donor's terms hold for what came from it.\n"
        )
    return "".join(f"\n{line}" for line in told)


def _versions(told: object) -> str:
    if isinstance(told, str):  # Patches hold text only.
        try:
            told = json.loads(told)
        except ValueError:
            told = {}
    found = told if isinstance(told, dict) and told else {"actlib": "an unknown version"}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _metadata(card: Path) -> dict[str, Any] | None:
    """What the target's card states of license, language and task; None without a card."""
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    try:
        told = ModelCard(text, ignore_metadata_errors=True).data.to_dict() if "---" in text else {}
    except (ValueError, TypeError, yaml.YAMLError):
        return {}  # Metadata that nobody can read state nothing.
    return {key: told[key] for key in _CARRIED if _plain(told.get(key))}


def _plain(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def _shown(text: str) -> str:
    """Text as text: on one line, and with nothing in it that HTML or Markdown would act on."""
    marks = r"[&<>\"'\\`*_{}\[\]()#|~$!:@]"
    return re.sub(marks, lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
