"""A checkpoint's transfer as a whole process, beside mergekit's task arithmetic on the pair."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks import folders
from benchmarks.measuring import peer_python
from benchmarks.processes import run_command, surroundings
from benchmarks.rows import START
from benchmarks.serving import Way
from benchmarks.side import Setting

SCALE = 0.4


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Both commands, from the shell to the folder written; memory is watched from outside.

    Raises:
        NotRunError: mergekit is not installed.
    """
    command = Path(peer_python("mergekit")).with_name("mergekit-yaml")
    donor, target, mask = folders.made_pair(setting.scratch, folders.two_gigabytes(setting.quick))
    out, kept = setting.scratch / "out", setting.scratch / "mask.safetensors"
    recipe = setting.scratch / "task_arithmetic.yaml"
    mask.save(kept)
    recipe.write_text(yaml.safe_dump(task_arithmetic(donor, target)), encoding="utf-8")
    ours = [sys.executable, "-m", "actlib", "transfer", "--target", str(target)]
    ours += ["--donor", str(donor), "--mask", str(kept), "--out", str(out)]
    theirs = [str(command), str(recipe), str(out)]

    def whole(words: Sequence[str]) -> Way:
        def prepare() -> None:
            folders.remove(out)
            folders.warm(donor, target)

        return Way(lambda: run_command(words), prepare, lambda: folders.remove(out))

    return {
        "actlib transfer": whole([*ours, "--scale", str(SCALE)]),
        "mergekit-yaml": whole(theirs),
        START: Way(lambda: run_command([sys.executable, "-c", "import torch"])),
    }


def facts() -> dict[str, str]:
    """Versions in mergekit's environment."""
    script = "from benchmarks.machine import named_versions as told; print(told(*{}))"
    packages = ("mergekit", "torch", "transformers")
    command = [peer_python("mergekit"), "-c", script.format(packages)]
    done = subprocess.run(command, env=surroundings(), capture_output=True, text=True, check=True)
    return {"peer": done.stdout.strip()}


def task_arithmetic(donor: Path, target: Path) -> dict:
    """Recipe of mergekit for target + 0.4 (donor - target) in every parameter."""
    model = {"model": str(donor.resolve()), "parameters": {"weight": SCALE}}
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(target.resolve()),
        "models": [model],
        "dtype": "bfloat16",
    }
