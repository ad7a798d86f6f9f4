"""Merges donors into their common base by the methods of others, to be compared with `merging`.

    with baseline_merged(base, [german, maths], "ties", scale=0.7, density=0.2) as merged:
        evaluate(merged)

Each method works on one parameter tensor at a time, in float32 or wider, and rounds once to the
base's dtype; a tied tensor is merged once. A task vector is donor minus base.

Sources: task arithmetic, Ilharco et al. 2023, arXiv 2212.04089. Weight averaging, Wortsman et al.
2022, arXiv 2203.05482. TIES, Yadav et al. 2023, arXiv 2306.01708. DARE, Yu et al. 2024, arXiv
2311.03099. Layer swapping, Bandarkar et al. 2024, arXiv 2410.01335. Task arithmetic, TIES and DARE
are computed by `peft.utils.merge_utils`.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from peft.utils.merge_utils import dare_linear, dare_ties, task_arithmetic, ties
from torch import Tensor, nn

from actlib.channels import layer_of, require_in_memory, tower_of
from actlib.pairs import require_pair
from actlib.transfer import require_scale

Model = TypeVar("Model", bound=nn.Module)

_PRUNED = {"ties": ties, "dare_linear": dare_linear, "dare_ties": dare_ties}
METHODS = ("task_arithmetic", "mean_weights", *_PRUNED, "layer_swap")

# Layers of the paper's default, for a model of 32: language specialist at the bottom and at the
# top, and averaged layers on each side between the two specialists.
_BOTTOM, _TOP, _TRANSITION, _DEPTH = 5, 2, 1, 32
SWAPPED_PERCENT = 100 * (_BOTTOM + _TOP) / _DEPTH

# Name of a tensor, the base's, each donor's (all widened) -> the merged one.
Rule = Callable[[str, Tensor, list[Tensor]], Tensor]


def merge_baseline_(
    base: nn.Module,
    donors: Sequence[nn.Module],
    method: str,
    *,
    scale: float = 1.0,
    density: float | None = None,
    percent: float | None = None,
    seed: int = 0,
) -> None:
    """Merge all parameters of the donors into `base`, in place.

    - "task_arithmetic": base + scale * sum of the task vectors.
    - "mean_weights": the plain average of the donors' weights; the base does not count.
    - "ties": base + scale * disjoint mean. Of each task vector only the entries of largest
      magnitude stay; of each entry the sign with the larger sum is elected; the mean is over those
      donors whose entry stayed and has that sign. peft trims tensor by tensor, to
      int(density * entries), where the paper trims a whole task vector at once: so every module
      keeps its share here, and a tensor of fewer than 1 / density entries gives nothing. Where the
      donors cancel exactly peft elects plus, the paper neither.
    - "dare_linear": base + scale * sum, after each entry of each task vector is dropped with
      probability 1 - density and the others are divided by density.
    - "dare_ties": drops and divides as DARE instead of the trimming of TIES, then elects signs and
      takes the disjoint mean as above. An entry is dropped by itself, so going tensor by tensor
      changes nothing about DARE.
    - "layer_swap": two donors, the language and the task specialist in this order; see
      `language_shares`. Parameters outside the layers (embedding, head, last norm, a tower for
      images or sound) are the average of both. That is our choice: of the paper we could read the
      abstract and what others report.

    Args:
        base: the common base of the donors, which is changed.
        donors: the specialists. Their order matters for "layer_swap", and for the drops of DARE.
        method: one of `METHODS`.
        scale: the papers' lambda. "mean_weights" and "layer_swap" have none, so theirs is 1.
        density: the share of a task vector that is kept, in (0, 1]; for TIES and DARE, and only
            there.
        percent: layers of the language specialist, in percent of all, in (0, 100]; for "layer_swap"
            and only there. `SWAPPED_PERCENT` if None.
        seed: decides the drops of DARE, on one kind of device. The global random state stays as it
            is.

    Raises:
        ValueError: the method is unknown, there is no donor, a donor does not fit the base, the
            scale is not finite, density or percent are out of range or not for this method,
            layers are to be swapped with other than two donors, or parameters of a model are
            offloaded. Nothing is changed then.
    """
    _require_valid(base, donors, method, scale, density, percent)
    rule = _rule(base, len(donors), method, scale, density, percent)
    donated = [dict(donor.named_parameters()) for donor in donors]
    devices = range(torch.cuda.device_count())
    with torch.no_grad(), torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1")  # density 1 is a fair control
        torch.manual_seed(seed)
        for name, ours in base.named_parameters():
            wide = torch.promote_types(ours.dtype, torch.float32)
            theirs = [other[name].to(device=ours.device, dtype=wide) for other in donated]
            ours.copy_(rule(name, ours.to(wide), theirs))


@contextmanager
def baseline_merged(
    base: Model,
    donors: Sequence[nn.Module],
    method: str,
    *,
    scale: float = 1.0,
    density: float | None = None,
    percent: float | None = None,
    seed: int = 0,
) -> Iterator[Model]:
    """The base merged as in `merge_baseline_`, put back on exit, bit for bit.

    Holds a copy of the base's parameters meanwhile.

    Raises:
        ValueError: as `merge_baseline_`.
    """
    settings: dict[str, Any] = {"scale": scale, "density": density, "percent": percent}
    _require_valid(base, donors, method, **settings)  # before the costly copy
    copies = [(parameter, parameter.detach().clone()) for parameter in base.parameters()]
    try:
        merge_baseline_(base, donors, method, **settings, seed=seed)
        yield base
    finally:
        with torch.no_grad():
            for parameter, values in copies:
                parameter.copy_(values)


def language_shares(layers: int, percent: float = SWAPPED_PERCENT) -> list[float]:
    """Weight of the language specialist in each layer when layers are swapped, from the bottom up.

    1 in the bottom and top layers, 0 in the middle, 0.5 in the transition between them. As reported
    of the paper, its default for 32 layers is 5 at the bottom, 2 at the top and one transition
    layer on each side, averaged. Here the same proportions are rounded to the model's depth, with
    at least one layer at each end; so a shallow model has no transition layer.

    Args:
        layers: number of layers of the model, at least 2.
        percent: layers at both ends together, in percent of all, in (0, 100].

    Raises:
        ValueError: there are fewer than two layers, or the percent is out of range.
    """
    if layers < 2:
        raise ValueError(f"layers can be swapped in a model of at least two, got {layers}")
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be in (0, 100], got {percent}")
    swapped = max(2, round(layers * percent / 100))
    top = max(1, round(swapped * _TOP / (_BOTTOM + _TOP)))
    middle = layers - swapped
    transition = min(round(layers * _TRANSITION / _DEPTH), middle // 2)
    between = [0.5] * transition
    task = [0.0] * (middle - 2 * transition)
    return [1.0] * (swapped - top) + between + task + between + [1.0] * top


def _rule(
    base: nn.Module,
    donors: int,
    method: str,
    scale: float,
    density: float | None,
    percent: float | None,
) -> Rule:
    if method == "mean_weights":
        return lambda name, ours, theirs: torch.stack(theirs).mean(dim=0)
    if method == "layer_swap":
        shares = language_shares(_depth(base), SWAPPED_PERCENT if percent is None else percent)
        return partial(_swapped, shares)
    combine = task_arithmetic if density is None else partial(_PRUNED[method], density=density)
    return partial(_stepped, combine, torch.full((donors,), scale, dtype=torch.float64))


def _stepped(
    combine: Callable[..., Tensor],
    weights: Float[Tensor, " donors"],
    name: str,
    ours: Tensor,
    theirs: list[Tensor],
) -> Tensor:
    deltas = [donor - ours for donor in theirs]
    return ours + combine(deltas, weights=weights.to(ours))


def _swapped(shares: list[float], name: str, ours: Tensor, theirs: list[Tensor]) -> Tensor:
    language, task = theirs
    layer = _language_layer(name)
    return torch.lerp(task, language, 0.5 if layer < 0 else shares[layer])  # exact at 0 and at 1


def _depth(model: nn.Module) -> int:
    return 1 + max(_language_layer(name) for name, _ in model.named_parameters())


def _language_layer(name: str) -> int:
    """Layer of the language model that a parameter is of; -1 for any other parameter."""
    return -1 if tower_of(name) else layer_of(name)


def _require_valid(
    base: nn.Module,
    donors: Sequence[nn.Module],
    method: str,
    scale: float,
    density: float | None,
    percent: float | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    if not donors:
        raise ValueError("there is no donor to merge")
    for donor in donors:
        require_pair(donor, base)
    require_in_memory(base, *donors)
    require_scale(scale)
    if method in ("mean_weights", "layer_swap") and scale != 1:
        raise ValueError(f"{method} has no scale, so it must be 1, got {scale}")
    if method not in _PRUNED and density is not None:
        raise ValueError(f"{method} keeps task vectors whole, but a density of {density} was given")
    if method in _PRUNED and not 0 < (math.nan if density is None else density) <= 1:
        raise ValueError(f"{method} needs a density in (0, 1], got {density}")
    if method != "layer_swap" and percent is not None:
        raise ValueError(f"percent is for layer_swap alone, but {method} was given {percent}")
    if method == "layer_swap":
        if len(donors) != 2:
            raise ValueError(
                "layer_swap needs two donors, the language and the task specialist, "
                f"got {len(donors)}"
            )
        language_shares(_depth(base), SWAPPED_PERCENT if percent is None else percent)
