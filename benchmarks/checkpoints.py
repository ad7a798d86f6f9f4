"""Moving 5 % of the channels of 2 GB: between folders beside `cp -r`, and as a patch in memory.

    python benchmarks/checkpoints.py     # 4 shards, in the page cache; 6 GB of disk

The channels lie in every tensor, embedding columns among them: the unfavorable case. Between
folders, what a run wrote is deleted before the next, untimed, and no way waits until the disk has
its bytes. A patch is beside `load_state_dict` of tensors in memory; its hash is checked once.
"""

import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import torch
from pairs import TINY, TWO_GIGABYTES, random_pair, scattered_channels, write_pair
from turns import Worker, in_turns, options, save, serve, summary

import actlib


def prepare(folder: Path) -> None:
    """Delete the output, wait for the disk, and have both models' files in the page cache."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    os.sync()
    subprocess.run(["cat", *folder.rglob("*.safetensors")], stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Time a copy and a transfer, then apply, revert and load, each from a fitting start."""
    chosen = options(__doc__)
    config, case = (TINY, "tiny") if chosen.tiny else (TWO_GIGABYTES, "2 GB")
    mask = actlib.ChannelMask(scattered_channels(config))
    if folder := chosen.serve:
        paths = (f"{folder}/target", f"{folder}/donor", mask, f"{folder}/out")
        return serve({"transfer_checkpoint": lambda: actlib.transfer_checkpoint(*paths)})
    with tempfile.TemporaryDirectory() as folder:
        target = write_pair(Path(folder), config, shards=4)[1]
        worker = Worker(folder)
        copy = ["cp", "-r", target, f"{folder}/out"]
        ways = {"cp -r": partial(subprocess.run, copy, check=True)} | worker.ways
        runs = in_turns(ways, chosen.turns, lambda: prepare(Path(folder)))
        worker.end()
    save([summary(f"{case} in 4 shards", runs, "cp -r")], "checkpoints", chosen.results)

    donor, target = random_pair(config, torch.bfloat16)
    state = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "patch.safetensors"
        actlib.make_patch(target=target, donor=donor, mask=mask, path=patch)
        ways = {  # in this order, so that each finds the weights that it fits
            "load_state_dict": partial(target.load_state_dict, state),
            "apply_patch": partial(actlib.apply_patch, target, patch),
            "revert_patch": partial(actlib.revert_patch, target, patch),
        }
        runs = in_turns(ways, chosen.turns)
    save([summary(f"{case}, bfloat16", runs, "load_state_dict")], "patching", chosen.results)


if __name__ == "__main__":
    main()
