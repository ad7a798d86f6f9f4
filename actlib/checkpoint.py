"""Model folders whose weights stay on disk: parameters are mapped from the safetensors files.

    donor = Checkpoint("donor")
    donor["model.norm.weight"][:8]               # reads these numbers alone
    transfer_checkpoint("target", "donor", mask, "output", scale=0.4)

A mapped tensor is a tensor of torch, so that the function that computes new values in memory does
so on disk. A model may be much larger than memory and cut into any number of files.
"""

import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actlib.cards import describe_step, read_steps, write_card
from actlib.files import atomic_folder, require_free
from actlib.loading import (
    describe_absent,
    empty_model,
    have_same_tokenizer,
    load_tokenizer,
    split_files,
)
from actlib.masks import ChannelMask
from actlib.pairs import require_pair
from actlib.stored import (
    DTYPES,
    StoredParameter,
    stored_parameters,
    stored_tensors,
)
from actlib.transfer import Change, Selection, as_matrix, interpolation, selections
from actlib.vocabulary import (
    differing_tokens,
    shared_rows,
    vocabulary_parameters,
    vocabulary_rows,
)
from actlib.wording import list_first

_THREADS = 4


class Checkpoint(Mapping[str, Tensor]):
    """The parameters of a model folder by their names in the model, memory-mapped.

    Names are those of `model.named_parameters()`, where a tied tensor appears once. Parameters that
    the files store as several tensors, such as experts one by one, are put together in memory.

    Attributes:
        folder: where the files lie.
        model: the model on the meta device: modules and shapes without numbers. As transformers
            does, it is untied where the files hold two copies of a tied tensor that differ.
        files: names of the safetensors files.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        """Read configuration and headers of a folder.

        Raises:
            ValueError: the folder holds no configuration or no usable safetensors weights.
        """
        self.folder = Path(folder)
        stored = stored_tensors(self.folder)
        self.files = sorted({tensor.file for tensor in stored.values()})
        self.model = empty_model(self.folder, local_files_only=True)
        parameters, self._converted = stored_parameters(stored, self.model)
        _untie(self.model, parameters, self.folder)
        self._fitted = dict[str, tuple[Checkpoint, list[int]]]()
        self._copies = {  # the coarsest first, whose values all can hold
            names[0]: sorted(copies, key=lambda each: each.dtype)
            for names in _aliases(self.model)
            if (copies := [parameters[name] for name in names if name in parameters])
        }

    def __getitem__(self, name: str) -> Tensor:
        """A parameter: mapped from its file, or put together of several tensors."""
        tensor = self._copies[name][0].open(self.folder)
        if name not in self._fitted:
            return tensor
        target, apart = self._fitted[name]
        return shared_rows(tensor, target[name], apart)

    def fit_vocabulary_(self, target: "Checkpoint", apart: list[int]) -> None:
        """Take these rows of embedding and head from a target, so that they do not move in it."""
        self._fitted = {name: (target, apart) for name, _ in vocabulary_parameters(self.model)}

    def __iter__(self) -> Iterator[str]:
        """Names of the parameters that are stored."""
        return iter(self._copies)

    def __len__(self) -> int:
        """Number of parameters that are stored."""
        return len(self._copies)

    def require(self, names: Iterable[str], role: str) -> None:
        """Refuse parameters that are not stored, or in another shape, form or type than expected.

        Raises:
            ValueError: names the first such parameter.
        """
        parameters = dict(self.model.named_parameters())
        for name in names:
            if name in self._converted:
                raise ValueError(
                    f"the {role}'s files hold {name} in a form that loading converts; expected its "
                    "own rows, so load the models and use transfer_"
                )
            if name not in self._copies:
                raise ValueError(f"the {role}'s files {describe_absent([name], self.model)}")
            for stored in self._copies[name]:
                expected = tuple(parameters[name].shape)
                if stored.shape != expected or stored.dtype not in DTYPES:
                    shapes = [" x ".join(map(str, each)) for each in (stored.shape, expected)]
                    raise ValueError(
                        f"the {role}'s {name} is {shapes[0]} of {stored.dtype}, expected "
                        f"{shapes[1]} of a float type; copy the folder again, or take the model "
                        "before it was quantized or after dequantize()"
                    )

    def rewrite(
        self, output: Path, names: Iterable[str], change: Change, steps: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write a copy of the model's folder with new values for elements of the named parameters.

        It appears whole or not at all. Configuration, tokenizer and all else that belongs to the
        model comes along; a warning names what does not. The card states the steps. Each copy of a
        tied parameter that is stored twice changes. `change` is called from several threads.

        Raises:
            ValueError: a file is a link to one outside the folder, which may be private.
        """
        copied_paths, skipped = split_files(self.folder, self.files)
        if skipped:
            text = f"left out of the copy of {self.folder}, as no part of the model: "
            warnings.warn(text + list_first(skipped, 9), stacklevel=3)
        files = [path.relative_to(self.folder) for path in copied_paths] + [*map(Path, self.files)]
        with atomic_folder(output) as unfinished:

            def copy(file: Path) -> None:
                (unfinished / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / file, unfinished / file)  # within the kernel

            def write(name: str) -> None:
                # read from the source, whose pages map faster than those of the copy
                matrix, copies = as_matrix(self[name]), self._copies[name]
                parts = [part for each in copies for part in each.parts]
                outputs = [as_matrix(part.open(unfinished, writable=True)) for part in parts]
                is_whole = len(parts) == len(copies)
                for index, values in change(name, matrix):
                    # one joined from several tensors is changed in memory, and split below
                    for each in outputs if is_whole else [matrix]:
                        each[index] = values.to(each.dtype)
                if not is_whole:
                    rows = matrix.split([*map(len, outputs)])
                    for each, own in zip(outputs, rows, strict=True):
                        each.copy_(own)

            joined = [name for name in names if len(self._copies[name][0].parts) > 1]
            _run_all(copy, files)
            _run_all(write, [name for name in names if name not in joined])
            for name in joined:  # in memory, so one after the other
                write(name)
            write_card(unfinished, steps)


def open_donor(
    donor_dir: str | os.PathLike, target: Checkpoint, mask: ChannelMask
) -> tuple[Checkpoint, dict[str, Selection]]:
    """Open a folder that masked channels can move from, and say what of each parameter moves.

    Raises:
        ValueError: models or tokenizers do not fit, both folders are the same, the mask is of
            another model, or a parameter that moves is not stored as it should be.
    """
    donor = Checkpoint(donor_dir)
    folders = donor.folder, target.folder
    if donor.folder.resolve() == target.folder.resolve():
        raise ValueError(
            f"donor and target are the same folder, {target.folder}, so nothing would move; name "
            "the folder of another model as the donor"
        )
    # Loading and comparing large vocabularies takes longer than many a transfer.
    is_same_vocabulary = vocabulary_rows(donor.model) == vocabulary_rows(target.model)
    is_same_vocabulary &= have_same_tokenizer(*folders)
    tokenizers = [] if is_same_vocabulary else [load_tokenizer(folder) for folder in folders]
    require_pair(donor.model, target.model, *tokenizers)
    selected = selections(target.model, mask)
    target.require(selected, "target")
    donor.require(selected, "donor")
    known = [each for each in tokenizers if each is not None]
    if len(known) == 2:
        donor.fit_vocabulary_(target, differing_tokens(*known))
    return donor, selected


def transfer_checkpoint(
    target_dir: str | os.PathLike,
    donor_dir: str | os.PathLike,
    mask: ChannelMask,
    output_dir: str | os.PathLike,
    scale: float = 0.4,
) -> Path:
    """Write a copy of a target's folder with the masked channels moved towards a donor's.

    Same values as `transfer_` in memory, in the dtype in which the target is stored. The folder
    also gets `actlib.json`, which says what was done, and a model card, which says it to people;
    the target's own card is kept beside it as `README.target.md`. Files are mapped; experts stored
    one by one that the model holds packed are joined in memory, those of one layer at a time.

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
            fit or are one folder, the mask is of another model, the scale is not finite, a moved
            parameter would be NaN or infinite, or the output is taken. Nothing is written then.
    """
    output_dir = Path(output_dir)
    require_free(output_dir)
    target = Checkpoint(target_dir)
    donor, selected = open_donor(donor_dir, target, mask)
    step = describe_step("transfer", target.folder, donor.folder, mask, scale)
    change = interpolation(donor, selected, scale)
    target.rewrite(output_dir, selected, change, [*read_steps(target.folder), step])
    return output_dir


def _run_all(function: Callable, arguments: Iterable) -> None:
    """Call a function in several threads, in each of which torch computes by itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads begin with this number
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            deque(pool.map(function, arguments), maxlen=0)  # raises what one of them raised
    finally:
        torch.set_num_threads(threads)


def _aliases(model: nn.Module) -> list[list[str]]:
    """All names of each parameter; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _untie(model: Any, parameters: Mapping[str, StoredParameter], folder: Path) -> None:
    """Untie what the configuration ties and the files store twice, with other numbers."""
    for names in _aliases(model):
        copies = [(name, parameters[name]) for name in names if name in parameters]
        for name, second in copies[1:]:
            first = copies[0][1]
            if not {first.dtype, second.dtype} <= DTYPES.keys():
                continue  # `Checkpoint.require` refuses it
            tensors = [each.open(folder) for each in (first, second)]
            wide = torch.promote_types(*(each.dtype for each in tensors))
            if not torch.equal(*(each.to(wide) for each in tensors)):
                owner, _, attribute = name.rpartition(".")
                untied = nn.Parameter(torch.empty(second.shape, device="meta"))
                model.get_submodule(owner).register_parameter(attribute, untied)
                model.all_tied_weights_keys.pop(name, None)
