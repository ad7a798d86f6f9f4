"""Ways to choose the channels that move: the paper's ranking, other rankings, controls of one size.

    mask = chosen("act_global", 5.0, scores)
    null = chosen("random_matched", 5.0, scores, draw=3)

Every method takes the same number of channels. Channels differ in size, so masks of one count can
hold different numbers of parameters: ``random_matched`` and ``random_scaled`` hold about as many as
the ranking whose modules they match, and ``actlib.controls.entries`` makes a control of equal
parameters.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from actlib.masks import ChannelMask, random_like
from actlib.rankings import RANKINGS
from actlib.scores import ChannelScores

ACT_RANKINGS = {f"act_{name}": name for name, rule in RANKINGS.items() if rule.of == "differences"}
"""Rankings of activation differences; the first is the paper's. See `actlib.rankings`."""

WEIGHT_RANKINGS = {"weight_difference": "global", "weight_scaled": "scaled"}
"""Rankings of channels by the L2 norm of their parameter difference, which need no data."""

MATCHED = {"random_matched": "global", "random_scaled": "scaled"}
"""Random channels, as many in each module as this ranking of activation differences takes."""

RANDOM = (*MATCHED, "random_uniform")
"""Methods whose masks differ from draw to draw; the last draws from all modules together."""


def whole_modules(scores: ChannelScores, percent: float, ranking: str = "scaled") -> ChannelMask:
    """Control mask of whole modules: as many channels as a mask of single ones, at most.

    If the ability were spread over its modules rather than held by a few channels of them, this
    mask would do as well as `scores.top` of the same size. Modules are taken in descending order of
    the mean of their ranked scores, ties in module order. One that no longer fits is skipped for
    smaller ones further down, so large modules (the LM head above all) may be out of reach and the
    count is usually somewhat lower than asked; where no module fits the mask is empty. Ours.

    Args:
        scores: channel scores, with their reference if the ranking needs one.
        percent: share of the channels, above 0 and up to 100; the count is that of `scores.top`.
        ranking: one of `actlib.rankings.RANKINGS`, whose values are averaged; "scaled" by default,
            since raw means compare modules of different units. "global" and "module" average the
            same values.

    Raises:
        ValueError: as `ChannelScores.top`.
    """
    count = scores.top(percent).count
    values = scores.ranked(ranking)
    means = torch.stack([part.double().mean() for part in values.values()])
    if means.isnan().any():
        raise ValueError("the scores hold NaN and cannot be ranked")
    names, left, taken = list(values), count, set()
    for place in means.argsort(descending=True, stable=True).tolist():
        if values[names[place]].numel() <= left:
            taken.add(names[place])
            left -= values[names[place]].numel()
    channels = {name: torch.full((part.numel(),), name in taken) for name, part in values.items()}
    found = {"percent": f"{percent:g}", "ranking": ranking, "control": "whole modules"}
    return ChannelMask(channels, {**scores.metadata, **found})


_OTHERS: dict[str, Callable[[ChannelScores, float], ChannelMask]] = {
    "bottom": lambda scores, percent: scores.bottom(percent),
    "whole_modules": whole_modules,
    "all_rows": lambda scores, percent: everything(scores),
}

METHODS = (*ACT_RANKINGS, *WEIGHT_RANKINGS, *RANDOM, *_OTHERS)


def everything(scores: ChannelScores) -> ChannelMask:
    """The mask of all channels: transfer of all rows, or interpolation."""
    return scores.top(100)


def chosen(
    method: str,
    percent: float,
    scores: ChannelScores,
    weights: ChannelScores | None = None,
    draw: int = 0,
) -> ChannelMask:
    """Mask of about ``percent`` of the channels, chosen by a method of ``METHODS``.

    Only ``act_module`` and ``whole_modules`` may hold fewer channels, since they round down.

    Args:
        method: a name of ``METHODS``.
        percent: share of the channels, above 0 and up to 100; ``all_rows`` takes them all.
        scores: activation differences; for ``act_relative`` and ``act_contrast`` with the
            off-ability recording attached (`ChannelScores.relative_to`).
        weights: weight differences, for the methods that rank by them.
        draw: number of the random draw.

    Raises:
        ValueError: the method is unknown, or it needs weights and none were given.
    """
    if method in ACT_RANKINGS:
        return scores.top(percent, ACT_RANKINGS[method])
    if method in WEIGHT_RANKINGS:
        if weights is None:
            raise ValueError(f"{method} ranks by weight differences, and none were given")
        return weights.top(percent, WEIGHT_RANKINGS[method])
    if method in MATCHED:
        return random_like(scores.top(percent, MATCHED[method]), draw, per_module=True)
    if method == "random_uniform":
        return random_like(scores.top(percent), draw, per_module=False)
    if method in _OTHERS:
        return _OTHERS[method](scores, percent)
    raise ValueError(f"unknown way to choose channels {method!r}: expected {', '.join(METHODS)}")


def masks_by_method(
    scores: ChannelScores,
    weights: ChannelScores | None,
    percent: float,
    *,
    draws: int = 3,
    methods: Iterable[str] = ("act_global", "act_module", "act_scaled", "random_matched", "bottom"),
) -> Iterator[tuple[str, int, ChannelMask]]:
    """Masks of one size by several methods: method, draw, mask; random ones ``draws`` times.

    Raises:
        ValueError: as `chosen`.
    """
    for method in methods:
        for draw in range(draws if method in RANDOM else 1):
            yield method, draw, chosen(method, percent, scores, weights, draw)


def random_instead(masks: Mapping[str, ChannelMask], draw: int = 0) -> dict[str, ChannelMask]:
    """Independent random masks with as many channels in each module as those given."""
    return {
        name: random_like(mask, draw * len(masks) + number, per_module=True)
        for number, (name, mask) in enumerate(masks.items())
    }
