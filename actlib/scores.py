"""Channel scores: how much each channel differs between two models, and the masks ranked from that.

mask = scores.top(5)                                # 5 % by the paper's ranking, of all channels
mask = scores.top(5, "scaled")                      # each module in its activations' units
mask = scores.relative_to(off).top(5, "contrast")   # what differs on this ability only
mask = scores.top(5, without=["head", "embedding"]) # 5 % of the channels of the other modules
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actlib.channels import ROLES
from actlib.files import RESERVED, load_tensors, require_metadata, save_tensors
from actlib.masks import ChannelMask, describe_origin, mark_best, require_same_channels
from actlib.rankings import RANKINGS
from actlib.wording import require_known

ATTRIBUTION = "attribution"  # the method of attributions in their metadata
PARTS = ("values", "magnitudes", "means", "stds")
_ROLES_KEY, _SIZES_KEY = "actlib.roles", "actlib.sizes"  # of a file's metadata


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """One score per channel of a model.

    Attributes:
        values: module name in `model.named_modules()` to float32 [channels], in module order. From
            `record_differences`: the mean over answer tokens of |a_donor - a_target| (ACT, Eq. 2).
            From `record_attributions`: nats per answer token, below 0 where moving does harm.
        magnitudes: the same names to float32 [channels], the mean over answer tokens of
            (|a_donor| + |a_target|) / 2, in the unit of the values; empty for attributions.
        tokens: number of answer tokens; 0 for scores of weights.
        metadata: names of the models, hash of the data, tokens, dtype; no path of this machine.
        means: the same names to float32 [channels], the donor's mean activation over answer tokens;
            empty unless recorded with `moments=True`.
        stds: the same of its standard deviation (population), in the unit of the values.
        roles: module name to what the module is, one of `actlib.channels.ROLES`; empty if unknown.
        sizes: module name to the parameters that each of its channels has; empty if unknown, as in
            files of older versions.
        off: the same pair on inputs without the ability, see `relative_to`; `save` leaves it out.
    """

    values: dict[str, Float[Tensor, " channels"]]
    magnitudes: dict[str, Float[Tensor, " channels"]]
    tokens: int
    metadata: dict[str, str] = field(default_factory=dict)
    means: dict[str, Float[Tensor, " channels"]] = field(default_factory=dict)
    stds: dict[str, Float[Tensor, " channels"]] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    off: "ChannelScores | None" = None

    def __post_init__(self) -> None:
        """Refuse metadata that no file could hold."""
        require_metadata(self.metadata, (RESERVED, _ROLES_KEY, _SIZES_KEY))

    def __repr__(self) -> str:
        """Size, parts and origin in three lines, whatever the size of the model."""
        channels = sum(values.numel() for values in self.values.values())
        parts = [part for part in PARTS if getattr(self, part)]
        return (
            f"ChannelScores of {channels:,} channels in {len(self.values)} modules\n"
            f"  {', '.join(parts)} over {self.tokens:,} answer tokens"
            f"{' and a reference' if self.off else ''}\n"
            f"  {describe_origin(self.metadata, ORIGIN)}"
        )

    @property
    def kind(self) -> str:
        """What the values are: "attributions" or "differences", each with its own rankings."""
        return "attributions" if self.metadata.get("method") == ATTRIBUTION else "differences"

    def relative_to(self, off: "ChannelScores") -> "ChannelScores":
        """The same scores with a recording of the pair on inputs without the ability, as reference.

        The rankings "relative" and "contrast" compare to it.

        Raises:
            ValueError: the reference is of another pair or without tokens, or one of the two holds
                attributions.
        """
        _require_reference(self, off, "differences", "relative_to")
        return replace(self, off=off)

    def with_retention(self, retained: "ChannelScores", alpha: float = 1.0) -> "ChannelScores":
        """Attributions with those to a retained ability added: s_i + alpha * s_i(retained). Ours.

        A channel whose move would harm that ability, below 0 in `retained`, falls back.

        Raises:
            ValueError: `retained` is of another pair or holds no tokens, or one of the two holds no
                attributions.
        """
        _require_reference(self, retained, "attributions", "with_retention")
        values = {name: s + alpha * retained.values[name] for name, s in self.values.items()}
        origin = {"retained": retained.metadata.get("data_hash", ""), "alpha": f"{alpha:g}"}
        return replace(self, values=values, metadata=self.metadata | origin)

    def top(
        self, percent: float, ranking: str = "global", *, without: str | Iterable[str] = ()
    ) -> ChannelMask:
        """Mask of the channels with the highest scores.

        The count is the floor of percent/100 times the ranked channels, and at least one. Ties go
        by module order, then by channel index. Modules that never ran are not ranked below 100 %.

        Args:
            percent: above 0 and up to 100 (all, the control in which every row moves).
            ranking: a name in `actlib.rankings.RANKINGS`; "global" is the paper's.
            without: modules that are not ranked, by what they are: "head", "embedding", or others
                of `actlib.channels.ROLES`. The percent is one of the other modules' channels.

        Raises:
            ValueError: the percent is out of range or too small for any channel of any module, as
                `ranked`, no module is left or none is the head or embedding to leave out, the
                scores do not say what modules are, hold NaN, or are all 0.
        """
        return self._select(percent, ranking, without, highest=True)

    def bottom(
        self, percent: float, ranking: str = "global", *, without: str | Iterable[str] = ()
    ) -> ChannelMask:
        """Mask of the channels with the lowest scores, a control; all else as in `top`."""
        return self._select(percent, ranking, without, highest=False)

    def ranked(self, ranking: str = "global") -> dict[str, Float[Tensor, " channels"]]:
        """Values by which a ranking orders the channels, by the formulas of `actlib.rankings`.

        A module without a unit to count in, of zero mean magnitude or zero mean std, scores 0.

        Raises:
            ValueError: the ranking is unknown or of another kind, or lacks what it needs.
        """
        require_known("ranking", [ranking], RANKINGS)
        return RANKINGS[ranking].order(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write the scores with their metadata to a safetensors file, without the reference."""
        tensors = {
            f"{part}:{name}": values
            for part in PARTS
            for name, values in getattr(self, part).items()
        }
        metadata = {**self.metadata, "tokens": str(self.tokens)}
        for key, by_module in ((_ROLES_KEY, self.roles), (_SIZES_KEY, self.sizes)):
            metadata |= {key: json.dumps(by_module)} if by_module else {}
        save_tensors(path, "ChannelScores", tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ChannelScores":
        """Read scores written by `save`.

        Raises:
            ValueError: there is no such file, it holds no scores, or it is damaged.
        """
        tensors, metadata = load_tensors(path, "ChannelScores")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        try:
            roles, sizes = (json.loads(metadata.pop(k, "{}")) for k in (_ROLES_KEY, _SIZES_KEY))
            for key, tensor in tensors.items():
                part, _, name = key.partition(":")
                parts[part][name] = tensor
            tokens = int(metadata["tokens"])
        except (KeyError, ValueError, RecursionError) as error:
            damage = f"{path} is a damaged ChannelScores file ({error!r})"
            raise ValueError(f"{damage}; record the scores again") from error
        return cls(**parts, tokens=tokens, metadata=metadata, roles=roles, sizes=sizes, off=None)

    def _select(
        self, percent: float, ranking: str, without: str | Iterable[str], highest: bool
    ) -> ChannelMask:
        values, rule = self.ranked(ranking), RANKINGS[ranking]
        left_out = [without] if isinstance(without, str) else list(dict.fromkeys(without))
        ranked = self._rankable(values, percent, left_out)
        channels = {name: torch.zeros_like(part, dtype=torch.bool) for name, part in values.items()}
        channels |= mark_best(ranked, percent, highest=highest, per_module=rule.per_module)
        side = "top" if highest else "bottom"
        origin = {"percent": f"{percent:g}", "ranking": ranking, "side": side}
        if len(ranked) < len(values):
            origin["unranked"] = ",".join(name for name in values if name not in ranked)
        if left_out:
            origin["without"] = ",".join(left_out)
        if "off" in rule.needs and self.off is not None:
            origin["off"] = self.off.metadata.get("data_hash", "")
        return ChannelMask(channels, {**self.metadata, **origin})

    def _rankable(
        self, values: Mapping[str, Tensor], percent: float, left_out: Sequence[str]
    ) -> dict[str, Tensor]:
        """Values of the modules that are ranked: neither left out nor silent, if not all move."""
        require_known("`without`", left_out, ROLES)
        if left_out and not self.roles:
            raise ValueError("these scores do not say what their modules are; record them again")
        absent = {"head", "embedding"}.intersection(left_out).difference(self.roles.values())
        if absent and self.tokens:  # an encoder's weights may have no head
            raise ValueError(f"by its own account the model has no {', '.join(sorted(absent))}")
        silent = {n for n in self.metadata.get("silent", "").split(",") if n in self.values}
        silent -= {name for name in silent if self.values[name].any()}  # ran in another part
        silent = silent if percent < 100 else set()
        ranked = {
            name: part.float()
            for name, part in values.items()
            if name not in silent and self.roles.get(name) not in left_out
        }
        if not ranked:
            excluded = ", ".join(left_out)
            raise ValueError(f"no module is left to rank without {excluded}; leave out fewer")
        if any(part.isnan().any() for part in ranked.values()):
            raise ValueError("the scores hold NaN and cannot be ranked; record them again")
        require_differing(ranked, "give scores that are all 0")
        return ranked


ORIGIN = ("ability", "method", "donor", "target", "items")
"""Metadata that a short description of scores names."""


def pool(scores: Sequence[ChannelScores]) -> ChannelScores:
    """Scores of several recordings of one pair as one recording: every answer token weighs alike.

    Variances are pooled as the mean of the variances plus the variance of the means, both over
    tokens. The pool has no reference, and no part that a recording lacks. Tokens and items add up,
    counted as often as they were recorded; other metadata that differ are joined by commas.

    Raises:
        ValueError: there is nothing to pool, or the recordings are of different modules, of two
            kinds, with retention, or without answer tokens (scores of weights cannot be pooled).
    """
    if not scores or not all(part.tokens for part in scores):
        raise ValueError("pooling needs at least one recording, each with answer tokens")
    for each in scores:
        complaint = "recordings of different modules cannot be pooled"
        require_same_channels(scores[0].values, each.values, complaint)
    if len({part.kind for part in scores}) > 1 or any("alpha" in part.metadata for part in scores):
        raise ValueError(
            "attributions pool with attributions alone, and before a retained ability is added"
        )
    tokens = torch.tensor([part.tokens for part in scores], dtype=torch.float64)
    weights, pooled = tokens / tokens.sum(), dict[str, dict[str, Tensor]]()

    def stacked(part: str, name: str) -> Float[Tensor, "recordings channels"]:
        return torch.stack([getattr(each, part)[name].double() for each in scores])

    for part in PARTS:
        shared = scores[0].values if all(getattr(each, part) for each in scores) else {}
        pooled[part] = {name: weights @ stacked(part, name) for name in shared}
    for name in pooled["stds"] if pooled["means"] else ():
        offsets = stacked("means", name) - pooled["means"][name]
        variances = stacked("stds", name).square() + offsets.square()
        pooled["stds"][name] = (weights @ variances).sqrt()
    parts: dict[str, Any] = {
        part: {name: each.float() for name, each in own.items()} for part, own in pooled.items()
    }
    keys = dict.fromkeys(key for part in scores for key in part.metadata)
    distinct = {key: dict.fromkeys(part.metadata.get(key, "") for part in scores) for key in keys}
    total = sum(part.tokens for part in scores)
    metadata = {key: ",".join(each) for key, each in distinct.items()} | {"tokens": str(total)}
    items = [part.metadata.get("items", "") for part in scores]
    metadata |= {"items": str(sum(map(int, items)))} if all(map(str.isdecimal, items)) else {}
    return replace(scores[0], **parts, tokens=total, metadata=metadata, off=None)


def require_differing(values: Mapping[str, Tensor], reason: str) -> None:
    """Raise ValueError for scores that are all 0, as donor and target do what the reason says."""
    if not any(part.any() for part in values.values()):
        raise ValueError(
            f"donor and target {reason}, so no channel ranks before another; record two models "
            "that differ, before anything replaces their forwards"
        )


def _require_reference(scores: ChannelScores, other: ChannelScores, kind: str, use: str) -> None:
    """Refuse a reference of another pair or without tokens, and scores of another kind."""
    complaint = "the reference is a recording of another model"
    require_same_channels(scores.values, other.values, complaint)
    for role in ("donor", "target"):
        name, other_name = (each.metadata.get(role) for each in (scores, other))
        if name and other_name and name != other_name:
            raise ValueError(
                f"{complaint}: {role} {other_name} instead of {name}; record both of one pair"
            )
    if not other.tokens:
        raise ValueError("the reference must be a recording with answer tokens, and has none")
    if {scores.kind, other.kind} != {kind}:
        raise ValueError(f"{use} takes {kind} alone, got {scores.kind} and {other.kind}")
