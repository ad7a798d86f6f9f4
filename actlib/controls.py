"""Control masks coarser than channels: what whole modules do where single channels are claimed.

control = whole_modules(scores, percent=5.0)        # the best modules, all of their channels
"""

import torch

from actlib.masks import ChannelMask
from actlib.scores import ChannelScores


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
        ranking: one of `actlib.scores.RANKINGS`, whose values are averaged; "scaled" by default,
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
