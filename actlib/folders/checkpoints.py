"""Transfers channels between model folders without loading a model.

    transfer_checkpoint("target", "donor", mask, "output", scale=0.4)

The target's files are copied by the kernel and only the bytes of masked channels go through this
process, a few megabytes at a time: a model may be much larger than memory, and may be cut into any
number of files. The output is a folder that `from_pretrained` loads like the target's.
"""

import os
from functools import partial
from pathlib import Path

from torch import Tensor

from actlib.cards import describe_step, read_steps, write_card
from actlib.files import atomic_folder, require_free
from actlib.folders.folders import open_folder, planned, require_matching
from actlib.folders.layouts import StoredParameter
from actlib.folders.rewriting import Change, write_changed
from actlib.folders.slabs import OpenFiles, Slab, read
from actlib.masks import ChannelMask
from actlib.transfer import moved, require_scale, selections


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
    target_dir, donor_dir, output_dir = Path(target_dir), Path(donor_dir), Path(output_dir)
    require_scale(scale)
    require_free(output_dir)
    target = open_folder(target_dir)
    donor = open_folder(donor_dir, like=target)
    require_matching(donor, target)
    plan = planned(selections(target.model, mask), target, donor)
    step = describe_step("transfer", target_dir, donor_dir, mask, scale)
    steps = [*read_steps(target_dir), step]
    with atomic_folder(output_dir) as unfinished, OpenFiles(donor_dir) as files:
        changes = [
            Change(selection, ours, partial(_moved, files, theirs, scale, selection.name))
            for selection, ours, theirs in plan
        ]
        write_changed(target, unfinished, changes)
        write_card(unfinished, steps)
    return output_dir


def _moved(
    files: OpenFiles,
    donated: StoredParameter,
    scale: float,
    name: str,
    slab: Slab,
    values: Tensor,
) -> Tensor:
    """A slab's values after the transfer, from those in the target."""
    return moved(values, read(files, donated, slab), scale, name)
