"""Keeps a donor's activations of the answer tokens on disk, one file for each part of the batches.

kept = KeptActivations(Path("scratch"))
kept.begin(donor)
kept.write(part, held_activations(donor, modules, part))
with kept.opened(part, modules) as take:
    ours = take("model.norm")

A file is written beside its place and moved there, so one that exists is whole, and it holds the
hash of the items that it is of. `donor.json` says which model the folder is of.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from actlib.activations import Activations
from actlib.channels import ChannelModule, Layout
from actlib.experts import Routed
from actlib.files import atomic_file, write_text
from actlib.passes import Part, Take, bytes_per_token, describe_model

ROUTED = ("values", "tokens", "experts")


@dataclass(frozen=True)
class KeptActivations:
    """The activations of one donor in a folder.

    Attributes:
        folder: which is theirs alone.
    """

    folder: Path

    def note(self) -> dict[str, Any] | None:
        """What `donor.json` says: architecture, config, bytes a token, samples of weights."""
        path = self.folder / "donor.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def begin(self, donor: nn.Module) -> dict[str, Any]:
        """Give the folder to a donor, or see that it is this donor's.

        Returns:
            Its note.

        Raises:
            ValueError: it holds activations of another model.
        """
        found, note = self.note(), _note_of(donor)
        if found is not None and not _is_same(found, note):
            raise ValueError(
                f"{self.folder} holds activations of another donor "
                f"({found['model']['name'] or 'of no name'}); empty it or name another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "donor.json", json.dumps(note))
        return note

    def has(self, part: Part) -> bool:
        """Whether the file of these very items is there."""
        try:
            with safe_open(self._path(part), framework="pt") as file:
                return (file.metadata() or {}).get("part") == part.digest
        except (OSError, SafetensorError):
            return False

    def write(self, part: Part, held: Mapping[str, list[Activations]]) -> None:
        """Write a part's activations in their own dtype, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        for name, calls in held.items():
            for number, found in enumerate(calls):
                key = f"{name}#{number}"
                if isinstance(found, Routed):
                    # Copies: both projections share their routes, which safetensors refuses.
                    tensors |= {f"{key}#{each}": getattr(found, each).clone() for each in ROUTED}
                else:
                    tensors[key] = found
        tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
        with atomic_file(self._path(part)) as unfinished:
            save_file(tensors, unfinished, {"part": part.digest})

    @contextmanager
    def opened(self, part: Part, modules: Mapping[str, ChannelModule]) -> Iterator[Take]:
        """Give a function that reads the activations of a module's next call; None after the last.

        Raises:
            ValueError: the file of these items is missing.
        """
        if not self.has(part):
            raise ValueError(f"{self._path(part)} is not there or of other items; record anew")
        calls: Counter[str] = Counter()
        with safe_open(self._path(part), framework="pt") as file:
            keys = set(file.keys())

            def take(name: str) -> Activations | None:
                key = f"{name}#{calls[name]}"
                calls[name] += 1
                if modules[name].layout is not Layout.PACKED:
                    return file.get_tensor(key) if key in keys else None
                if f"{key}#values" not in keys:
                    return None
                values, tokens, experts = (file.get_tensor(f"{key}#{each}") for each in ROUTED)
                count, total = len(part.tokens.rows), len(modules[name].weight)
                return Routed(values, tokens, experts, count, total)

            yield take

    def remove(self) -> None:
        """Remove what was kept, and the folder if nothing else lies in it."""
        for path in [*self.folder.glob("part-*.safetensors"), self.folder / "donor.json"]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # other files, or another process was first
            self.folder.rmdir()

    def _path(self, part: Part) -> Path:
        return self.folder / f"part-{part.number:06d}.safetensors"


def _note_of(donor: nn.Module) -> dict[str, Any]:
    config = getattr(donor, "config", None)
    return {
        "architecture": type(donor).__name__,
        "config": json.loads(config.to_json_string()) if config is not None else {},
        "model": describe_model(donor),
        "bytes_per_token": bytes_per_token(donor),
        "samples": _samples(donor),
    }


def _samples(model: nn.Module) -> dict[str, str]:
    """Hash of up to 64 values of each parameter that is in memory, by name."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:
            flat = parameter.detach().flatten()
            chosen = flat[:: max(1, len(flat) // 64)].float().cpu()
            found[name] = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()[:16]
    return found


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two notes are of one model; weights offloaded in either say nothing."""
    if any(one[key] != other[key] for key in ("architecture", "bytes_per_token")):
        return False
    both = one["samples"].keys() & other["samples"].keys()
    return all(one["samples"][name] == other["samples"][name] for name in both)
