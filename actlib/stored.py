"""Where tensors lie in the safetensors files of a model folder, and which parameters they make up.

    stored = stored_tensors(folder)
    stored["lm_head.weight"].open(folder)           # mapped from the file, read as it is used
    parameters, converted = stored_parameters(stored, model)

Headers and index come from strangers: the reader of safetensors checks the former, this file where
the latter leads. Names in files differ from those in the model for some families (GPT-NeoX
`embed_out`, GPT-2 without its prefix), and experts that the model holds packed in one tensor are
stored one by one. transformers keeps the list of both, and it is asked here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from actlib.wording import list_first

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
ADAPTER = "adapter_config.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of numbers that can be moved, by their names in safetensors."""


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes lie: a file of a folder, the first byte in it, and their number.

    The type of its numbers goes by its safetensors name.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def open(self, folder: Path, *, writable: bool = False) -> Tensor:
        """The tensor, mapped from the file; what is written to it reaches the file if `writable`.

        Raises:
            KeyError: its numbers are of none of `DTYPES`.
        """
        mode: Literal["r+", "c"] = "r+" if writable else "c"
        data = np.memmap(folder / self.file, np.uint8, mode, self.offset, (self.size,))
        return torch.from_numpy(data).view(DTYPES[self.dtype]).view(self.shape)


@dataclass(frozen=True)
class StoredParameter:
    """One parameter of a model in its files: a tensor, or matrices with its rows in their order."""

    shape: tuple[int, ...]
    parts: tuple[StoredTensor, ...]

    @property
    def dtype(self) -> str:
        """Type of the numbers by its safetensors name; several names where the parts differ."""
        return "/".join(sorted({part.dtype for part in self.parts}))

    def open(self, folder: Path) -> Tensor:
        """The parameter, mapped from its file, or put together of several tensors."""
        parts = [part.open(folder) for part in self.parts]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in a folder's safetensors files, by its stored name.

    Raises:
        ValueError: the folder or one of its files is absent, cut off or no safetensors file, the
            folder holds an adapter, or the index names a file outside the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no model folder {folder}; download a model of the Hub first")
    require_no_adapter(folder)
    # Loading prefers the single file where a folder has both.
    placed = {} if (folder / SINGLE).is_file() else _read_index(folder)
    files = sorted(set(placed.values())) or [SINGLE]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        names = list_first(sorted(path.name for path in folder.iterdir()), 9)
        raise ValueError(
            f"the model folder {folder} lacks {', '.join(missing)} and holds {names or 'nothing'}; "
            "name a folder that save_pretrained wrote, whole with the index of its shards (weights "
            "cut up by DeepSpeed or FSDP are put together first, and pickled ones never loaded)"
        )
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


def require_no_adapter(folder: Path) -> None:
    """Raise ValueError for a folder that peft wrote."""
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"the model folder {folder} holds an adapter ({ADAPTER}), which names a model "
            "elsewhere; merge the two with merge_and_unload of peft, and save the result alone"
        )


def _read_index(folder: Path) -> dict[str, str]:
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
        if name.anchor or ".." in name.parts or not file.endswith(".safetensors"):
            raise ValueError(f"{path} names {file!r}, expected safetensors files in its folder")
    return placed


def _read_header(path: Path, file: str) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="pt"):  # refuses sizes and offsets that do not fit
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a safetensors file, or damaged ({error}); copy or download it again, "
            "or fetch it by `git lfs pull`"
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


def stored_parameters(
    stored: Mapping[str, StoredTensor], model: "PreTrainedModel"
) -> tuple[dict[str, StoredParameter], set[str]]:
    """Stored tensors as the model's parameters, by the names that these have in the model.

    Returns:
        The parameters, and the names of those that are stored in a form whose rows are not the
        parameter's (permuted, transposed, split, in part missing).
    """
    from transformers import core_model_loading as loading
    from transformers.conversion_mapping import get_model_conversion_mapping

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, loading.WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, loading.WeightConverter)]
    by_pattern = {key: each for each in converters for key in each.source_patterns}
    state, prefix = model.state_dict(), model.base_model_prefix
    parameters: dict[str, StoredParameter] = {}
    several: dict[str, dict[str, list[StoredTensor]]] = {}
    # The order in which loading stacks experts: 2 before 10.
    for key in sorted(stored, key=loading.dot_natural_key):
        name, pattern = loading.rename_source_key(key, renamings, converters, prefix, state)
        if pattern is None:
            parameters[name] = StoredParameter(stored[key].shape, (stored[key],))
        else:
            several.setdefault(name, {}).setdefault(pattern, []).append(stored[key])
    converted: set[str] = set()
    for name, parts in several.items():
        converter = by_pattern[next(iter(parts))]
        sources = [parts.get(pattern, []) for pattern in converter.source_patterns]
        if (joined := _join(converter, sources)) is not None:
            parameters[name] = joined
        else:
            first, *others = converter.target_patterns
            converted |= {name, *(name.replace(first, other) for other in others)}
    return parameters, converted


def _join(
    converter: "WeightConverter", sources: Sequence[Sequence[StoredTensor]]
) -> StoredParameter | None:
    """The parameter that a conversion makes of tensors, if that only lines up their rows.

    Such as experts.gate_up_proj = expert 0's gate, expert 0's up, expert 1's gate, ... The sources
    are, for each pattern of the converter, the tensors in order of the experts.
    """
    from transformers.core_model_loading import Concatenate, MergeModulelist

    steps = [(type(each), getattr(each, "dim", None)) for each in converter.operations]
    experts, inputs = len(sources[0]), {part.shape[1:] for source in sources for part in source}
    alike = all(len({part.shape for part in source}) == 1 for source in sources)
    if not alike or len(inputs) != 1 or any(len(source) != experts for source in sources):
        return None
    (columns,) = inputs  # of stored matrices [outputs, inputs] alone
    parts = tuple(part for group in zip(*sources, strict=True) for part in group)
    if len(columns) == 1:
        rows = sum(source[0].shape[0] for source in sources)
        if steps in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
            return StoredParameter((experts, rows, *columns), parts)
        if steps == [(Concatenate, 0)] and experts == 1:
            return StoredParameter((rows, *columns), parts)
    return None
