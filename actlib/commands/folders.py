"""The words `transfer` and `merge` of the command line: from model folders to a model folder.

actlib transfer --target T --donor D --mask mask.safetensors --scale 0.4 --out OUTPUT
actlib merge --base B --give D1 mask1.safetensors 0.4 --give D2 mask2.safetensors 0.4 --out OUTPUT
"""

import argparse
from typing import TYPE_CHECKING

from actlib.commands.words import add_json, add_step, require_output, tell
from actlib.files.records import record_beside

if TYPE_CHECKING:
    from actlib.masks import ChannelMask


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the steps `transfer` and `merge`."""
    transfer = add_step(
        steps,
        "transfer",
        "move masked channels towards the donor's",
        "actlib transfer --target T --donor D --mask mask.safetensors --scale 0.4 --out OUTPUT",
    )
    for option, told in (
        ("target", "model folder; it stays as it is"),
        ("donor", "model folder"),
        ("mask", "file of a channel mask"),
        ("out", "model folder to write, absent or empty"),
    ):
        transfer.add_argument(f"--{option}", required=True, help=told)
    transfer.add_argument("--scale", type=float, default=0.4, help="the paper's lambda")
    add_json(transfer)
    transfer.set_defaults(run=_transfer)
    merge = add_step(
        steps,
        "merge",
        "merge several donors into their common base",
        "actlib merge --base B --give D1 mask1.safetensors 0.4 --give D2 mask2.safetensors 0.4 "
        "--out OUTPUT",
    )
    merge.add_argument("--base", required=True, help="model folder; it stays as it is")
    merge.add_argument(
        "--give",
        nargs=3,
        action="append",
        required=True,
        metavar=("DONOR", "MASK", "SCALE"),
        help="a donor's folder, its mask and its scale; once for each donor",
    )
    merge.add_argument(
        "--collisions",
        default="sum",
        choices=("sum", "average", "largest"),
        help="what becomes of channels that several donors claim",
    )
    merge.add_argument("--out", required=True, help="model folder to write, absent or empty")
    add_json(merge)
    merge.set_defaults(run=_merge)


def _transfer(given: argparse.Namespace) -> None:
    from actlib.files.checkpoints import transfer_checkpoint

    require_output(given.out, folder=True)
    mask = load_mask(given.mask)
    out = transfer_checkpoint(given.target, given.donor, mask, given.out, given.scale)
    inputs = {"target": given.target, "donor": given.donor, "mask": given.mask}
    record_beside(out, inputs, quick=True, scale=given.scale)
    told = {"out": str(out), "channels": mask.count, "of": mask.total, "scale": given.scale}
    tell(given, told, str(out))


def _merge(given: argparse.Namespace) -> None:
    from actlib.files.merging import merge_checkpoint

    require_output(given.out, folder=True)
    contributions = []
    for donor, mask, scale in given.give:
        try:
            number = float(scale)
        except ValueError:
            told = f"--give {donor} {mask} {scale}: the scale must be a number, such as 0.4"
            raise ValueError(told) from None
        contributions.append((donor, load_mask(mask), number))
    report = merge_checkpoint(given.base, contributions, given.out, given.collisions)
    inputs = {"base": given.base}
    for number, (donor, mask, _) in enumerate(given.give, 1):
        inputs |= {f"donor {number}": donor, f"mask {number}": mask}
    scales = [scale for *_, scale in contributions]
    settings = {"scales": scales, "collisions": given.collisions}
    record_beside(given.out, inputs, quick=True, settings=settings)
    result = {"out": given.out, "channels": report.union.count, "of": report.union.total}
    result |= {"collisions": report.collisions, "rule": given.collisions}
    line = f"{report.union.count} channels, {report.collisions} claimed more than once"
    tell(given, result, f"{given.out}: {line}")


def load_mask(path: str) -> "ChannelMask":
    """The mask in a file, with at least one channel.

    Raises:
        ValueError: there is no such file, it holds no mask, or one without channels.
    """
    from actlib.masks import ChannelMask

    mask = ChannelMask.load(path)
    if not mask.count:
        raise ValueError(
            f"the mask {path} is empty, so nothing would move; make one of more percent"
        )
    return mask
