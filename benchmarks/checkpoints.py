"""Moving 5 % of the channels between folders, beside `cp -r` of the target's folder; peak memory.

    python benchmarks/checkpoints.py     # 2 GB in 4 shards, in the page cache; 6 GB of disk

The channels lie in every tensor, embedding columns among them: the unfavorable case. What a run
wrote is deleted before the next, untimed, and no way waits until the disk has its bytes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pairs import TINY, TWO_GIGABYTES, scattered_channels, write_pair
from turns import Worker, in_turns, options, save, serve, summary

import actlib


def prepare(folder: Path) -> None:
    """Delete the output, wait for the disk, and have both models' files in the page cache."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    os.sync()
    subprocess.run(["cat", *folder.rglob("*.safetensors")], stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Time both ways, watch the memory of the process that transfers, and write checkpoints.csv."""
    chosen = options(__doc__)
    config = TINY if chosen.tiny else TWO_GIGABYTES
    if folder := chosen.serve:
        mask = actlib.ChannelMask(scattered_channels(config))
        paths = (f"{folder}/target", f"{folder}/donor", mask, f"{folder}/out")
        return serve({"transfer_checkpoint": lambda: actlib.transfer_checkpoint(*paths)})
    with tempfile.TemporaryDirectory() as folder:
        target = write_pair(Path(folder), config, shards=4)[1]
        worker = Worker([sys.executable, *sys.argv, "--serve", folder])
        ways = {
            "cp -r": lambda: subprocess.run(["cp", "-r", target, f"{folder}/out"], check=True),
            "transfer_checkpoint": lambda: worker.run("transfer_checkpoint"),
        }
        runs = in_turns(ways, chosen.turns, lambda: prepare(Path(folder)))
        worker.end()
    case = "tiny" if chosen.tiny else "2 GB in 4 shards"
    save([summary(case, runs, "cp -r")], "checkpoints", chosen.results)


if __name__ == "__main__":
    main()
