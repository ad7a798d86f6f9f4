"""Channel scores: how much each channel differs between two models, and the masks ranked from that.

mask = scores.top(percent=5.0)                      # the paper's ranking, all channels together
mask = scores.top(percent=5.0, ranking="scaled")    # each module in units of its own activations
mask = scores.relative_to(off).top(5.0, "contrast")  # what differs on this ability only
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from actlib.files import load_tensors, save_tensors
from actlib.masks import ChannelMask, require_same_channels

RANKINGS = ("global", "module", "scaled", "relative", "contrast")
SPREAD_FLOOR = 0.01  # of the module's mean spread; see `ChannelScores.top`
PARTS = ("values", "magnitudes", "means", "spreads")


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """One score per channel of a model.

    Attributes:
        values: module name in `model.named_modules()` to float32 [channels], in module order. From
            `record_differences`: the mean over answer tokens of |a_donor - a_target| (ACT, Eq. 2).
        magnitudes: the same names to float32 [channels], the mean over answer tokens of
            (|a_donor| + |a_target|) / 2, in the same unit as the values; empty where it was not
            recorded.
        tokens: number of answer tokens pooled.
        metadata: models, revisions, data hash, tokens, dtype.
        means: the same names to float32 [channels], the donor's mean activation over answer tokens;
            empty where it was not recorded, as in scores of weights.
        spreads: the same names to float32 [channels], the donor's standard deviation over answer
            tokens (population), in the unit of the values; empty where it was not recorded.
        off: the same pair on inputs without the ability, see `relative_to`; `save` leaves it out.
    """

    values: dict[str, Float[Tensor, " channels"]]
    magnitudes: dict[str, Float[Tensor, " channels"]]
    tokens: int
    metadata: dict[str, str] = field(default_factory=dict)
    means: dict[str, Float[Tensor, " channels"]] = field(default_factory=dict)
    spreads: dict[str, Float[Tensor, " channels"]] = field(default_factory=dict)
    off: "ChannelScores | None" = None

    def relative_to(self, off: "ChannelScores") -> "ChannelScores":
        """The same scores with a reference that the rankings "relative" and "contrast" compare to.

        Args:
            off: a recording of the same pair of models on inputs without the ability. Only its
                layout is checked, since one pair can be loaded from several places.

        Raises:
            ValueError: the reference is of other modules or channel numbers, or has no tokens.
        """
        expected, found = (
            {name: values.numel() for name, values in scores.values.items()}
            for scores in (self, off)
        )
        require_same_channels(expected, found, "the reference is a recording of another model")
        if not off.tokens:
            raise ValueError("the reference must be a recording with answer tokens, and has none")
        return replace(self, off=off)

    def top(self, percent: float, ranking: str = "global") -> ChannelMask:
        """Mask of the channels with the highest scores.

        The count is the floor of percent/100 times the channels, and at least one. Ties go by
        module order, then by channel index.

        With d_i the score of channel i and m its module, the rankings go by

        - "global": d_i over all channels together. Modules with large activations, such as the LM
          head, can fill the mask. Source: ACT, Eq. 2, as reported.
        - "module": d_i, but the same percent in each module: the floor in each, so small modules
          may get none and the total may be lower, but at least one channel overall, the highest.
          Ours.
        - "scaled": d_i / a_m over all channels together, with a_m the mean magnitude of the
          module's channels, so that a module's unit does not count. Ours.
        - "relative": d_i / (s_i + e_m) over all channels together, with s_i the donor's spread on
          the inputs without the ability (`relative_to`): a difference counts in units of what the
          channel does anyway, so channels that swing widely on any input fall back. e_m, 1 % of the
          module's mean spread, keeps channels that hardly move from winning by their small divisor:
          no score exceeds 100 differences in units of that mean, and one without a difference gets
          0. It is small enough to leave the others alone: in a SmolLM2-135M specialist, fewer than
          1 in 10,000 channels spread less than e_m. Ours.
        - "contrast": (d_i - d_i(off)) / a_m over all channels together, with d_i(off) the score on
          the inputs without the ability: what differs as much on every input gets 0, what differs
          more elsewhere less than 0. Ours.

        Args:
            percent: share of the channels, above 0 and up to 100. 0 is refused, since a mask
                without channels moves nothing and is a slip more often than a wish; 100 takes all,
                the control in which every row moves.
            ranking: one of `RANKINGS`, as above.

        Raises:
            ValueError: the percent is out of range, the ranking unknown or without the reference
                that it needs, or a score is NaN.
        """
        return self._select(percent, ranking, highest=True)

    def bottom(self, percent: float, ranking: str = "global") -> ChannelMask:
        """Mask of the channels with the lowest scores, a control; all else as in `top`."""
        return self._select(percent, ranking, highest=False)

    def ranked(self, ranking: str = "global") -> dict[str, Float[Tensor, " channels"]]:
        """Values by which a ranking orders the channels, by the formulas of `top`.

        Below 0 only for "contrast". A module of zero mean magnitude ("scaled", "contrast") or zero
        mean spread ("relative") has no unit to count in and scores 0.

        Raises:
            ValueError: the ranking is unknown, needs magnitudes that were not recorded, or a
                reference that is not attached or was recorded without spreads.
        """
        if ranking not in RANKINGS:
            raise ValueError(f"unknown ranking {ranking!r}, expected one of {', '.join(RANKINGS)}")
        if ranking in ("global", "module"):
            return self.values
        if ranking == "relative":
            spreads = self._reference(ranking).spreads
            if not spreads:
                raise ValueError('ranking "relative" needs spreads, which the reference lacks')
            floors = {name: SPREAD_FLOOR * spread.mean() for name, spread in spreads.items()}
            units = {name: spread + floors[name] for name, spread in spreads.items()}
            return _quotients(self.values, units)
        if not self.magnitudes:
            raise ValueError(
                f'ranking "{ranking}" needs magnitudes; record without `values_only` to have them'
            )
        scales = {name: sizes.float().mean() for name, sizes in self.magnitudes.items()}
        if ranking == "scaled":
            return _quotients(self.values, scales)
        elsewhere = self._reference(ranking).values
        gaps = {name: values - elsewhere[name] for name, values in self.values.items()}
        return _quotients(gaps, scales)

    def save(self, path: str | os.PathLike) -> None:
        """Write the scores with their metadata to a safetensors file, without the reference."""
        tensors = {
            f"{part}:{name}": values
            for part in PARTS
            for name, values in getattr(self, part).items()
        }
        save_tensors(path, "ChannelScores", tensors, {**self.metadata, "tokens": str(self.tokens)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ChannelScores":
        """Read scores written by `save`; older files give no means and no spreads.

        Raises:
            ValueError: there is no such file, it holds no scores, or it is damaged.
        """
        tensors, metadata = load_tensors(path, "ChannelScores")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        try:
            for key, tensor in tensors.items():
                part, _, name = key.partition(":")
                parts[part][name] = tensor
            tokens = int(metadata["tokens"])
        except (KeyError, ValueError) as error:
            told = f"{path} is a damaged ChannelScores file ({error!r}); record the scores anew"
            raise ValueError(told) from error
        sizes = [{name: each.shape for name, each in part.items()} for part in parts.values()]
        whole = all(tensor.ndim == 1 and tensor.is_floating_point() for tensor in tensors.values())
        if not sizes[0] or any(each not in ({}, sizes[0]) for each in sizes) or not whole:
            raise ValueError(
                f"{path} is a damaged ChannelScores file (its parts do not fit); record them anew"
            )
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"the scores in {path} hold NaN or infinite values; record them anew")
        return cls(**parts, tokens=tokens, metadata=metadata, off=None)

    def _reference(self, ranking: str) -> "ChannelScores":
        if self.off is None:
            raise ValueError(
                f'ranking "{ranking}" needs a reference, attached by relative_to (--reference)'
            )
        return self.off

    def _select(self, percent: float, ranking: str, highest: bool) -> ChannelMask:
        values = self.ranked(ranking)
        sizes = {name: scores.numel() for name, scores in values.items()}
        flat = torch.cat([scores.float() for scores in values.values()])
        if flat.isnan().any():
            raise ValueError("the scores hold NaN and cannot be ranked; record them anew")
        count = channel_count(percent, flat.numel())
        parts = flat.split(list(sizes.values()))
        counts = [0]
        if ranking == "module":
            counts = [channel_count(percent, size, least=0) for size in sizes.values()]
        if any(counts):
            chosen = [_best(*pair, highest) for pair in zip(parts, counts, strict=True)]
        else:
            chosen = _best(flat, count, highest).split(list(sizes.values()))
        channels = {name: part.clone() for name, part in zip(sizes, chosen, strict=True)}
        side = "top" if highest else "bottom"
        found = {"percent": f"{percent:g}", "ranking": ranking, "side": side}
        if ranking in ("relative", "contrast"):
            found["off"] = self._reference(ranking).metadata.get("data_hash", "")
        return ChannelMask(channels, {**self.metadata, **found})


def pool(scores: Sequence[ChannelScores]) -> ChannelScores:
    """Scores of several recordings of one pair as one recording: every answer token weighs alike.

    Spreads are pooled by the law of total variance: the mean of the variances plus the variance of
    the means, both over tokens. Where a recording lacks magnitudes, or means or spreads, the pool
    has none, and it never has a reference. The metadata keeps the entries on which all agree; the
    rest are joined by commas.

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
    complete = all(part.means and part.spreads for part in scores)
    kept = ["values", *["magnitudes"] * all(part.magnitudes for part in scores)]
    kept += ["means"] * complete
    pooled: dict[str, dict[str, Tensor]] = {"magnitudes": {}}
    pooled |= {
        part: {name: _token_mean(scores, part, name) for name in first.values} for part in kept
    }
    if complete:
        pooled["spreads"] = {name: _pooled_spread(scores, name) for name in first.values}
    keys = dict.fromkeys(key for part in scores for key in part.metadata)
    joined = {
        key: ",".join(dict.fromkeys(part.metadata.get(key, "") for part in scores)) for key in keys
    }
    metadata = {**joined, "tokens": str(tokens)}
    return ChannelScores(**pooled, tokens=tokens, metadata=metadata, off=None)


def _token_mean(scores: Sequence[ChannelScores], part: str, name: str) -> Tensor:
    total = sum(getattr(each, part)[name].double() * each.tokens for each in scores)
    return (total / sum(each.tokens for each in scores)).float()


def _pooled_spread(scores: Sequence[ChannelScores], name: str) -> Float[Tensor, " channels"]:
    tokens = torch.tensor([each.tokens for each in scores], dtype=torch.float64)
    means = torch.stack([each.means[name].double() for each in scores])
    variances = torch.stack([each.spreads[name].double().square() for each in scores])
    weights = tokens / tokens.sum()
    return (weights @ (variances + (means - weights @ means).square())).sqrt().float()


def require_percent(*percents: float) -> None:
    """Refuse what is no share of the channels.

    Raises:
        ValueError: a percent is not above 0 and up to 100.
    """
    for percent in percents:
        if not 0 < percent <= 100:
            raise ValueError(f"percent must be above 0 and at most 100, got {percent:g}")


def channel_count(percent: float, channels: int, least: int = 1) -> int:
    """Floor of percent/100 times the channels, but no less than `least`.

    Computed in fractions of the decimal number, since 29 / 100 * 100 in floats is below 29.

    Raises:
        ValueError: the percent is not above 0 and up to 100.
    """
    require_percent(percent)
    return max(least, int(Fraction(str(float(percent))) * channels / 100))


def _quotients(
    values: dict[str, Float[Tensor, " channels"]], units: dict[str, Tensor]
) -> dict[str, Float[Tensor, " channels"]]:
    """Values over their unit, a number or one for each channel; 0 where the unit is 0."""
    return {
        name: torch.where(units[name] == 0, torch.zeros_like(part), part / units[name])
        for name, part in values.items()
    }


def _best(values: Float[Tensor, " channels"], count: int, highest: bool) -> Tensor:
    """Mark the `count` best values; of those equal to the last of them, the first in order.

    Selecting costs O(channels), where a stable sort gives the same channels at several times that.
    """
    if not 0 < count < values.numel():
        return torch.full(values.shape, count > 0, dtype=torch.bool, device=values.device)
    best = torch.topk(values, count, largest=highest, sorted=False).values
    last = best.min() if highest else best.max()
    selected = values > last if highest else values < last
    missing = count - int(selected.sum())
    tied = (values == last).nonzero().flatten()
    selected[tied[:missing]] = True
    return selected
