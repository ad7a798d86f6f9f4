"""Merges specialists into their common base by a named method, and puts the base back.

    with merged(base, [german, maths], "union", scale=0.7, masks=[one, other]):
        study.evaluate(base, abilities)
    with merged(base, [german, maths], "ties", scale=0.7, percent=20):
        ...

All but the unions of channels work on one parameter tensor at a time, in float32 or wider, and
round once to the base's dtype; a tied tensor is merged once. A task vector is donor minus base.

Sources: ACT, for the unions. Task arithmetic, Ilharco et al. 2023, arXiv 2212.04089. Weight
averaging, Wortsman et al. 2022, arXiv 2203.05482. TIES, Yadav et al. 2023, arXiv 2306.01708. DARE,
Yu et al. 2024, arXiv 2311.03099. Layer swapping, Bandarkar et al. 2024, arXiv 2410.01335.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from peft.utils import merge_utils
from torch import nn

from actlib.channels import layer_of
from actlib.masks import ChannelMask
from actlib.merging import RULES, merge_
from actlib.pairs import require_pair
from actlib.transfer import require_scale
from actlib.weights import require_in_memory
from actlib.wording import require_known

Model = TypeVar("Model", bound=nn.Module)

UNIONS = {"union" if rule == "sum" else rule: rule for rule in RULES}
"""Unions of the donors' masks, with the rule of `actlib.merging` for channels of several."""
TRIMMED = {"ties": merge_utils.ties, "dare_linear": merge_utils.dare_linear}
MERGES = (*UNIONS, "task_arithmetic", "mean_weights", *TRIMMED, "layer_swap")

# Layers of the paper of layer swapping, for a model of 32: language specialist at the bottom and at
# the top, and averaged layers on each side between the two specialists.
_BOTTOM, _TOP, _TRANSITION, _DEPTH = 5, 2, 1, 32


@contextmanager
def merged(
    base: Model,
    donors: Sequence[nn.Module],
    method: str,
    *,
    scale: float = 1.0,
    percent: float = 100.0,
    masks: Sequence[ChannelMask] = (),
    seed: int = 0,
) -> Iterator[Model]:
    """The base with all donors merged into it, put back on exit, bit for bit.

    - "union", "average", "largest": base + scale * task vectors on the channels of the masks alone,
      which are added, averaged, or the largest taken where several masks have a channel.
    - "task_arithmetic": base + scale * sum of the task vectors.
    - "mean_weights": the plain average of the donors' weights; the base does not count.
    - "ties": base + scale * disjoint mean. Of each task vector only the entries of largest
      magnitude stay; of each entry the sign with the larger sum is elected; the mean is over those
      donors whose entry stayed and has that sign. peft trims tensor by tensor, where the paper
      trims a whole task vector at once, so every module keeps its share here.
    - "dare_linear": base + scale * sum, after each entry of each task vector is dropped by chance
      and the others are divided by the share that stays.
    - "layer_swap": of two donors, the language and the task specialist in this order, the first
      gives the outer layers and the second the middle; see `language_shares`. What lies outside the
      layers is the average of both, our choice: of the paper we could read the abstract and what
      others report.

    Args:
        base: the common base of the donors, which is changed meanwhile.
        donors: the specialists.
        method: one of `MERGES`.
        scale: the papers' lambda; "mean_weights" and "layer_swap" have none.
        percent: what stays of each task vector, for TIES and DARE; layers of the language
            specialist, for "layer_swap".
        masks: channels of each donor, in their order, for the unions.
        seed: decides the drops of DARE, on one kind of device. The global random state stays.

    Raises:
        ValueError: the method is unknown, there is no donor or one that does not fit, a number is
            out of range or not for this method, masks are missing or too many, layers are to be
            swapped with other than two donors, or parameters are offloaded.
    """
    _require_valid(base, donors, method, scale, percent, masks)
    copies = [(parameter, parameter.detach().clone()) for parameter in base.parameters()]
    try:
        if method in UNIONS:
            pairs = zip(donors, masks, strict=True)
            merge_(base, [(donor, mask, scale) for donor, mask in pairs], UNIONS[method])
        else:
            _merge_parameters_(base, donors, method, scale, percent, seed)
        yield base
    finally:
        with torch.no_grad():
            for parameter, values in copies:
                parameter.copy_(values)


def language_shares(layers: int, percent: float) -> list[float]:
    """Weight of the language specialist in each layer when layers are swapped, from the bottom up.

    1 in the bottom and top layers, 0 in the middle, 0.5 in the transition between them. As reported
    of the paper, its default for 32 layers is 5 at the bottom, 2 at the top and one transition
    layer on each side. Here the same proportions are rounded to the model's depth, with at least
    one layer at each end; so a shallow model has no transition layer.

    Args:
        layers: number of layers of the model, at least 2.
        percent: layers at both ends together, in percent of all, in (0, 100].

    Raises:
        ValueError: there are fewer than two layers.
    """
    if layers < 2:
        raise ValueError(f"layers can be swapped in a model of at least two, got {layers}")
    swapped = max(2, round(layers * percent / 100))
    top = max(1, round(swapped * _TOP / (_BOTTOM + _TOP)))
    middle = layers - swapped
    transition = min(round(layers * _TRANSITION / _DEPTH), middle // 2)
    between = [0.5] * transition
    task = [0.0] * (middle - 2 * transition)
    return [1.0] * (swapped - top) + between + task + between + [1.0] * top


def _merge_parameters_(
    base: nn.Module,
    donors: Sequence[nn.Module],
    method: str,
    scale: float,
    percent: float,
    seed: int,
) -> None:
    """Every method but the unions, tensor by tensor, with the random state of a seed."""
    named = [dict(model.named_parameters()) for model in (base, *donors)]
    combine = TRIMMED.get(method, merge_utils.task_arithmetic)
    options = {"density": percent / 100} if method in TRIMMED else {}
    depth = 1 + max(map(layer_of, named[0]))
    devices = range(torch.cuda.device_count())
    with torch.no_grad(), torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1")  # 100 % is a fair control
        torch.manual_seed(seed)
        for name, parameter in named[0].items():
            wide = torch.promote_types(parameter.dtype, torch.float32)
            base_values, *donor_values = (own[name].to(parameter.device, wide) for own in named)
            if method == "mean_weights":
                merged_values = torch.stack(donor_values).mean(dim=0)
            elif method == "layer_swap":
                language, task = donor_values
                layer = layer_of(name)
                share = 0.5 if layer < 0 else language_shares(depth, percent)[layer]
                merged_values = torch.lerp(task, language, share)  # exact at 0 and at 1
            else:
                deltas = [values - base_values for values in donor_values]
                weights = torch.full((len(deltas),), scale).to(base_values)
                merged_values = base_values + combine(deltas, weights=weights, **options)
            parameter.copy_(merged_values)


def _require_valid(
    base: nn.Module,
    donors: Sequence[nn.Module],
    method: str,
    scale: float,
    percent: float,
    masks: Sequence[ChannelMask],
) -> None:
    require_known("method", [method], MERGES)
    if not donors:
        raise ValueError("there is no donor to merge")
    for donor in donors:
        require_pair(donor, base)
    require_in_memory(base, *donors)
    require_scale(scale)
    if method in ("mean_weights", "layer_swap") and scale != 1:
        raise ValueError(f"{method} has no scale, so it must be 1, got {scale}")
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be in (0, 100], got {percent}")
    if percent != 100 and method not in (*TRIMMED, "layer_swap"):
        raise ValueError(f"{method} moves all of a tensor or mask, but {percent} % were asked for")
    if len(masks) != (len(donors) if method in UNIONS else 0):
        raise ValueError(f"{method} of {len(donors)} donors was given {len(masks)} masks")
    if method == "layer_swap" and len(donors) != 2:
        raise ValueError(
            f"layer_swap needs the language and the task specialist, got {len(donors)} donors"
        )
