"""Opens a model's folder, or a model of the Hub, without loading it: structure, tokenizer, tensors.

    model = structure(place)  # parameters on the meta device: shapes without numbers
    weights = stored_weights(place, model)
    weights.open("model.embed_tokens.weight")  # mapped from the file, read as it is used

A place is a local folder or a Hub id. Of the Hub only small files are fetched until
`stored_weights` asks for the safetensors files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from actlib.channels import uncovered_parameters
from actlib.folders.folders import TOKENIZER_FILES
from actlib.layouts import StoredParameter, layout_of
from actlib.loading import empty_model, load_pretrained
from actlib.stored import DTYPES, INDEX, SINGLE, stored_tensors


def structure(place: str | Path) -> PreTrainedModel:
    """The model that a place's configuration describes, on the meta device.

    Raises:
        ValueError: there is no configuration of a causal language model.
    """
    return empty_model(place)


def tokenizer_of(place: str | Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a place; None for a folder without one."""
    folder = Path(place)
    if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    return load_pretrained(AutoTokenizer, place)


@dataclass(frozen=True)
class StoredWeights:
    """Where a model's parameters lie in its files; a tied parameter is held once.

    Attributes:
        folder: that of the safetensors files.
        tensors: place of each parameter found, by the parameter's name.
        wrong: one clause for each parameter of a channel that is missing or has another shape.
        otherwise: parameters of no channel that are stored in a form that loading converts, or that
            are not stored.
    """

    folder: Path
    tensors: dict[str, StoredParameter]
    wrong: tuple[str, ...]
    otherwise: tuple[str, ...]

    @property
    def dtypes(self) -> dict[str, torch.dtype | str]:
        """Type of each parameter found, by its name in safetensors where that is no float's."""
        return {name: DTYPES.get(each.dtype, each.dtype) for name, each in self.tensors.items()}

    def open(self, name: str) -> Tensor:
        """A parameter: mapped from its file, or put together in memory from several tensors."""
        return self.tensors[name].open(self.folder)


def stored_weights(place: str | Path, model: PreTrainedModel) -> StoredWeights:
    """Find each parameter of a model in the files of a place.

    Args:
        place: folder or Hub id; of the Hub the files are fetched.
        model: `structure` of the place.

    Raises:
        ValueError: there are no usable safetensors files.
    """
    folder = _weights_folder(place)
    stored = layout_of(stored_tensors(folder), model).parameters
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    apart = set(uncovered_parameters(model))
    tensors, wrong, otherwise = {}, [], []
    for name, parameter in model.named_parameters():
        found = next((stored[key] for key in names[id(parameter)] if key in stored), None)
        if found is not None and found.shape == tuple(parameter.shape):
            tensors[name] = found
        elif name in apart:
            otherwise.append(name)
        else:
            held = "nothing" if found is None else " x ".join(map(str, found.shape))
            wanted = " x ".join(map(str, parameter.shape))
            wrong.append(f"{name} is {held} in the files, expected {wanted}")
    return StoredWeights(folder, tensors, tuple(wrong), tuple(otherwise))


def _weights_folder(place: str | Path) -> Path:
    """Folder of a place's safetensors files, fetched first where the place is a Hub id."""
    if Path(place).is_dir():
        return Path(place)
    try:
        index = cached_file(place, INDEX)
    except OSError:  # One file holds everything.
        index = None
    try:
        if index is None:
            return Path(cast(str, cached_file(place, SINGLE))).parent  # it raises rather than None
        get_checkpoint_shard_files(place, index)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot fetch the weights of {str(place)!r}: {reason}") from error
    return Path(index).parent
