"""Ways to choose what moves: the paper's ranking, rankings beside it, and controls of each.

    for setting in settings(["act_module", "random_module"], [5, 20], draws=3):
        mask = choose(scores=study.scores(pair, study.lost), **setting)

Every method takes the same share of the channels, but `all_rows` (all of them) and
`random_equal_difference` (as many as hold the same difference). Channels differ in size, so
`measure_size` gives the share of the parameters and of the squared distance that a mask moves.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from actlib.masks import ChannelMask, random_like
from actlib.rankings import RANKINGS, ranking_of
from actlib.scores import ChannelScores
from actlib.transfer import as_matrix, interpolate, selections
from actlib.wording import require_known

HEAD = ("head", "embedding")
"""Roles of the modules that a ranking without head leaves out."""

Choice = Callable[[ChannelScores, float, int], ChannelMask]
CHOICES: dict[str, Choice] = {
    "act_no_head": lambda scores, percent, draw: scores.top(percent, without=HEAD),
    # scores of what differs between the weights
    "weight_difference": lambda scores, percent, draw: scores.top(percent, "module"),
    # controls
    "lowest_module": lambda scores, percent, draw: scores.bottom(percent, "module"),
    "random_module": lambda scores, percent, draw: random_like(scores.top(percent, "module"), draw),
    "random_matched": lambda scores, percent, draw: random_like(scores.top(percent), draw),
    "random_no_head": lambda scores, percent, draw: random_like(
        scores.top(percent, without=HEAD), draw
    ),
    "random_uniform": lambda scores, percent, draw: random_like(
        scores.top(percent), draw, per_module=False
    ),
    "random_equal_difference": lambda scores, percent, draw: draw_equal_difference(
        scores, scores.top(percent, "module"), draw
    ),
    "attribution_random": lambda scores, percent, draw: random_like(
        scores.top(percent, "attribution_per_parameter"), draw
    ),
    "all_rows": lambda scores, percent, draw: scores.top(100),
}
"""Method -> mask of about a percent of the channels, from scores and the number of a draw.

Every ranking is a method too, see `Ranking.method`; ``act_global`` is the paper's.
"""


def choose(method: str, top_percent: float, scores: ChannelScores, draw: int = 0) -> ChannelMask:
    """Mask of about a percent of the channels, chosen by a ranking or a method of `CHOICES`.

    Args:
        method: such as ``act_global``, the paper's.
        top_percent: share of the channels, above 0 and up to 100; ``all_rows`` takes them all.
        scores: what the method ranks, of the kind that `kind_of` gives; attributions with abilities
            to retain, see `Study.scores`, spare these.
        draw: number of the random draw, for the methods that draw.

    Raises:
        ValueError: the method is unknown, or as `ChannelScores.top`.
    """
    if rule := ranking_of(method):
        return scores.top(top_percent, rule.name)
    require_known("method", [method], [*(rule.method for rule in RANKINGS.values()), *CHOICES])
    return CHOICES[method](scores, top_percent, draw)


def choose_within(
    method: str, limit: float, scores: ChannelScores, donor: nn.Module, target: nn.Module
) -> ChannelMask:
    """The largest mask of a method that moves at most a share of the model, by both its sizes.

    So methods whose channels differ in size are compared at one budget. Found by bisection over the
    percent of the channels, to a thousandth of them.

    Args:
        method: as for `choose`.
        limit: percent of the parameters, and of the squared distance, that may move.
        scores: as for `choose`.
        donor: the sizes are of a transfer from it, see `measure_size`.
        target: the sizes are of a transfer into it.

    Raises:
        ValueError: as `choose`, or a thousandth of the channels moves more.
    """
    # bisection over 1/1024ths of the channels; `above` starts beyond all of them
    within, above, largest = 0, 1025, None
    while above - within > 1:
        middle = (within + above) // 2
        mask = choose(method, 100 * middle / 1024, scores)
        if max(measure_size(target, donor, mask).values()) <= limit:
            within, largest = middle, mask
        else:
            above = middle
    if largest is None:
        raise ValueError(f"a thousandth of the channels by {method} moves more than {limit} %")
    return largest


def kind_of(method: str) -> str:
    """Kind of scores that a method ranks, as `Study.scores` names them."""
    if rule := ranking_of(method):
        return rule.of
    kinds = {"weight_difference": "weights", "attribution_random": "attributions"}
    return kinds.get(method, "differences")


def settings(
    methods: Iterable[str], percents: Iterable[float], draws: int = 3
) -> Iterator[dict[str, Any]]:
    """Arguments of `choose` for all methods and sizes, with several draws of the random ones."""
    percents = list(percents)
    for method in methods:
        for percent in [100.0] if method == "all_rows" else percents:
            for draw in range(draws if "random" in method else 1):
                yield {"method": method, "top_percent": percent, "draw": draw}


def draw_equal_difference(scores: ChannelScores, mask: ChannelMask, draw: int) -> ChannelMask:
    """Random channels which, in each module, sum to at least the scores of those masked there.

    The control of an intervention on activations: as much difference is patched in, on channels
    that no ranking chose. It holds more channels than the mask, and a module that the mask fills is
    filled by it too. Ours.
    """
    generator = torch.Generator().manual_seed(draw)
    channels = {}
    for name, chosen in mask.channels.items():
        order = torch.randperm(chosen.numel(), generator=generator)
        values = scores.values[name].double()
        total = values[chosen].sum()
        # the fewest that reach the total; the tolerance is for the rounding of the cumulative sum
        count = int((values[order].cumsum(0) < total * (1 - 1e-12)).sum()) + bool(total > 0)
        channels[name] = torch.zeros_like(chosen)
        channels[name][order[:count]] = True
    return ChannelMask(channels, {**mask.metadata, "control": "random of equal difference"})


def measure_size(
    target: nn.Module, donor: nn.Module, mask: ChannelMask, scale: float = 1.0
) -> dict[str, float]:
    """How much of a model a transfer moves, as columns of a table.

    Returns:
        parameters_percent, the parameters of the masked channels in percent of the model's, and
        displacement_percent, the squared distance moved, scale² ‖Δθ masked‖² / ‖Δθ‖² in percent,
        with Δθ = donor - target over all parameters.
    """
    donor_parameters = dict(donor.named_parameters())
    chosen = selections(target, mask)
    moved, whole, parameters, total = 0.0, 0.0, 0, 0
    for name, p in target.named_parameters():
        squares = (as_matrix(donor_parameters[name]).float() - as_matrix(p).float()).square()
        whole += float(squares.sum(dtype=torch.float64))
        total += p.numel()
        if name in chosen:
            moves = chosen[name].at().to(squares.device)
            moved += float(squares.masked_fill(~moves, 0).sum(dtype=torch.float64))
            parameters += chosen[name].size
    share = scale**2 * moved / whole if whole else 0.0
    return {"parameters_percent": 100 * parameters / total, "displacement_percent": 100 * share}


Entries = dict[str, Bool[Tensor, "..."]]


def choose_entries(
    donor: nn.Module, target: nn.Module, *, count: int = 0, displacement: float = 0.0
) -> Entries:
    """The single parameters in which donor and target differ most: a control without channels.

    Of |donor - target| in float32 the largest, as many as `count`, or as few as hold the share
    `displacement` of the sum of squares. So chosen are the masks of dataless Localize-and-Stitch
    (He et al. 2024, arXiv 2408.13656) and of the trimming of TIES (Yadav et al. 2023, arXiv
    2306.01708), whose task vector is fine-tuned minus pre-trained. Takes 17 bytes a parameter by
    count, 23 by displacement.

    Raises:
        ValueError: neither or both are given, or one is out of range.
    """
    if bool(count) == bool(displacement) or not 0 <= displacement <= 1:
        raise ValueError("expected either a count, or a displacement from 0 to 1")
    donor_parameters = dict(donor.named_parameters())
    parts = [
        (donor_parameters[name].detach().float() - p.detach().float()).flatten()
        for name, p in target.named_parameters()
    ]
    flat = torch.cat([part.cpu() for part in parts]).abs_().numpy()
    if displacement:
        squares = np.sort(flat)[::-1].astype(np.float64) ** 2
        count = int(np.searchsorted(np.cumsum(squares), displacement * squares.sum())) + 1
    if not 0 < count <= flat.size:
        raise ValueError(
            f"count must be from 1 to {flat.size}, the model's parameters, got {count}"
        )
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[np.argpartition(flat, flat.size - count)[flat.size - count :]] = True
    split = torch.from_numpy(chosen).split([part.numel() for part in parts])
    named = zip(target.named_parameters(), split, strict=True)
    return {name: part.view_as(parameter) for (name, parameter), part in named}


@contextmanager
def entries_transferred(
    target: nn.Module, donor: nn.Module, entries: Entries, scale: float = 1.0
) -> Iterator[nn.Module]:
    """The target with single parameters moved as `transfer_` moves channels, put back on exit."""
    donor_parameters, copies = dict(donor.named_parameters()), []
    try:
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                selected = entries[name].to(parameter.device)
                values, donated = parameter[selected], donor_parameters[name][selected]
                copies.append((parameter, selected, values))
                parameter[selected] = interpolate(values, donated, scale)
        yield target
    finally:
        with torch.no_grad():
            for parameter, selected, values in copies:
                parameter[selected] = values
