"""Training that goes on where a killed process left it, to the same weights bit for bit.

    finetune(model, tokenizer, items, ..., resume=Resume(folder))

The folder holds the last checkpoint alone: weights, optimizer, schedule, random states, losses. It
is of one training, named by a digest of its start, its data and its settings; any other training
begins anew. Whoever keeps the result removes the folder (`Resume.forget`).
"""

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback

from actlib.files import atomic_folder

COST = 50
"""A checkpoint is due after this many times what the last one took to write: 2 % of the time."""


@dataclass(frozen=True)
class Resume:
    """Where a training keeps its last checkpoint.

    Attributes:
        folder: of the checkpoint, made when the first is due.
        seconds: least time between two. Short trainings write none.
    """

    folder: Path
    seconds: float = 120.0

    def found(self, digest: str) -> Path | None:
        """The checkpoint of the training of this digest; None if there is none."""
        note = self.folder / "training.json"
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != digest:
            return None
        return next(self.folder.glob("checkpoint-*"), None)

    def forget(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when one is due, and puts it in place whole."""

    def __init__(self, resume: Resume, digest: str) -> None:
        """Begin to count the time.

        Args:
            resume: where they go.
            digest: of the training.
        """
        self.resume, self.digest = resume, digest
        self.saved, self.took = time.monotonic(), 0.0

    def on_step_end(self, args, state, control, **_kwargs):
        """Ask for a checkpoint if the last is old enough, except after the last step."""
        age = time.monotonic() - self.saved
        due = age >= max(self.resume.seconds, COST * self.took)
        control.should_save = due and state.global_step < state.max_steps
        return control

    def save(self, write: Callable[[Path], None]) -> None:
        """Put what ``write`` leaves in a folder in the place of the last checkpoint.

        Without room for it the training goes on, with a warning.
        """
        began = time.monotonic()
        try:
            with atomic_folder(self.resume.folder, replace=True) as unfinished:
                write(unfinished)
                text = json.dumps(self.digest)
                (unfinished / "training.json").write_text(text, encoding="utf-8")
        except (OSError, RuntimeError, SafetensorError) as error:
            warnings.warn(f"the training goes on without a checkpoint: {error}", stacklevel=2)
        self.saved = time.monotonic()
        self.took = self.saved - began


def training_digest(model: nn.Module, rows: Sequence[Mapping], settings: Mapping) -> str:
    """Digest of all that decides a training: weights, tokens, settings, version of torch."""
    told = {"rows": rows, "settings": settings, "torch": torch.__version__}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + bytes(values.numpy().data))
    return digest.hexdigest()
