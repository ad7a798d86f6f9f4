"""The words `patch make`, `apply`, `revert` and `inspect` of the command line.

actlib patch make --target T --donor D --mask mask.safetensors --out maths.safetensors
actlib patch apply maths.safetensors --target T --out OUTPUT
actlib patch revert maths.safetensors --target OUTPUT --out RESTORED
actlib patch inspect maths.safetensors --json
"""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actlib.files.patches import PatchInfo


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the step `patch` with its own words to the steps of the command line."""
    step = steps.add_parser("patch", help="make, apply, revert or inspect an ability patch")
    step.set_defaults(run=_run)
    words = step.add_subparsers(dest="word", required=True)
    make = words.add_parser("make", help="write the moved channels of a transfer to one file")
    for option, told in (
        ("target", "model folder"),
        ("donor", "model folder"),
        ("mask", "file of a channel mask"),
        ("out", "file to write"),
    ):
        make.add_argument(f"--{option}", required=True, help=told)
    make.add_argument("--scale", type=float, default=0.4, help="the paper's lambda")
    make.add_argument("--metadata", nargs="*", default=[], metavar="KEY=TEXT", help="to keep in it")
    make.add_argument(
        "--irreversible", action="store_true", help="half the size; cannot be reverted"
    )
    for word, told in (("apply", "write the patched model"), ("revert", "write the original")):
        move = words.add_parser(word, help=told)
        move.add_argument("path", help="file of the patch")
        move.add_argument("--target", required=True, help="model folder; it stays as it is")
        move.add_argument("--out", required=True, help="model folder to write, absent or empty")
    inspect = words.add_parser("inspect", help="say what a patch holds")
    inspect.add_argument("path", help="file of the patch")
    inspect.add_argument("--json", action="store_true", help="everything, as JSON")


def _run(given: argparse.Namespace) -> None:
    from actlib.files.patches import apply_patch, inspect_patch, make_patch, revert_patch
    from actlib.masks import ChannelMask

    if given.word == "make":
        options = {"scale": given.scale, "reversible": not given.irreversible}
        options["metadata"] = dict(map(_entry, given.metadata))
        mask = ChannelMask.load(given.mask)
        print(_line(make_patch(given.target, given.donor, mask, given.out, **options)))
    elif given.word == "inspect":
        info = inspect_patch(given.path)
        print(json.dumps(info.to_dict(), indent=1) if given.json else _told(info))
    else:
        move = apply_patch if given.word == "apply" else revert_patch
        print(move(given.target, given.path, given.out))


def _entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"a metadata entry is KEY=TEXT, got {text!r}")
    return key, value


def _line(info: "PatchInfo") -> str:
    share = f"{info.parameter_percent:.3g} % of the target's parameters"
    kind = "reversible" if info.reversible else "not reversible"
    held = f"{info.elements} elements of {len(info.tensors)} tensors"
    return f"{held}, {share}, {info.bytes} bytes, {kind}"


def _told(info: "PatchInfo") -> str:
    return "\n".join([_line(info), *(f"{key}: {text}" for key, text in info.metadata.items())])
