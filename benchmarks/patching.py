"""A patch of 5 % of the channels applied in memory, beside loading all of the model's weights.

    python benchmarks/patching.py     # a model of 2 GB in bfloat16 on the CPU

The state dict is in memory already; the patch's file is warm, and its hash checked once.
"""

import tempfile
from pathlib import Path

import torch
from pairs import TINY, TWO_GIGABYTES, random_pair, scattered_channels
from turns import in_turns, options, save, summary

import actlib


def main() -> None:
    """Time apply, revert and load, each from a fitting start, and write patching.csv."""
    chosen = options(__doc__)
    config = TINY if chosen.tiny else TWO_GIGABYTES
    donor, target = random_pair(config, torch.bfloat16)
    mask = actlib.ChannelMask(scattered_channels(config))
    state = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with tempfile.TemporaryDirectory() as scratch:
        patch = Path(scratch) / "patch.safetensors"
        actlib.make_patch(target=target, donor=donor, mask=mask, path=patch)
        ways = {  # in this order, so that each finds the weights that it fits
            "load_state_dict": lambda: target.load_state_dict(state),
            "apply_patch": lambda: actlib.apply_patch(target, patch),
            "revert_patch": lambda: actlib.revert_patch(target, patch),
        }
        runs = in_turns(ways, chosen.turns)
    table = summary("tiny" if chosen.tiny else "2 GB, bfloat16", runs, "load_state_dict")
    save([table], "patching", chosen.results)


if __name__ == "__main__":
    main()
