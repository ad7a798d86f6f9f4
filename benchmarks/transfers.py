"""A checkpoint's transfer, beside a plain copy of the target's folder."""

import os
import subprocess
from collections.abc import Callable, Mapping

from actlib.folders.checkpoints import transfer_checkpoint
from benchmarks import folders
from benchmarks.serving import NotRunError, Way
from benchmarks.side import Setting


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Both ways with the page cache "warm" (donor and target in it) or "cold" (neither).

    What a run wrote is deleted before the next, untimed. Neither way waits for the disk.
    """
    donor, target, mask = folders.made_pair(setting.scratch, folders.two_gigabytes(setting.quick))
    out = setting.scratch / "out"

    def transfer() -> dict[str, float]:
        transfer_checkpoint(target, donor, mask, out)
        return {"checkpoint_bytes": folders.size_of(target)}

    def copy() -> None:
        subprocess.run(["cp", "-r", str(target), str(out)], check=True)

    def prepare() -> None:
        folders.remove(out)
        os.sync()  # What others left to be written must not slow the one run and not the other.
        if case == "warm":
            folders.warm(donor, target)
        elif folders.cool(donor, target) > 0.05:
            raise NotRunError("the page cache cannot be emptied here")

    def prepared(run: Callable[[], object]) -> Way:
        return Way(run, before=prepare, after=lambda: folders.remove(out))

    return {"transfer_checkpoint": prepared(transfer), "cp -r": prepared(copy)}
