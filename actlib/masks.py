"""Channel masks: which channels of a model are meant, how masks combine, and random control masks.

both = mask_a & mask_b
print(both.count, mask_a.jaccard(mask_b))
control = random_like(mask_a, generator_seed=0, per_module=True)
mask_a.save("maths.safetensors")
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actlib.channels import channel_modules
from actlib.files import load_tensors, require_metadata, save_tensors, unique_entries, write_text
from actlib.weights import require_unwrapped
from actlib.wording import list_first

ORIGIN = ("ability", "percent", "ranking", "side", "without", "control", "combined")
"""Metadata that a short description of a mask names."""


@dataclass(frozen=True, eq=False)
class ChannelMask:
    """A set of channels of one model, as one boolean tensor per module.

    Attributes:
        channels: module name in `model.named_modules()` to bool [channels], in module order.
        metadata: where the mask comes from: models, data, percent, ranking. Of a union and of an
            intersection those on which both masks agree, of a difference those of the first.
    """

    channels: dict[str, Bool[Tensor, " channels"]]
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse metadata that no file could hold, and channels that are not True or False."""
        require_metadata(self.metadata)
        for name, selected in self.channels.items():
            if selected.dtype != torch.bool:
                raise ValueError(f"channels of {name} must be bool, got {selected.dtype}")

    def __repr__(self) -> str:
        """Size and origin in two lines, whatever the size of the model."""
        share = f", {self.percent:.3g} %" if self.total else ""
        return (
            f"ChannelMask of {self.count:,} among {self.total:,} channels{share}\n"
            f"  {describe_origin(self.metadata, ORIGIN)}"
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

    def indices(self) -> dict[str, Int[Tensor, " masked"]]:
        """Numbers of the masked channels, for modules that have any."""
        indices = {name: own.nonzero().flatten() for name, own in self.channels.items()}
        return {name: index for name, index in indices.items() if len(index)}

    def __or__(self, other: "ChannelMask") -> "ChannelMask":
        """Channels in either mask."""
        return self._combine(other, "union", torch.logical_or)

    def __and__(self, other: "ChannelMask") -> "ChannelMask":
        """Channels in both masks."""
        return self._combine(other, "intersection", torch.logical_and)

    def __sub__(self, other: "ChannelMask") -> "ChannelMask":
        """Channels in this mask and not in the other."""
        return self._combine(other, "difference", torch.gt)

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
        """Write the mask with its metadata to a safetensors file, or to a name.json as text.

        The text has channel numbers by module, for other tools, and no hash: see docs/formats.md.
        """
        if Path(path).suffix != ".json":
            return save_tensors(path, "ChannelMask", self.channels, self.metadata)
        modules = {
            name: {"channels": own.numel(), "masked": own.nonzero().flatten().tolist()}
            for name, own in self.channels.items()
        }
        write_text(Path(path), json.dumps({"metadata": self.metadata, "modules": modules}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ChannelMask":
        """Read a mask written by `save`.

        Raises:
            ValueError: there is no such file, it holds no mask, or it is damaged.
        """
        if Path(path).suffix == ".json":
            return _read_json(Path(path))
        return cls(*load_tensors(path, "ChannelMask"))

    def _combine(
        self, other: "ChannelMask", word: str, rule: Callable[[Tensor, Tensor], Tensor]
    ) -> "ChannelMask":
        require_same_channels(self.channels, other.channels, "the masks are of different models")
        combined = {
            name: rule(selected, other.channels[name]) for name, selected in self.channels.items()
        }
        if word == "difference":  # what is true of the result
            return ChannelMask(combined, {**self.metadata, "combined": word})
        agreed = {k: v for k, v in self.metadata.items() if other.metadata.get(k) == v}
        both = [mask.metadata.get("unranked", "").split(",") for mask in (self, other)]
        lacks = any if word == "intersection" else all  # a union ranks what either mask ranks
        unranked = [name for name in combined if lacks(name in names for names in both)]
        agreed |= {"unranked": ",".join(unranked)} if unranked else {}
        return ChannelMask(combined, {**agreed, "combined": word})


def random_like(mask: ChannelMask, generator_seed: int, per_module: bool = True) -> ChannelMask:
    """Control mask of the same size with channels drawn at random without replacement.

    Modules that the mask was ranked without get none either. With `per_module` the count in each
    module is that of the mask, which is the stricter control; otherwise only the total count is,
    drawn uniformly over all channels.
    """
    generator = torch.Generator().manual_seed(generator_seed)
    drawn = {
        name: torch.zeros(own.numel(), dtype=torch.bool) for name, own in mask.channels.items()
    }
    if per_module:
        for name, own in mask.channels.items():
            drawn[name] = _draw(own.numel(), int(own.sum()), generator)
    else:
        left_out = mask.metadata.get("unranked", "").split(",")
        names = [n for n, own in mask.channels.items() if n not in left_out or own.any()]
        sizes = [drawn[name].numel() for name in names]
        flat = _draw(sum(sizes), mask.count, generator)
        drawn |= {n: part.clone() for n, part in zip(names, flat.split(sizes), strict=True)}
    control = "random per module" if per_module else "random uniform"
    return ChannelMask(drawn, {**mask.metadata, "control": control, "seed": str(generator_seed)})


def channel_count(percent: float, channels: int, least: int = 1) -> int:
    """Floor of percent/100 times the channels, but no less than `least`.

    Computed in fractions of the decimal number, since 29 / 100 * 100 in floats is below 29.

    Raises:
        ValueError: the percent is not above 0 and up to 100.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be above 0 and at most 100, got {percent:g}")
    return max(least, int(Fraction(str(float(percent))) * channels / 100))


def mark_best(
    values: Mapping[str, Float[Tensor, " channels"]],
    percent: float,
    *,
    highest: bool,
    per_module: bool,
) -> dict[str, Bool[Tensor, " channels"]]:
    """Mark the best channels of all modules together, or of each module.

    Ties go by module order, then by channel index.

    Raises:
        ValueError: the percent is out of range, or less than one channel of every module.
    """
    sizes = {name: part.numel() for name, part in values.items()}
    if not per_module:
        flat = torch.cat(list(values.values()))
        best = _best(flat, channel_count(percent, flat.numel()), highest)
        parts = zip(values, best.split(list(sizes.values())), strict=True)
        return {name: part.clone() for name, part in parts}
    counts = {name: channel_count(percent, size, least=0) for name, size in sizes.items()}
    if not any(counts.values()):
        raise ValueError(
            f"{percent:g} % is less than one channel of every module, the largest of which has "
            f"{max(sizes.values())}; take more"
        )
    return {name: _best(part, counts[name], highest) for name, part in values.items()}


def require_same_channels(
    expected: Mapping[str, Tensor | int], actual: Mapping[str, Tensor | int], complaint: str
) -> None:
    """Raise ValueError, opening with `complaint`, for modules or channel numbers that differ."""
    counts, actual_counts = (
        {name: each if isinstance(each, int) else each.numel() for name, each in side.items()}
        for side in (expected, actual)
    )
    differences = [
        f"{name} has {actual_counts.get(name, 'no')} channels instead of {counts.get(name, 'none')}"
        for name in counts | actual_counts
        if actual_counts.get(name) != counts.get(name)
    ]
    if differences:
        raise ValueError(f"{complaint}: {list_first(differences)}")


def require_fit(model: nn.Module, mask: ChannelMask) -> None:
    """Raise ValueError for a mask of another model, and for a model that is wrapped."""
    require_unwrapped(model)
    expected = {name: module.channels for name, module in channel_modules(model).items()}
    require_same_channels(expected, mask.channels, "the mask is of another model")


def describe_origin(metadata: Mapping[str, str], keys: Iterable[str]) -> str:
    """What metadata say under some keys, in one line."""
    stated = [f"{key} {metadata[key]}" for key in keys if metadata.get(key)]
    return ", ".join(stated) or "of unknown origin"


def _read_json(path: Path) -> ChannelMask:
    """The mask in a file of JSON."""
    try:
        text, channels = path.read_text(encoding="utf-8"), dict[str, Tensor]()
        stated = json.loads(text, object_pairs_hook=unique_entries)
        for name, own in stated["modules"].items():
            channels[name] = torch.zeros(own["channels"], dtype=torch.bool)
            if not all(type(number) is int and number >= 0 for number in own["masked"]):
                raise ValueError(f"{name} has a channel that is no whole number from 0")
            channels[name][torch.tensor(own["masked"], dtype=torch.long)] = True
        return ChannelMask(channels, stated.get("metadata", {}))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is no mask in JSON: {error}; see docs/formats.md") from error


def _draw(total: int, count: int, generator: torch.Generator) -> Bool[Tensor, " total"]:
    selected = torch.zeros(total, dtype=torch.bool)
    selected[torch.randperm(total, generator=generator)[:count]] = True
    return selected


def _best(values: Float[Tensor, " channels"], count: int, highest: bool) -> Tensor:
    """Mark the `count` best values; of those equal to the last of them, the first in order."""
    selected = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    selected[values.sort(descending=highest, stable=True).indices[:count]] = True
    return selected
