"""Where each tensor lies in the safetensors files of a model folder, without reading its numbers.

    stored = stored_tensors(folder)
    stored["lm_head.weight"].open(folder)  # mapped from the file, read as it is used

A safetensors file is 8 bytes of header length, a JSON header, the numbers. Headers and index come
from strangers, so everything in them is checked before it is used.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
# In other formats the weights would still be the target's, and a loader could pick them. Pickled
# files can run code, and the state of a finished training is no part of the model.
_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.gguf", "*.onnx", "tf_model*", "flax_model*")
_LEFT_OUT = (*PICKLED, *_OTHER_FORMATS, "consolidated*")
LONGEST_HEADER = 100_000_000
"""Bytes; the reader of safetensors refuses longer ones too."""
MOST_DIMENSIONS = 32
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Types of numbers that can be moved, by their names in safetensors."""
_ANEW = "copy or download it anew"


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
        remedy = "copy or download them anew" if placed else "save_pretrained writes it"
        raise ValueError(f"the model folder {folder} lacks {', '.join(missing)}; {remedy}")
    found: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in _header(folder / file, file).items():
            if placed.get(name, file) == file:
                found[name] = tensor
    lost = next((name for name in placed if name not in found), None)
    if lost is not None:
        raise ValueError(
            f"{folder / placed[lost]} lacks the tensor {lost} that the index names; {_ANEW}"
        )
    return found


def model_files(folder: Path, weights: Iterable[str]) -> list[Path]:
    """The files of a folder that belong to the model, its weights in safetensors among them.

    Args:
        folder: of the model.
        weights: names of its weight files.

    Raises:
        ValueError: a file is a link to one outside the folder, which may be private.
    """
    # Beside a single file nobody reads shards; other variants would still be the target's.
    others = {path.name for path in folder.glob("model*.safetensors*")} - set(weights)
    others -= {INDEX} if SINGLE not in weights else set()
    carried = [
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
    for path in carried:
        is_weight = str(path.relative_to(folder)) in set(weights)
        if not is_weight and not any(map(path.resolve().is_relative_to, homes)):
            raise ValueError(
                f"{path} is a link to a file outside its folder, which would be copied along; put "
                "the file itself there, or remove the link"
            )
    return carried


def _weight_map(folder: Path) -> dict[str, str]:
    """File of each tensor by the folder's index; empty for a folder without one."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        placed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(file, str) for file in placed.values()):
            raise TypeError("a file name is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = f"{path} is not an index of safetensors files: {error!r}; {_ANEW}"
        raise ValueError(told) from error
    for file in set(placed.values()):
        _require_inside(path, file)
    return placed


def _require_inside(index: Path, file: str) -> None:
    """Refuse the name of a file that is not in the folder, or of another format.

    A link inside the folder may point anywhere, as in the cache of the Hub: whoever placed it had
    the right to, while an index is downloaded text.
    """
    outside = PurePosixPath(file).is_absolute() or PureWindowsPath(file).anchor
    if outside or ".." in (*PurePosixPath(file).parts, *PureWindowsPath(file).parts):
        raise ValueError(f"{index} names the file {file!r}, which is outside its folder")
    if not file.endswith(".safetensors"):
        raise ValueError(f"{index} names the file {file!r}, expected safetensors files only")


def _header(path: Path, file: str) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= min(LONGEST_HEADER, size - 8):
                raise ValueError("the header has no length that it can have")
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        found = {name: _placed(entry, file, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors file, or damaged; {_ANEW}") from error
    if any(tensor.offset + tensor.size > size for tensor in found.values()):
        raise ValueError(f"{path} is cut off; {_ANEW}")
    return found


def _placed(entry: Mapping, file: str, data_start: int) -> StoredTensor:
    """One entry of a header, where its numbers agree with each other."""
    start, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    if not all(isinstance(number, int) and number >= 0 for number in (start, end, *shape)):
        raise ValueError("a size is no count")
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError("the shape has too many dimensions")
    known = DTYPES.get(dtype)
    if end < start or (known and end - start != math.prod(shape) * known.itemsize):
        raise ValueError("the size is not the shape's")
    return StoredTensor(file, dtype, shape, data_start + start, end - start)
