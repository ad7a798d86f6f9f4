"""Transfers channels between model folders without loading a model, shard by shard.

    transfer_checkpoint("target", "donor", mask, "output", scale=0.4)

The target's files are copied and only the bytes of masked channels are rewritten in the copy, so
the output is a folder that `from_pretrained` loads like the target's. A model may be larger than
memory.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from actlib.masks import ChannelMask
from actlib.pairing.pairs import require_pair
from actlib.transfer import Selection, edit_, require_scale, selections

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# The same weights in other formats would still be the target's, and a loader could pick them.
_OTHER_WEIGHTS = ("pytorch_model*", "tf_model*", "flax_model*", "consolidated*", "*.gguf", "*.onnx")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def transfer_checkpoint(
    target_dir: str | os.PathLike,
    donor_dir: str | os.PathLike,
    mask: ChannelMask,
    output_dir: str | os.PathLike,
    scale: float = 0.4,
) -> Path:
    """Write a copy of a target's folder with the masked channels moved towards a donor's.

    Same values as `transfer_` in memory, in the dtype in which the target is stored. The folder
    also gets `act_transfer.json`, which says what was done.

    Args:
        target_dir: Hugging Face folder with safetensors weights, in one file or several.
        donor_dir: such a folder of the same architecture; files and dtype may be cut otherwise.
        mask: channels to move.
        output_dir: folder to write, absent or empty. It appears whole or not at all.
        scale: the paper's lambda.

    Returns:
        The path of the output folder.

    Raises:
        ValueError: a folder is absent or holds no usable weights, the models or tokenizers do not
            fit, the mask is of another model, the scale is not finite, or the output is taken.
    """
    target_dir, donor_dir, output_dir = Path(target_dir), Path(donor_dir), Path(output_dir)
    require_scale(scale)
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise ValueError(f"the output folder {output_dir} exists and is not empty")
    stored, donated = stored_tensors(target_dir), stored_tensors(donor_dir)
    target, donor = empty_model(target_dir), empty_model(donor_dir)
    require_pair(donor, target, *tokenizers_of(donor_dir, target_dir))
    edits = planned(
        selections(target, mask), target, renamed(stored, target), renamed(donated, donor)
    )
    note = {
        "donor": str(donor_dir),
        "target": str(target_dir),
        "mask_sha256": mask.digest,
        "channels": mask.count,
        "percent": mask.percent,
        "scale": scale,
    }
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", dir=output_dir.parent))
    try:
        copy_folder(target_dir, partial)
        for selection, ours, theirs in edits:
            edit_(ours.open(partial, writable=True), theirs.open(donor_dir), selection, scale)
        (partial / "act_transfer.json").write_text(json.dumps(note, indent=2) + "\n")
        partial.chmod(0o755)  # Temporary folders are private.
        partial.replace(output_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return output_dir


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes lie in a folder."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def open(self, folder: Path, writable: bool = False) -> Tensor:
        """The tensor, mapped from the file; writes reach the file only if `writable`."""
        mode = "r+" if writable else "c"
        data = np.memmap(folder / self.file, np.uint8, mode, self.offset, (self.size,))
        return torch.from_numpy(data).view(DTYPES[self.dtype]).view(self.shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in a folder's safetensors files, by its stored name."""
    if not folder.is_dir():
        raise ValueError(f"there is no model folder {folder}")
    if (folder / INDEX).is_file():
        weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    else:
        files = [SINGLE]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"the model folder {folder} lacks {', '.join(missing)}")
    return {name: tensor for file in files for name, tensor in _header(folder, file).items()}


def _header(folder: Path, file: str) -> dict[str, StoredTensor]:
    """Tensors of one safetensors file: 8 bytes of header length, a JSON header, the data."""
    path = folder / file
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(min(length, path.stat().st_size)))
        entries.pop("__metadata__", None)
        found = {}
        for name, entry in entries.items():
            start, end = entry["data_offsets"]
            place = (8 + length + start, end - start)
            found[name] = StoredTensor(file, entry["dtype"], tuple(entry["shape"]), *place)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file") from error
    if any(tensor.offset + tensor.size > path.stat().st_size for tensor in found.values()):
        raise ValueError(f"{path} is cut off")
    return found


def empty_model(folder: Path) -> transformers.PreTrainedModel:
    """The folder's model without memory for its weights."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"the model folder {folder} lacks config.json")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def tokenizers_of(*folders: Path) -> list[transformers.PreTrainedTokenizerBase | None]:
    """The folders' tokenizers; None where a folder has none."""
    return [
        transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if any((folder / file).is_file() for file in TOKENIZER_FILES)
        else None
        for folder in folders
    ]


def renamed(
    stored: Mapping[str, StoredTensor], model: transformers.PreTrainedModel
) -> dict[str, StoredTensor]:
    """Stored tensors under the names that the model's parameters have.

    Some families store other names (GPT-NeoX `embed_out`, GPT-2 without its prefix), and
    transformers keeps the list of them. Tensors that loading would also split, join or permute are
    left out: their bytes are not the parameter's.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    named = {}
    for key, tensor in stored.items():
        name, converter = rename_source_key(key, renamings, converters, prefix, state)
        if converter is None:
            named[name] = tensor
    return named


def planned(
    chosen: Mapping[str, Selection],
    model: transformers.PreTrainedModel,
    stored: Mapping[str, StoredTensor],
    donated: Mapping[str, StoredTensor],
) -> list[tuple[Selection, StoredTensor, StoredTensor]]:
    """Pairs each selected parameter with its stored tensors, before anything is written.

    A tied tensor may be stored under one of its names or under both; each copy is edited.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    edits = []
    for name, selection in chosen.items():
        names = [key for key, value in parameters.items() if value is parameters[name]]
        ours = [stored[key] for key in names if key in stored]
        theirs = [donated[key] for key in names if key in donated]
        for side, tensors in (("target", ours), ("donor", theirs)):
            if not tensors:
                raise ValueError(f"the {side}'s files hold no tensor {name}")
            for tensor in tensors:
                if tensor.shape != selection.shape or tensor.dtype not in DTYPES:
                    held = f"{' x '.join(map(str, tensor.shape))} of {tensor.dtype}"
                    wanted = f"{' x '.join(map(str, selection.shape))} of a float type"
                    raise ValueError(f"the {side}'s {name} is {held}, expected {wanted}")
        edits += [(selection, tensor, theirs[0]) for tensor in ours]
    return edits


def copy_folder(source: Path, destination: Path) -> None:
    """Copy files without their permissions, hidden files and other formats of the weights."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file() or any(map(path.match, _OTHER_WEIGHTS)):
            continue
        (destination / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination / relative)
