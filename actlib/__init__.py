"""Ability localization and transfer by activation differences (ACT).

The names below are what people import. They load on first use, so that importing a module that
needs no torch, such as `actlib.analysis`, does not import torch.

What compares two models takes ``(donor, target)``. What changes a model or its outputs takes the
changed one first: ``transfer_(target, donor, mask)``. `fit_vocabulary_` changes the donor.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ChannelMask": "masks",
    "random_like": "masks",
    "ChannelScores": "scores",
    "check_pair": "pairs",
    "fit_vocabulary_": "vocabulary",
    "pair_report": "reports",
    "record_activations": "activations",
    "record_attributions": "attribution",
    "record_differences": "recording",
    "record_differences_in_two_passes": "two_passes",
    "weight_differences": "norms",
    "batches": "prompts",
    "load_questions": "questions",
    "evaluate": "evaluation",
    "ablated": "interventions",
    "patched": "interventions",
    "preserved": "transfer",
    "transfer_": "transfer",
    "transferred": "transfer",
    "transfer_checkpoint": "checkpoint",
    "PatchInfo": "patch_file",
    "apply_patch": "patches",
    "inspect_patch": "patches",
    "make_patch": "patches",
    "revert_patch": "patches",
    "MergeReport": "merging",
    "merge": "merging",
    "merge_": "merging",
    "merge_checkpoint": "merging",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load an exported name from the module that holds it."""
    if name not in _HOME:
        raise AttributeError(f"module 'actlib' has no attribute {name!r}")
    value = getattr(import_module(f"actlib.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the exported names beside the module's own."""
    return sorted({*globals(), *_HOME})
