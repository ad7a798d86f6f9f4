"""Serve the ways of one benchmark: `python -m benchmarks.side MODULE CASE [--quick]`."""

import argparse
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import versions
from benchmarks.serving import Way, serve


@dataclass(frozen=True)
class Setting:
    """How large, and where what is made once is kept.

    Attributes:
        scratch: folder of made checkpoints.
        quick: tiny sizes, to try the scripts.
    """

    scratch: Path
    quick: bool = False


def ways(module: str, case: str, setting: Setting) -> Mapping[str, Way]:
    """Set up one case of a module of this package."""
    return importlib.import_module(f"benchmarks.{module}").ways(case, setting)


def facts(module: str) -> dict[str, str]:
    """Versions of this environment, its GPU, and what the module itself has to tell."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    own = getattr(importlib.import_module(f"benchmarks.{module}"), "facts", dict)
    return {**versions("torch", "transformers"), "gpu": gpu, **own()}


def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("case")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    setting = Setting(given.scratch, given.quick)
    serve(lambda: ways(given.module, given.case, setting), lambda: facts(given.module))


if __name__ == "__main__":
    main()
