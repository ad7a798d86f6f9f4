"""Where each tensor lies in the safetensors files of a model folder, without reading its numbers.

    stored = stored_tensors(folder)
    stored["lm_head.weight"].open(folder)  # mapped from the file, read as it is used

Headers and index come from strangers: the reader of safetensors checks the former, this file where
the latter leads.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
# In other formats the weights would still be the target's, and a loader could pick them. Pickled
# files can run code, and the state of a finished training is no part of the model.
_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "tf_model*", "flax_model*")
_LEFT_OUT = (*PICKLED, *_OTHER_FORMATS, "consolidated*")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of numbers that can be moved, by their names in safetensors."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes lie in a folder.

    Attributes:
        file: name of the file in the folder.
        dtype: type of the numbers by its safetensors name.
        shape: shape of the tensor.
        offset: first byte in the file.
        size: number of bytes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def rows(self) -> int:
        """Rows as a matrix [all dimensions but the last, last]; of a vector, entries."""
        return math.prod(self.shape[:-1] or self.shape)

    def open(self, folder: Path, *, writable: bool = False) -> Tensor:
        """The tensor, mapped from the file; what is written to it reaches the file if `writable`.

        Raises:
            KeyError: its numbers are of none of `DTYPES`.
        """
        if self.size == 0:
            return torch.empty(self.shape, dtype=DTYPES[self.dtype])
        mode: Literal["r+", "c"] = "r+" if writable else "c"
        data = np.memmap(folder / self.file, np.uint8, mode, self.offset, (self.size,))
        return torch.from_numpy(data).view(DTYPES[self.dtype]).view(self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in a folder's safetensors files, by its stored name.

    Raises:
        ValueError: the folder or one of its files is absent, cut off or no safetensors file, or the
            index names a file outside the folder.
    """
    if not folder.is_dir():
        if folder.exists():
            raise ValueError(f"{folder} is a file; expected a model folder")
        raise ValueError(f"there is no model folder {folder}; download a model of the Hub first")
    # Loading prefers the single file where a folder has both.
    placed = {} if (folder / SINGLE).is_file() else _weight_map(folder)
    files = sorted(set(placed.values())) or [SINGLE]
    missing = [file for file in files if not (folder / file).is_file()]
    pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
    if missing == [SINGLE] and pickled:
        raise ValueError(
            f"the model folder {folder} has its weights in {pickled[0]}, a pickled file, which can "
            "run code and is never loaded; save them as safetensors with save_pretrained"
        )
    if missing:
        remedy = "copy or download them again" if placed else "save_pretrained writes it"
        raise ValueError(f"the model folder {folder} lacks {', '.join(missing)}; {remedy}")
    stored: dict[str, StoredTensor] = {}
    for file in files:
        tensors = _read_header(folder / file, file).items()
        stored |= {name: tensor for name, tensor in tensors if placed.get(name, file) == file}
    if lost := [name for name in placed if name not in stored]:
        raise ValueError(
            f"{folder / placed[lost[0]]} lacks the tensor {lost[0]} that the index names; copy or "
            "download it again"
        )
    return stored


def model_files(folder: Path, weights: Iterable[str]) -> list[Path]:
    """The files of a folder that belong to the model, beside its weights in safetensors.

    Args:
        folder: of the model.
        weights: names of its weight files.

    Raises:
        ValueError: a file is a link to one outside the folder, which may be private.
    """
    # Beside a single file nobody reads shards; other variants would still be the target's.
    weights = set(weights)
    others = weights | {path.name for path in folder.glob("model*.safetensors*")}
    others -= {INDEX} if SINGLE not in weights else set()
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and str(path.relative_to(folder)) not in others
        and not any(map(path.match, _LEFT_OUT))
    ]
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":  # in the Hub's cache files are links into `blobs`
        homes.append(homes[0].parents[1] / "blobs")
    for path in files:
        if not any(map(path.resolve().is_relative_to, homes)):
            raise ValueError(
                f"{path} is a link to a file outside its folder, which would be copied along; put "
                "the file itself there, or remove the link"
            )
    return files


def _weight_map(folder: Path) -> dict[str, str]:
    """File of each tensor by the folder's index; empty for a folder without one.

    A file may be a link that leads anywhere, as in the cache of the Hub: whoever placed it had the
    right to, while an index is downloaded text.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        placed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {file: PureWindowsPath(file) for file in placed.values()}  # knows both slashes
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not an index of safetensors files: {error!r}; copy or download it again"
        ) from error
    for file, name in names.items():
        if name.anchor or ".." in name.parts:
            raise ValueError(f"{path} names the file {file!r}, which is outside its folder")
        if not file.endswith(".safetensors"):
            raise ValueError(f"{path} names the file {file!r}, expected safetensors files only")
    return placed


def _read_header(path: Path, file: str) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="pt"):  # refuses sizes and offsets that do not fit
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a safetensors file, or damaged ({error}); copy or download it again"
        ) from error
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(length))
    stored = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            shape, offset = tuple(entry["shape"]), 8 + length + start
            stored[name] = StoredTensor(file, entry["dtype"], shape, offset, stop - start)
    return stored
