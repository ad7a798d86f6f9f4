"""Channel masks: which channels of a model are meant, how masks combine, and random control masks.

both = mask_a & mask_b
print(both.count, mask_a.jaccard(mask_b))
control = random_like(mask_a, generator_seed=0, per_module=True)
mask_a.save("maths.safetensors")
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from actlib.channels import channel_modules
from actlib.files import load_tensors, require_metadata, save_tensors
from actlib.weights import require_unwrapped

ORIGIN = ("ability", "percent", "ranking", "side", "without", "control", "combined")
"""Metadata that a short description of a mask names."""


@dataclass(frozen=True, eq=False)
class ChannelMask:
    """A set of channels of one model, as one boolean tensor per module.

    Attributes:
        channels: module name in `model.named_modules()` to bool [channels], in module order.
        metadata: where the mask comes from: models, data, percent, ranking.
    """

    channels: dict[str, Bool[Tensor, " channels"]]
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse metadata that no file could hold."""
        require_metadata(self.metadata)

    def __repr__(self) -> str:
        """Size and origin in three lines, whatever the size of the model."""
        counts = {name: int(selected.sum()) for name, selected in self.channels.items()}
        most = sorted(filter(counts.get, counts), key=lambda name: -counts[name])[:3]
        origin = [f"{key} {self.metadata[key]}" for key in ORIGIN if self.metadata.get(key)]
        share = f", {self.percent:.3g} %" if self.total else ""
        return (
            f"ChannelMask of {self.count:,} among {self.total:,} channels{share}\n"
            f"  most in {', '.join(f'{name} ({counts[name]:,})' for name in most) or 'no module'}\n"
            f"  {', '.join(origin) or 'of unknown origin'}"
        )

    @property
    def count(self) -> int:
        """Number of masked channels."""
        return sum(int(selected.sum()) for selected in self.channels.values())

    @property
    def total(self) -> int:
        """Number of channels, masked or not."""
        return sum(selected.numel() for selected in self.channels.values())

    @property
    def percent(self) -> float:
        """Masked channels in percent of all channels."""
        return 100 * self.count / self.total

    @property
    def digest(self) -> str:
        """SHA-256 of module names and masked channels; the metadata does not count."""
        state = hashlib.sha256()
        for name in sorted(self.channels):
            state.update(f"{name}\0{self.channels[name].numel()}\0".encode())
            state.update(self.channels[name].cpu().numpy().tobytes())
        return state.hexdigest()

    def __or__(self, other: "ChannelMask") -> "ChannelMask":
        """Channels in either mask."""
        return self._combine(other, "union", torch.logical_or)

    def __and__(self, other: "ChannelMask") -> "ChannelMask":
        """Channels in both masks."""
        return self._combine(other, "intersection", torch.logical_and)

    def __sub__(self, other: "ChannelMask") -> "ChannelMask":
        """Channels in this mask and not in the other."""
        return self._combine(other, "difference", lambda a, b: a & ~b)

    def jaccard(self, other: "ChannelMask") -> float:
        """Size of the intersection over size of the union, 0 to 1; two empty masks agree (1).

        >>> first = ChannelMask({"norm": torch.tensor([True, True, False])})
        >>> second = ChannelMask({"norm": torch.tensor([False, True, True])})
        >>> (first | second).count, (first & second).count, round(first.jaccard(second), 3)
        (3, 1, 0.333)

        Raises:
            ValueError: the masks are of different models.
        """
        union = (self | other).count
        return (self & other).count / union if union else 1.0

    def save(self, path: str | os.PathLike) -> None:
        """Write the mask with its metadata to a safetensors file."""
        save_tensors(path, "ChannelMask", self.channels, self.metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ChannelMask":
        """Read a mask written by `save`.

        Raises:
            ValueError: there is no such file, it holds no mask, or it is damaged.
        """
        channels, metadata = load_tensors(path, "ChannelMask")
        if any(each.dtype != torch.bool or each.ndim != 1 for each in channels.values()):
            raise ValueError(f"{path} is a damaged ChannelMask file: expected rows of yes and no")
        return cls(channels, metadata)

    def _combine(
        self, other: "ChannelMask", word: str, rule: Callable[[Tensor, Tensor], Tensor]
    ) -> "ChannelMask":
        require_same_channels(
            {name: selected.numel() for name, selected in self.channels.items()},
            {name: selected.numel() for name, selected in other.channels.items()},
            "the masks are of different models",
        )
        combined = {
            name: rule(selected, other.channels[name]) for name, selected in self.channels.items()
        }
        return ChannelMask(combined, {**other.metadata, **self.metadata, "combined": word})


def random_like(mask: ChannelMask, generator_seed: int, per_module: bool = True) -> ChannelMask:
    """Control mask of the same size with channels drawn at random without replacement.

    Modules that the mask was ranked without get none either.

    Args:
        mask: the mask whose size is matched.
        generator_seed: the same seed gives the same mask.
        per_module: match the count in each module, which keeps the make-up of the mask and is the
            stricter control; otherwise only the total count, drawn uniformly over all channels.
    """
    generator = torch.Generator().manual_seed(generator_seed)
    sizes = {name: selected.numel() for name, selected in mask.channels.items()}
    if per_module:
        drawn = {
            name: _draw(sizes[name], int(selected.sum()), generator)
            for name, selected in mask.channels.items()
        }
    else:
        left_out = mask.metadata.get("unranked", "").split(",")
        names = [n for n, own in mask.channels.items() if n not in left_out or own.any()]
        flat = _draw(sum(sizes[name] for name in names), mask.count, generator)
        parts = zip(names, flat.split([sizes[name] for name in names]), strict=True)
        drawn = {name: torch.zeros(size, dtype=torch.bool) for name, size in sizes.items()}
        drawn |= {name: part.clone() for name, part in parts}
    control = "random per module" if per_module else "random uniform"
    return ChannelMask(drawn, {**mask.metadata, "control": control, "seed": str(generator_seed)})


def require_same_channels(
    expected: Mapping[str, int], found: Mapping[str, int], complaint: str
) -> None:
    """Refuse two layouts (module name to number of channels) that differ, naming the differences.

    Raises:
        ValueError: opens with `complaint`.
    """
    missing = [f"no module {name}" for name in expected if name not in found]
    extra = [f"unknown module {name}" for name in found if name not in expected]
    sizes = [
        f"{name} has {found[name]} channels instead of {channels}"
        for name, channels in expected.items()
        if found.get(name, channels) != channels
    ]
    differences = sizes + missing + extra
    if differences:
        raise ValueError(f"{complaint}: {shortened(differences)}")


def require_fit(model: nn.Module, mask: ChannelMask) -> None:
    """Refuse a mask whose modules or channel numbers are not the model's, and a model of peft.

    Raises:
        ValueError: names what differs.
    """
    require_unwrapped(model)
    expected = {name: found.channels for name, found in channel_modules(model).items()}
    found = {name: selected.numel() for name, selected in mask.channels.items()}
    require_same_channels(expected, found, "the mask is of another model")


def shortened(differences: list[str], limit: int = 5) -> str:
    """Join differences into one clause, the first few by name and the rest as a number.

    >>> shortened(["no module a", "no module b", "no module c"], limit=2)
    'no module a; no module b; and 1 more'
    """
    rest = len(differences) - limit
    return "; ".join(differences[:limit]) + (f"; and {rest} more" if rest > 0 else "")


def _draw(total: int, count: int, generator: torch.Generator) -> Bool[Tensor, " total"]:
    selected = torch.zeros(total, dtype=torch.bool)
    selected[torch.randperm(total, generator=generator)[:count]] = True
    return selected
