"""Channel scores: how much each channel differs between two models, and the masks ranked from that.

mask = scores.top(percent=5.0)                      # the paper's ranking, all channels together
mask = scores.top(percent=5.0, ranking="scaled")    # each module in units of its own activations
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from actlib.masks import ChannelMask, load_tensors, save_tensors

RANKINGS = ("global", "module", "scaled")


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """One score per channel of a model.

    Attributes:
        values: module name in `model.named_modules()` to float32 [channels], in module order. From
            `record_differences`: the mean over answer tokens of |a_donor - a_target| (ACT, Eq. 2).
        magnitudes: the same names to float32 [channels], the mean over answer tokens of
            (|a_donor| + |a_target|) / 2, in the same unit as the values.
        tokens: number of answer tokens pooled.
        metadata: models, revisions, data hash, tokens, dtype.
    """

    values: dict[str, Float[Tensor, " channels"]]
    magnitudes: dict[str, Float[Tensor, " channels"]]
    tokens: int
    metadata: dict[str, str] = field(default_factory=dict)

    def top(self, percent: float, ranking: str = "global") -> ChannelMask:
        """Mask of the channels with the highest scores.

        The count is the floor of percent/100 times the channels, and at least one. Ties go by
        module order, then by channel index.

        Args:
            percent: share of the channels, above 0 and up to 100.
            ranking: "global" ranks all channels together, as the paper does; modules with large
                activations, such as the LM head, can fill the mask. "scaled" does so after dividing
                each module by its mean activation magnitude. "module" takes the same percent in
                each module: the floor in each, so small modules may get none and the total may be
                lower, but at least one channel overall, the highest.

        Raises:
            ValueError: the percent is out of range, the ranking unknown, or a score is NaN.
        """
        return self._select(percent, ranking, highest=True)

    def bottom(self, percent: float, ranking: str = "global") -> ChannelMask:
        """Mask of the channels with the lowest scores, a control; counts and ties as in `top`."""
        return self._select(percent, ranking, highest=False)

    def ranked(self, ranking: str = "global") -> dict[str, Float[Tensor, " channels"]]:
        """Values by which a ranking orders the channels: the scores, divided if it is "scaled".

        A module of zero magnitude scores 0.

        Raises:
            ValueError: the ranking is unknown.
        """
        if ranking not in RANKINGS:
            raise ValueError(f"unknown ranking {ranking!r}, expected one of {', '.join(RANKINGS)}")
        if ranking != "scaled":
            return self.values
        means = {name: self.magnitudes[name].float().mean() for name in self.values}
        return {
            name: values / means[name] if means[name] > 0 else torch.zeros_like(values)
            for name, values in self.values.items()
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the scores with their metadata to a safetensors file."""
        tensors = {f"values:{name}": values for name, values in self.values.items()}
        tensors |= {f"magnitudes:{name}": values for name, values in self.magnitudes.items()}
        save_tensors(path, "ChannelScores", tensors, {**self.metadata, "tokens": str(self.tokens)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ChannelScores":
        """Read scores written by `save`.

        Raises:
            ValueError: there is no such file, or it holds no scores.
        """
        tensors, metadata = load_tensors(path, "ChannelScores")
        parts: dict[str, dict[str, Tensor]] = {"values": {}, "magnitudes": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition(":")
            parts[part][name] = tensor
        return cls(parts["values"], parts["magnitudes"], int(metadata["tokens"]), metadata)

    def _select(self, percent: float, ranking: str, highest: bool) -> ChannelMask:
        values = self.ranked(ranking)
        sizes = {name: scores.numel() for name, scores in values.items()}
        flat = torch.cat([scores.float() for scores in values.values()])
        if flat.isnan().any():
            raise ValueError("the scores hold NaN and cannot be ranked")
        count = channel_count(percent, flat.numel())
        counts = [channel_count(percent, size, least=0) for size in sizes.values()]
        if ranking == "module" and sum(counts) > 0:
            parts = flat.split(list(sizes.values()))
            chosen = [_best(*pair, highest) for pair in zip(parts, counts, strict=True)]
        else:
            chosen = list(_best(flat, count, highest).split(list(sizes.values())))
        channels = {name: part.clone() for name, part in zip(sizes, chosen, strict=True)}
        side = "top" if highest else "bottom"
        found = {"percent": f"{percent:g}", "ranking": ranking, "side": side}
        return ChannelMask(channels, {**self.metadata, **found})


def pool(scores: Sequence[ChannelScores]) -> ChannelScores:
    """Scores of several recordings of one pair as one recording: every answer token weighs alike.

    The metadata keeps the entries on which all agree; the rest are joined by commas.

    Raises:
        ValueError: there is nothing to pool, or the recordings are of different modules or without
            answer tokens (scores of weights cannot be pooled).
    """
    if not scores or not all(part.tokens for part in scores):
        raise ValueError("pooling needs at least one recording, each with answer tokens")
    first = scores[0]
    if any(list(part.values) != list(first.values) for part in scores):
        raise ValueError("recordings of different modules cannot be pooled")
    tokens = sum(part.tokens for part in scores)
    pooled = [
        {
            name: sum(getattr(part, field_)[name].double() * part.tokens for part in scores)
            .div(tokens)
            .float()
            for name in first.values
        }
        for field_ in ("values", "magnitudes")
    ]
    keys = dict.fromkeys(key for part in scores for key in part.metadata)
    joined = {
        key: ",".join(dict.fromkeys(part.metadata.get(key, "") for part in scores)) for key in keys
    }
    return ChannelScores(*pooled, tokens, {**joined, "tokens": str(tokens)})


def require_percent(*percents: float) -> None:
    """Refuse what is no share of the channels.

    Raises:
        ValueError: a percent is not above 0 and up to 100.
    """
    for percent in percents:
        if not 0 < percent <= 100:
            raise ValueError(f"percent must be above 0 and at most 100, got {percent}")


def channel_count(percent: float, channels: int, least: int = 1) -> int:
    """Floor of percent/100 times the channels, but no less than `least`.

    Computed in fractions of the decimal number, since 29 / 100 * 100 in floats is below 29.

    Raises:
        ValueError: the percent is not above 0 and up to 100.
    """
    require_percent(percent)
    return max(least, int(Fraction(str(float(percent))) * channels / 100))


def _best(values: Float[Tensor, " channels"], count: int, highest: bool) -> Tensor:
    # A stable sort keeps equal scores in module order, then index order, from either end.
    order = torch.sort(values, descending=highest, stable=True).indices
    selected = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    selected[order[:count]] = True
    return selected
