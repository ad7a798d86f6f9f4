"""Records two models that do not fit in memory together: the donor first, then the target.

    scores = record_differences_in_two_passes("donor/", "target/", batches, "scratch/")

The donor's activations of the answer tokens wait on disk meanwhile.
"""

import gc
import shutil
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from actlib.channels import channel_modules
from actlib.hooks import evaluating
from actlib.kept_activations import KeptActivations
from actlib.loading import empty_model, load_pretrained
from actlib.localize import combined_scores
from actlib.pairs import require_pair
from actlib.parallel import Share
from actlib.passes import (
    HELD_BYTES,
    Bar,
    add_part,
    describe_model,
    held_activations,
    pair_metadata,
    parts,
)
from actlib.running_sums import RunningSums
from actlib.scores import ChannelScores

Source = str | Path | Callable[[], nn.Module]
Batches = Collection[Mapping[str, Tensor]]


def record_differences_in_two_passes(
    donor: Source,
    target: Source,
    batches: Batches,
    folder: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
    held_bytes: int = HELD_BYTES,
    keep: bool = False,
) -> ChannelScores:
    """Scores of `record_differences` with one model in memory at a time.

    The first pass writes the donor's activations of the answer tokens to a folder, in the dtype in
    which they are computed; then the donor is let go of, and the second pass subtracts the target's
    from what it reads. On one CPU the scores have the bits of `record_differences`. The folder
    takes answer tokens x channels x bytes of a number: 3.5 MB a token for a model of 7B in bf16.

    An interrupted recording goes on where it stopped, if it is started with the same arguments:
    files of batches that are done are recognized by a hash of the batch. Where all are there, the
    donor is not loaded. Several processes share the batches as in `record_differences`; the folder
    may be one for all of them::

        load = partial(AutoModelForCausalLM.from_pretrained, dtype="auto", device_map="auto")
        scores = record_differences_in_two_passes(
            lambda: load("donor/"), lambda: load("target/"), batches, "scratch/", progress=True
        )

    Args:
        donor: folder or Hub id, loaded in the dtype of its files (with ``device_map="auto"`` where
            there is a GPU), or a function that loads the model and keeps no reference to it.
        target: the same of the target.
        batches: as for `record_differences`, in something that can be gone through twice.
        folder: for the activations alone; made if missing.
        metadata: added to the metadata of the scores.
        progress: show a bar for each pass, and what the first one needs on the disk.
        held_bytes: most that is held of the donor's activations, and most of one file.
        keep: leave the activations in the folder, for another target of this donor.

    Raises:
        ValueError: as `record_differences`; besides, the batches can be gone through only once, the
            disk lacks room, or the folder holds activations of another donor.
    """
    if iter(batches) is batches:
        raise ValueError("two passes need batches that can be gone through twice, such as a list")
    if not callable(donor) and not callable(target):
        require_pair(empty_model(donor), empty_model(target))  # before hours of work
    share, kept = Share.current(), KeptActivations(Path(folder))
    share.together(partial(_keep, kept, donor, batches, share, held_bytes, progress))
    sums, digests, found = share.together(
        partial(_compare, kept, target, batches, share, held_bytes, progress)
    )
    scores = combined_scores(share, sums, digests, found | dict(metadata or {}))
    if not keep:
        kept.remove()
    return scores


def _keep(
    kept: KeptActivations,
    donor: Source,
    batches: Batches,
    share: Share,
    held_bytes: int,
    progress: bool,
) -> None:
    """The first pass: write what is not yet there."""
    note = kept.note()
    if note is not None and not _missing(kept, note, batches, share, held_bytes):
        return
    model = _loaded(donor)
    note, shown = kept.begin(model), progress and share.rank == 0
    tokens = sum(_missing(kept, note, batches, Share(), held_bytes).values())
    _require_room(kept.folder, tokens * note["bytes_per_token"], told=shown)
    modules = channel_modules(model)
    with evaluating(model), Bar(batches, "donor's activations", shown=shown) as bar:
        for part in parts(bar, held_bytes // note["bytes_per_token"], share):
            if not kept.has(part):
                kept.write(part, held_activations(model, modules, part))
                bar.add(part)
    del model, modules
    _release()


def _compare(
    kept: KeptActivations,
    target: Source,
    batches: Batches,
    share: Share,
    held_bytes: int,
    progress: bool,
) -> tuple[RunningSums, list[bytes], dict[str, str]]:
    """The second pass: sums, a digest for each item, metadata of the pair."""
    note = kept.note()
    if note is None:
        raise ValueError(f"{kept.folder} lost its donor.json between the passes; record anew")
    model = _loaded(target)
    require_pair(_hollow(note, model), model)
    sums, digests = RunningSums(channel_modules(model)), []
    shown = progress and share.rank == 0
    with evaluating(model), Bar(batches, "activation differences", shown=shown) as bar:
        for part in parts(bar, held_bytes // note["bytes_per_token"], share):
            with kept.opened(part, sums.modules) as take:
                add_part(sums, model, part, take)
            digests += part.item_digests()
            bar.add(part)
    return sums, digests, pair_metadata(note["model"], describe_model(model))


def _missing(
    kept: KeptActivations, note: Mapping[str, Any], batches: Batches, share: Share, held_bytes: int
) -> dict[int, int]:
    """Answer tokens of each part of this share that has no file yet, by the part's number."""
    most_tokens = held_bytes // note["bytes_per_token"]
    return {
        part.number: len(part.tokens.rows)
        for part in parts(batches, most_tokens, share)
        if not kept.has(part)
    }


def _require_room(folder: Path, needed: int, *, told: bool) -> None:
    """Refuse a disk that is too small, of all processes together if they share it.

    Raises:
        ValueError: says what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    room = f"{needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free"
    if told:
        tqdm.write(f"the donor's activations take {room}")
    if needed > free:
        raise ValueError(
            f"the donor's activations need {room}; name a folder on a larger disk, or record fewer "
            "items"
        )


def _loaded(source: Source) -> nn.Module:
    if callable(source):
        return source()
    placed = {"device_map": "auto"} if torch.cuda.is_available() else {}
    return load_pretrained(AutoModelForCausalLM, source, dtype="auto", **placed)


def _hollow(note: Mapping[str, Any], target: nn.Module) -> nn.Module:
    """The donor of a note without weights.

    Raises:
        ValueError: its architecture is not the target's.
    """
    architecture = type(target).__name__
    if note["architecture"] != architecture:
        raise ValueError(
            f"donor and target do not fit: architecture {note['architecture']} against "
            f"{architecture}"
        )
    kind: Any = type(target)
    config = kind.config_class.from_dict(note["config"])
    with torch.device("meta"):
        return kind(config)


def _release() -> None:
    """Return the memory of models that nothing refers to; hooks of accelerate refer in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
