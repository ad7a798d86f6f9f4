"""What was done to a model folder, in two JSON files in it, for programs to read.

`act_transfer.json` is about a transfer or merge, and those before it; `act_patches.json` lists the
patches applied. Neither holds a path of the machine. `actlib.folders.cards` tells people the same.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import actlib
from actlib.masks import ChannelMask

TRANSFER, PATCHES = "act_transfer.json", "act_patches.json"
_LIBRARIES = ("torch", "transformers", "safetensors")


def libraries() -> dict[str, str]:
    """Versions of this package and of those that its results depend on."""
    return {"actlib": actlib.__version__, **{name: version(name) for name in _LIBRARIES}}


def of_mask(mask: ChannelMask) -> dict[str, Any]:
    """What a note says of a mask: its hash, size, ranking and ability, where it knows these."""
    keys: tuple[str, ...] = ("ranking", "ability")
    told = {key: mask.metadata[key] for key in keys if key in mask.metadata}
    counted = {"channels": mask.count, "percent": mask.percent}
    return {"mask_sha256": mask.digest, **counted, **told}


def write_transfer(target: Path, destination: Path, note: dict[str, Any]) -> None:
    """Note a transfer or merge in the folder that it made, after those noted in its target."""
    earlier = transfers(target)
    note = {**note, "created_with": libraries(), **({"earlier": earlier} if earlier else {})}
    _write(destination / TRANSFER, note)


def transfers(folder: Path) -> list[dict[str, Any]]:
    """Notes of a folder's transfers and merges, the first one first.

    Raises:
        ValueError: the file is there and holds no such note.
    """
    path = folder / TRANSFER
    if not path.is_file():
        return []
    note = _read(path)
    earlier = note.pop("earlier", []) if isinstance(note, dict) else None
    if not isinstance(earlier, list) or not all(isinstance(each, dict) for each in earlier):
        raise ValueError(f"{path} is not a note of a transfer; remove it to go on without it")
    for each in (note, *earlier):
        for role in ("donor", "target"):
            if role in each:  # Earlier versions noted the whole path.
                each[role] = Path(str(each[role])).name if _is_path(each[role]) else each[role]
    return [*earlier, note]


def patches(folder: Path) -> list[dict[str, Any]]:
    """Entries of a folder's list of applied patches, the first one first.

    Raises:
        ValueError: the file is there and is no such list.
    """
    path = folder / PATCHES
    listed = _read(path) if path.is_file() else []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError(f"{path} is not a list of patches")
    return listed


def write_patches(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Write the list of applied patches; no file where there are none."""
    if entries:
        _write(folder / PATCHES, entries)
    else:
        (folder / PATCHES).unlink(missing_ok=True)


def _is_path(name: object) -> bool:
    return str(name).startswith(("/", "~", ".")) or str(name).count("/") > 1


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
