"""The words `patch make`, `apply`, `revert`, `inspect` and `card` of the command line.

actlib patch make --target T --donor D --mask mask.safetensors --out maths.safetensors
actlib patch apply maths.safetensors --target T --out OUTPUT
actlib patch revert maths.safetensors --target OUTPUT --out RESTORED
actlib patch inspect maths.safetensors --json
actlib patch card maths.safetensors
"""

import argparse
from typing import TYPE_CHECKING

from actlib.commands.folders import load_mask
from actlib.commands.words import add_json, add_step, require_output, tell
from actlib.files.records import record_beside

if TYPE_CHECKING:
    from actlib.files.patches import PatchInfo


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the step `patch` with its own words to the steps of the command line."""
    told = "make, apply, revert, inspect or describe an ability patch"
    example = __doc__.partition("\n\n")[2]
    step = add_step(steps, "patch", told, example)
    step.set_defaults(run=_run)
    words = step.add_subparsers(dest="word", required=True)
    make = add_step(
        words, "make", "write the moved channels of a transfer to one file", example.splitlines()[0]
    )
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
    for line, told in ((1, "write the patched model"), (2, "write the original model")):
        shown = example.splitlines()[line]
        move = add_step(words, shown.split()[2], told, shown)
        move.add_argument("path", help="file of the patch")
        move.add_argument("--target", required=True, help="model folder; it stays as it is")
        move.add_argument("--out", required=True, help="model folder to write, absent or empty")
    inspect = add_step(words, "inspect", "say what a patch holds", example.splitlines()[3])
    inspect.add_argument("path", help="file of the patch")
    add_json(inspect)
    card = add_step(words, "card", "print a card to publish beside it", example.splitlines()[4])
    card.add_argument("path", help="file of the patch")


def _run(given: argparse.Namespace) -> None:
    from actlib.files.patches import apply_patch, inspect_patch, make_patch, revert_patch

    if given.word == "make":
        require_output(given.out, given.mask)
        options = {"scale": given.scale, "reversible": not given.irreversible}
        options["metadata"] = dict(map(_entry, given.metadata))
        mask = load_mask(given.mask)
        print(_line(make_patch(given.target, given.donor, mask, given.out, **options)))
        inputs = {"target": given.target, "donor": given.donor, "mask": given.mask}
        record_beside(given.out, inputs, quick=True, scale=given.scale)
    elif given.word == "inspect":
        info = inspect_patch(given.path)
        tell(given, info.to_dict(), _told(info))
    elif given.word == "card":
        from actlib.files.cards import patch_card

        print(patch_card(inspect_patch(given.path)))
    else:
        require_output(given.out, folder=True)
        move = apply_patch if given.word == "apply" else revert_patch
        print(move(given.target, given.path, given.out))
        inputs = {"target": given.target, "patch": given.path}
        record_beside(given.out, inputs, quick=True, word=given.word)


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
