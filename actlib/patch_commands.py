"""The commands `actlib patch make`, `apply`, `revert` and `inspect`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from actlib.terminal import (
    Folder,
    Json,
    Mask,
    OutFile,
    OutFolder,
    Scale,
    command,
    load_mask,
    new_app,
    require_output,
    show,
)

if TYPE_CHECKING:
    from actlib.patch_file import PatchInfo

patch = new_app("Make, apply, revert or inspect an ability patch.")
PatchPath = Annotated[str, Argument(metavar="PATCH", help="file of the patch")]


@command(patch, "make")
def make(
    target: Folder,
    donor: Folder,
    mask: Mask,
    out: OutFile,
    scale: Scale = 0.4,
    metadata: Annotated[list[str] | None, Option(metavar="KEY=TEXT", help="for the patch")] = None,
    as_json: Json = False,
) -> None:
    """Write the moved channels of a transfer to one file.

    Example:
        actlib patch make --target T --donor D --mask mask.safetensors --out maths.safetensors
    """
    require_output(out, mask)
    entries = {}
    for entry in metadata or []:
        key, equals, entries[key] = entry.partition("=")
        if not key or not equals:
            raise ValueError(f"a metadata entry is KEY=TEXT, got {entry!r}")
    chosen = load_mask(mask)
    from actlib.patches import make_patch

    info = make_patch(target, donor, chosen, out, scale=scale, metadata=entries)
    show(as_json, asdict(info), _line(info))


@command(patch, "apply")
def apply(path: PatchPath, target: Folder, out: OutFolder) -> None:
    """Write the patched model.

    Example:
        actlib patch apply maths.safetensors --target T --out OUTPUT
    """
    from actlib.patches import apply_patch

    print(apply_patch(target, path, out))


@command(patch, "revert")
def revert(path: PatchPath, target: Folder, out: OutFolder) -> None:
    """Write the original model.

    Example:
        actlib patch revert maths.safetensors --target OUTPUT --out RESTORED
    """
    from actlib.patches import revert_patch

    print(revert_patch(target, path, out))


@command(patch, "inspect")
def inspect(path: PatchPath, as_json: Json = False) -> None:
    """Report what a patch holds.

    Example:
        actlib patch inspect maths.safetensors --json
    """
    from actlib.patches import inspect_patch

    info = inspect_patch(path)
    entries = (f"{key}: {text}" for key, text in info.metadata.items())
    show(as_json, asdict(info), "\n".join([_line(info), *entries]))


def _line(info: "PatchInfo") -> str:
    share = f"{info.parameter_percent:.3g} % of the target's parameters"
    return f"{info.elements} elements of {len(info.tensors)} tensors, {share}, {info.bytes} bytes"
