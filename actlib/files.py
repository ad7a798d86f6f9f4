"""Writes files and folders whole or not at all, and tensors with metadata and a hash.

    with atomic_folder(output) as unfinished:
        ...                                      # write into `unfinished`
    with atomic_file(path) as unfinished:
        table.to_parquet(unfinished)
    save_tensors(path, "ChannelMask", channels, metadata)

What is written grows in a hidden folder beside the output and is renamed at the end. After an error
the hidden folder is removed; after a kill `.NAME.*.partial` stays. No lock is taken, so shared file
systems without `flock` (NFS, Lustre) work too.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # figures are written by this file too, and need no torch
    from torch import Tensor

RESERVED = "actlib"
"""Key of the metadata under which `save_tensors` keeps the kind, the order and the hash."""
_REMEDY = (
    "copy or download it again, or make scores by `actlib record`, a mask of them by `actlib mask` "
    "or a patch by `actlib patch make`"
)
_UNREADABLE = (
    *(SafetensorError, OSError, ValueError),
    *(KeyError, TypeError, AttributeError, RecursionError),
)


def require_free(output: Path) -> None:
    """Raise ValueError for an output folder that holds something."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"the output folder {output} exists and is not empty; name another")


@contextmanager
def atomic_folder(output: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that takes the name `output` at the end of the block, or goes away after an error.

    The output is absent or empty, or with `replace` what it holds goes.

    Raises:
        OSError: the disk is full, or the folder around `output` cannot be written.
    """
    output = Path(os.path.realpath(output))  # where a link leads
    with _hidden_folder(output) as hidden:
        unfinished = hidden / output.name
        unfinished.mkdir()
        yield unfinished
        if replace and output.exists():
            # Renamed first: a kill while it is removed must not leave a part of it in its place.
            output.rename(hidden / "replaced")
        unfinished.replace(output)


@contextmanager
def atomic_file(output: Path) -> Iterator[Path]:
    """The path of a file to write, which takes the name `output` at the end of the block.

    Its bytes are on the disk by then; what `output` held before is replaced.

    Raises:
        OSError: the disk is full, or the folder around `output` cannot be written.
    """
    with _hidden_folder(output) as hidden:
        unfinished = hidden / output.name
        yield unfinished
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.replace(output)


def write_text(output: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; see `atomic_file`."""
    with atomic_file(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def require_metadata(metadata: Mapping[str, str], reserved: tuple[str, ...] = (RESERVED,)) -> None:
    """Raise ValueError for metadata that a file could not hold or would not give back."""
    for key, value in metadata.items():
        if key in reserved:
            raise ValueError(
                f"metadata must not use the key {key!r}, which actlib keeps for itself; rename it"
            )
        if not isinstance(value, str):
            raise ValueError(f"metadata must be text, got {key!r}: {value!r}; write it as str(...)")


def save_tensors(
    path: str | os.PathLike, kind: str, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]
) -> None:
    """Write named tensors to a safetensors file, whole or not at all.

    The order of the names is kept in the file's metadata, because safetensors sorts its tensors and
    ties are broken by module order; so is the SHA-256 of the tensors, which shows damage. The
    metadata are such as `require_metadata` lets pass.
    """
    from safetensors.torch import save_file

    header = {"kind": kind, "order": list(tensors), "sha256": digest_tensors(tensors)}
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_file(Path(path)) as unfinished:
        save_file(copies, unfinished, {RESERVED: json.dumps(header), **metadata})


def load_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Read tensors in their saved order, and the metadata, from a file of `save_tensors`.

    Raises:
        ValueError: there is no such file, it is of another kind, or it is damaged.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no {kind} file {path}; {_REMEDY}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            header = json.loads(metadata.pop(RESERVED, "{}"))
            stored_kind = header.get("kind", "no actlib data")
            if stored_kind == kind:
                tensors = {name: file.get_tensor(name) for name in header["order"]}
                if header["sha256"] == digest_tensors(tensors):
                    return tensors, metadata
                raise SafetensorError("its numbers are not those that were saved")
    except _UNREADABLE as error:
        message = f"{path} is not a readable {kind} file, or damaged: {error}; {_REMEDY}"
        raise ValueError(message) from error
    raise ValueError(f"{path} holds {stored_kind}, not {kind}; {_REMEDY}")


def digest_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 of tensors with their names, types and shapes."""
    import torch

    state = hashlib.sha256()
    for name, tensor in tensors.items():
        state.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


@contextmanager
def _hidden_folder(output: Path) -> Iterator[Path]:
    """A folder beside the output, on the same disk, that goes at the end."""
    output.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(".partial", f".{output.name}.", output.parent))
    try:
        yield hidden
    except SafetensorError as error:  # its writer's, which is no `OSError` and names no file
        raise OSError(f"{output} cannot be written: {error}") from error
    except OSError as error:  # the system's, which names no file where the disk is full
        error.filename = error.filename or str(output)
        raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def unique_entries(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The entries of an object of JSON, for the `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: two have the same name, of which json would take the last.
    """
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{name} is listed twice; keep one")
        entries[name] = value
    return entries
