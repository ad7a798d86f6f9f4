"""Model folders whose weights stay on disk: parameters are mapped from the safetensors files.

    donor = Checkpoint("donor")
    donor["model.norm.weight"][:8]               # reads these numbers alone
    transfer_checkpoint("target", "donor", mask, "output", scale=0.4)

A mapped tensor is a tensor of torch, so that what moves channels in memory moves them on disk: the
target's files are copied, and the masked channels of the copy are written through the map. A model
may be much larger than memory and cut into any number of files.
"""

import filecmp
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from actlib.cards import describe_step, read_steps, write_card
from actlib.files import atomic_folder, copy_bytes, copy_file, require_free
from actlib.layouts import layout_of
from actlib.loading import TOKENIZER_FILES, empty_model, load_tokenizer
from actlib.masks import ChannelMask
from actlib.pairs import require_pair
from actlib.stored import DTYPES, StoredTensor, model_files, stored_tensors
from actlib.transfer import Index, as_matrix, interpolate_rows, require_scale, selections
from actlib.vocabulary import shared_rows

_ALL_TOKENIZER_FILES = (
    *TOKENIZER_FILES,
    *("merges.txt", "added_tokens.json", "special_tokens_map.json", "vocab.txt", "spiece.model"),
)

_THREADS, _STRETCH_BYTES = 4, 128 << 20

Part = tuple[str, int, StoredTensor]
"""A stored tensor of a parameter: the parameter's name, its row that is the tensor's first."""
Change = Callable[[str, int, Tensor], Iterable[tuple[Index, Tensor]]]


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
        self._layout = layout_of(stored, self.model)
        self._untie()
        self._stored = {
            names[0]: copies
            for names in _aliases(self.model)
            if (copies := [self._layout.parameters[n] for n in names if n in self._layout])
        }

    def __getitem__(self, name: str) -> Tensor:
        """A parameter: mapped from its file, or put together of several tensors."""
        return self._stored[name][0].open(self.folder)

    def __iter__(self) -> Iterator[str]:
        """Names of the parameters that are stored."""
        return iter(self._stored)

    def __len__(self) -> int:
        """Number of parameters that are stored."""
        return len(self._stored)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows from `start` to before `stop` of a parameter as a matrix, fewer at its end."""
        stored = self._stored[name][0]
        pieces = []
        for first, part in zip(stored.origins, stored.parts, strict=True):
            if first < stop and start < first + part.rows or len(stored.parts) == 1:
                matrix = as_matrix(part.open(self.folder))
                pieces.append(matrix[max(start - first, 0) : stop - first])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def require(self, names: Iterable[str], role: str) -> None:
        """Refuse parameters that are not stored, or in another shape, form or type than expected.

        Args:
            names: of the parameters that are needed.
            role: what to call this folder.

        Raises:
            ValueError: names the first such parameter.
        """
        parameters = dict(self.model.named_parameters())
        for name in names:
            if name in self._layout.converted:
                raise ValueError(
                    f"the {role}'s files hold {name} {self._layout.converted[name]}; expected its "
                    "own rows, so load the models and use transfer_"
                )
            if name not in self._stored:
                raise ValueError(f"the {role}'s files hold no tensor {name}")
            for stored in self._stored[name]:
                expected = tuple(parameters[name].shape)
                if stored.shape != expected or stored.dtype not in DTYPES:
                    shapes = [" x ".join(map(str, each)) for each in (stored.shape, expected)]
                    raise ValueError(
                        f"the {role}'s {name} is {shapes[0]} of {stored.dtype}, expected "
                        f"{shapes[1]} of a float type"
                    )

    def rewrite(self, destination: Path, names: Iterable[str], change: Change) -> None:
        """Copy the model to an empty folder, with new values for elements of some parameters.

        Configuration, tokenizer, generation settings and all else that belongs to the model comes
        along; hidden files, pickled files and other formats of the weights do not. Bytes are copied
        and values computed side by side.

        Args:
            destination: the folder.
            names: parameters of which something changes. A tied one may be stored under each of its
                names, and each copy changes.
            change: gives index and new values from the name, the first row, and these rows of the
                copy as a matrix; called from several threads.

        Raises:
            ValueError: a file is a link to one outside the folder, which may be private.
        """
        for path in model_files(self.folder, self.files):
            place = destination / path.relative_to(self.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            if str(path.relative_to(self.folder)) in self.files:
                with place.open("wb") as file:
                    file.truncate(path.stat().st_size)
            else:
                copy_file(path, place)
        with ThreadPoolExecutor(_THREADS) as pool:
            jobs = [
                pool.submit(self._write_stretch, destination, change, *stretch)
                for stretch in self._stretches(names)
            ]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _stretches(self, names: Iterable[str]) -> Iterator[tuple[str, int, int, list[Part]]]:
        """Every file cut between stored tensors: file, start, stop, and what changes in between."""
        changing: dict[str, list[Part]] = {file: [] for file in self.files}
        for name in names:
            for stored in self._stored[name]:
                for first, tensor in zip(stored.origins, stored.parts, strict=True):
                    changing[tensor.file].append((name, first, tensor))
        for file, parts in changing.items():
            start, waiting = 0, []
            for part in sorted(parts, key=lambda part: part[2].offset):
                waiting.append(part)
                stop = part[2].offset + part[2].size
                if stop - start >= _STRETCH_BYTES:
                    yield file, start, stop, waiting
                    start, waiting = stop, []
            yield file, start, (self.folder / file).stat().st_size, waiting

    def _write_stretch(
        self, destination: Path, change: Change, file: str, start: int, stop: int, parts: list[Part]
    ) -> None:
        copy_bytes(self.folder / file, destination / file, start, stop)
        for name, first, tensor in parts:
            matrix = as_matrix(tensor.open(destination, writable=True))
            for index, values in change(name, first, matrix):
                matrix[index] = values

    def _untie(self) -> None:
        """Untie what the configuration ties and the files store twice, with other numbers."""
        for names in _aliases(self.model):
            stored = [name for name in names if name in self._layout]
            for name in stored[1:]:
                one, other = (self._layout.parameters[each] for each in (stored[0], name))
                if one.dtype not in DTYPES or other.dtype not in DTYPES:
                    continue  # `require` refuses it
                values = [each.open(self.folder) for each in (one, other)]
                if one.shape == other.shape and torch.equal(*values):
                    continue
                owner, _, own = name.rpartition(".")
                empty = nn.Parameter(torch.empty(other.shape, device="meta"))
                self.model.get_submodule(owner).register_parameter(own, empty)
                self.model.all_tied_weights_keys.pop(name, None)


def rows_of(parameters: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor:
    """Some rows of a parameter as a matrix, in memory or in files."""
    if isinstance(parameters, Checkpoint):
        return parameters.rows(name, start, stop)
    return as_matrix(parameters[name])[start:stop]


def require_matching(donor: Checkpoint, target: Checkpoint) -> None:
    """Refuse folders whose models or tokenizers cannot exchange channels.

    Raises:
        ValueError: names each mismatch, or the folder where both are the same.
    """
    if donor.folder.resolve() == target.folder.resolve():
        raise ValueError(
            f"donor and target are the same folder, {target.folder}, so nothing would move; name "
            "the folder of another model as the donor"
        )
    folders = donor.folder, target.folder
    # Loading and comparing large vocabularies takes longer than many a transfer.
    same = all(_is_same(*(folder / file for folder in folders)) for file in _ALL_TOKENIZER_FILES)
    tokenizers = [None if same else load_tokenizer(folder) for folder in folders]
    require_pair(donor.model, target.model, *tokenizers)


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
    the target's own card is kept beside it as `README.target.md`.

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
    require_scale(scale)
    require_free(output_dir)
    target, donor = Checkpoint(target_dir), Checkpoint(donor_dir)
    require_matching(donor, target)
    selected = selections(target.model, mask)
    target.require(selected, "target")
    donor.require(selected, "donor")
    step = describe_step("transfer", target.folder, donor.folder, mask, scale)
    steps = [*read_steps(target.folder), step]

    def change(name: str, start: int, matrix: Tensor) -> Iterator[tuple[Index, Tensor]]:
        rows = shared_rows(donor.rows(name, start, start + len(matrix)), matrix)
        part = selected[name].between(start, start + len(matrix))
        return interpolate_rows(matrix, rows, part, scale, name)

    with atomic_folder(output_dir) as unfinished:
        target.rewrite(unfinished, selected, change)
        write_card(unfinished, steps)
    return output_dir


def _aliases(model: nn.Module) -> list[list[str]]:
    """All names of each parameter; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _is_same(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file():
        return not one.is_file() and not other.is_file()
    return filecmp.cmp(one, other, shallow=False)
