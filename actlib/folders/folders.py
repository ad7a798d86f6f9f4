"""Opens model folders for work on their files: structure, parameters, tokenizers, names to publish.

target = open_folder(Path("target"))
donor = open_folder(Path("donor"))
require_matching(donor, target)
plan = planned(selections(target.model, mask), target, donor)
"""

import filecmp
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from actlib.folders.selecting import Selection
from actlib.layouts import Layout, StoredParameter, layout_of
from actlib.loading import empty_model, load_pretrained
from actlib.pairs import require_pair
from actlib.stored import DTYPES, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_ALL_TOKENIZER_FILES = (
    *TOKENIZER_FILES,
    *("merges.txt", "added_tokens.json", "special_tokens_map.json", "vocab.txt", "spiece.model"),
)
# Entries of a configuration that say nothing of the structure.
_SAYINGS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True)
class ModelFolder:
    """A model in its files, without its numbers.

    Attributes:
        path: the folder.
        model: the model on the meta device.
        layout: where its parameters lie.
        files: names of the safetensors files.
    """

    path: Path
    model: "PreTrainedModel"
    layout: Layout
    files: tuple[str, ...]

    @cached_property
    def _aliases(self) -> dict[str, list[str]]:
        """All names of each parameter; a tied one has several."""
        names: dict[int, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        return {name: found for found in names.values() for name in found}

    def located(self, selection: Selection, side: str) -> list[StoredParameter]:
        """The stored copies of a parameter: a tied one may be stored under each of its names.

        Args:
            selection: names the parameter, and says its shape.
            side: what to call the folder in an error.

        Raises:
            ValueError: it is not stored, or in another shape, form or type than expected.
        """
        name = selection.name
        names = self._aliases[name]
        found = [self.layout.parameters[key] for key in names if key in self.layout.parameters]
        if not found and name in self.layout.converted:
            raise ValueError(
                f"the {side}'s files hold {name} {self.layout.converted[name]}; expected its own "
                "rows, so load the models and use transfer_"
            )
        if not found:
            raise ValueError(f"the {side}'s files hold no tensor {name}")
        for stored in found:
            if stored.shape != selection.shape or stored.dtype not in DTYPES:
                held = f"{' x '.join(map(str, stored.shape))} of {stored.dtype}"
                expected = f"{' x '.join(map(str, selection.shape))} of a float type"
                raise ValueError(f"the {side}'s {name} is {held}, expected {expected}")
        return found


def open_folder(path: Path, like: ModelFolder | None = None) -> ModelFolder:
    """Find out what a folder holds.

    Args:
        path: folder with a configuration and safetensors weights.
        like: a folder whose structure is taken over where the configurations are the same.

    Raises:
        ValueError: the folder is absent, or its configuration or weights are.
    """
    stored = stored_tensors(path)
    if like is not None and _configuration(path) == _configuration(like.path):
        model = like.model
    else:
        model = empty_model(path, local_files_only=True)
    files = tuple(sorted({tensor.file for tensor in stored.values()}))
    return ModelFolder(path, model, layout_of(stored, model), files)


def require_matching(donor: ModelFolder, target: ModelFolder) -> None:
    """Refuse folders whose models or tokenizers cannot exchange channels.

    Raises:
        ValueError: names each mismatch, or the folder where both are the same.
    """
    if donor.path.resolve() == target.path.resolve():
        raise ValueError(
            f"donor and target are the same folder, {target.path}, so nothing would move; name the "
            "folder of another model as the donor"
        )
    ours, theirs = donor.model, target.model
    require_pair(ours, theirs, *tokenizers_of(donor.path, target.path))


def tokenizers_of(donor: Path, target: Path) -> "list[PreTrainedTokenizerBase | None]":
    """Both folders' tokenizers, None where a folder has none.

    Both are None, too, where all files of the two are the same: loading and comparing large
    vocabularies takes longer than many a transfer.
    """
    if all(_same_file(donor / file, target / file) for file in _ALL_TOKENIZER_FILES):
        return [None, None]
    import transformers

    return [
        load_pretrained(transformers.AutoTokenizer, folder, local_files_only=True)
        if any((folder / file).is_file() for file in TOKENIZER_FILES)
        else None
        for folder in (donor, target)
    ]


def planned(
    chosen: Mapping[str, Selection], target: ModelFolder, donor: ModelFolder
) -> list[tuple[Selection, StoredParameter, StoredParameter]]:
    """Each selected parameter with its place in the target's and in the donor's files.

    Raises:
        ValueError: as `ModelFolder.located`; nothing was written yet.
    """
    return [
        (selection, ours, donor.located(selection, "donor")[0])
        for selection in chosen.values()
        for ours in target.located(selection, "target")
    ]


def _configuration(folder: Path) -> dict | None:
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {key: value for key, value in told.items() if key not in _SAYINGS}
    except (OSError, ValueError, AttributeError):
        return None  # Reading it in earnest says what is wrong.


def _same_file(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file():
        return not one.is_file() and not other.is_file()
    return filecmp.cmp(one, other, shallow=False)
