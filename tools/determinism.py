"""Measure how far results of one machine agree: twice with one thread, and with two.

    python tools/determinism.py --preset tiny

Each run, in a process of its own, records the pair on an ability, ranks the channels, moves the top
5 percent, judges the result item by item, and fine-tunes it for 20 steps. Printed is, for each
result, whether its bits are the same, and the largest difference if not; 1 where two runs of one
thread differ.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RUNS = {"again": 1, "two threads": 2}


def main() -> int:
    """Compare three runs, or be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny", help="name in configs/")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.out:
        save_file(results(given.preset), given.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        first = measured(given.preset, Path(folder) / "first", 1)
        others = {
            name: measured(given.preset, Path(folder) / name, count) for name, count in RUNS.items()
        }
    for run, found in others.items():
        for name, tensor in first.items():
            print(f"{run:12} {name:12} {told(tensor, found[name])}")
    return int(any(not first[name].equal(others["again"][name]) for name in first))


def measured(preset: str, path: Path, threads: int) -> dict[str, torch.Tensor]:
    """Results of a process of so many threads."""
    settings = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, __file__, "--preset", preset, "--out", str(path)]
    subprocess.run(command, env=os.environ | settings, check=True)
    return load_file(path)


def results(preset: str) -> dict[str, torch.Tensor]:
    """Scores, mask, moved weights, judged items and tuned weights of a preset's pair."""
    from actlib import record_differences, transfer_
    from actlib.finetune import finetune
    from actlib.study.session import Study

    study = Study.open(preset)
    donor, target = study.model("donor"), study.model("target")
    cell = study.lost[0]
    scores = record_differences(donor, target, study.batches(cell, "recording"))
    mask = scores.top(5.0)
    transfer_(target, donor, mask, scale=0.4)
    found = {
        "scores": torch.cat(list(scores.values.values())),
        "mask": torch.cat(list(mask.channels.values())),
        "transfer": weights(target),
        "items' nll": torch.tensor(study.judge(target, [cell], "test")["nll"].to_numpy()),
    }
    rows = study.training([cell], 0)
    losses = finetune(
        target.float(),
        study.tokenizer(),
        rows,
        steps=20,
        learning_rate=5e-4,
        mixed_precision=study.preset.dtype == "bfloat16",
        progress=False,
    )
    return found | {"sft loss": torch.tensor(losses), "sft": weights(target)}


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All parameters of a model in one row."""
    return torch.cat([each.detach().flatten().clone() for each in model.parameters()])


def told(one: torch.Tensor, other: torch.Tensor) -> str:
    """Whether two results are the same, in words."""
    if one.equal(other):
        return "the same bits"
    if one.dtype == torch.bool:
        return f"{int((one != other).sum())} of {int(one.sum())} channels are others"
    apart = (one.double() - other.double()).abs()
    scale = one.double().abs().max()
    return f"at most {apart.max():.2g} apart, {apart.max() / scale:.2g} of the largest"


if __name__ == "__main__":
    sys.exit(main())
