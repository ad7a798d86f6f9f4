"""Attributes what a donor brings on given answers to the channels that would move. Ours.

    lost = record_attributions(donor, target, batches)              # nats per answer token
    mask = lost.top(5, "attribution_per_parameter")                 # where little may move
    mask = lost.with_retention(retained).top(5, "attribution")      # spares another ability

ACT ranks channels by how much they differ, these scores rank them by what moving them would do.
Shares of a joint move are right for that move. What is left after a part of it can be attributed
again:

    mask = lost.top(2.5, "attribution_by_size")
    for _ in range(3):
        with transferred(target, donor, mask, scale=1.0):
            left = record_attributions(donor, target, batches)
        mask |= left.top(2.5, "attribution_by_size")

These are integrated gradients (Sundararajan et al. 2017) over parameters instead of inputs, as loss
change allocation (Lan et al. 2019) takes them along a training's own path. docs/attribution.md says
more about its relatives.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from actlib.activations import require_sound
from actlib.channels import channel_modules, channel_sizes, tied_modules, unwrapped
from actlib.files import require_metadata
from actlib.forward import answer_logits
from actlib.hooks import KEYS, mark_answers
from actlib.interventions import require_no_resampling
from actlib.pairs import require_pair
from actlib.processes import add_up, is_own_batch
from actlib.recording import STATED, describe_items, describe_pair, digest_items, own_batches
from actlib.scores import ATTRIBUTION, ChannelScores, require_differing
from actlib.transfer import as_matrix, interpolate
from actlib.weights import copied, require_in_memory
from actlib.wording import list_first

Sums = dict[str, Float[Tensor, " channels"]]
Ends = dict[str, tuple[Tensor, Tensor]]


def record_attributions(
    donor: nn.Module,
    target: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    points: int = 5,
    device: torch.device | str | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
) -> ChannelScores:
    """Integrated gradients of the answer NLL from target to donor, summed over each channel.

    With L the NLL in nats per answer token, theta the parameters of all channels as `transfer_`
    moves them, and delta = theta_donor - theta_target, channel i with the parameters j scores

        s_i = - integral over lam in [0, 1] of sum_j dL/dtheta_j(theta_target + lam delta) delta_j

    All add up to what moving all channels brings, L(target) - L(moved), see `sum_attributions`; a
    score is the channel's share of that, not what it would bring alone. Neither model is changed:
    the path is a copy of the target, and each gradient is summed and dropped as soon as it is
    there, so memory is three models, the largest gradients and one batch. Several processes
    (`actlib.processes`) share the batches.

    Args:
        donor: the model that has the ability.
        target: the model that lacks it, of the same architecture.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq], padded on
            either side; all are held, since each point needs them.
        points: how many on the path, see `place_points`; 0 takes one gradient, at the target.
        device: where the path runs; the target's by default. Donor and target may stay on the CPU,
            from which their weights are then copied at every gradient.
        metadata: added to the metadata of the scores, such as the ability's name.
        progress: show a bar over points and batches.

    Raises:
        ValueError: the models do not fit, weights are offloaded or quantized, there is no batch, an
            answer span is empty or follows no prompt, the NLL or a score is NaN or infinite, no
            channel differs, `points` is below 0, the target is ablated by resampling, or it cannot
            be `copied`.
    """
    donor, target = unwrapped(donor), unwrapped(target)
    require_pair(donor, target)
    require_in_memory(donor, target)
    require_metadata(metadata or {}, STATED)
    require_no_resampling(target)
    nodes = place_points(points)
    own_share = [batch for _, batch, _ in own_batches(batches)]
    passes = [(lam, weight, batch) for lam, weight in nodes for batch in own_share]
    bar = tqdm(passes, "attributions", disable=not progress or not is_own_batch(0))
    sums = _sum_over_path(donor, target, bar, device)
    items = [item for batch in own_share for item in digest_items(batch)]
    origin = describe_items(items, sum(int(mark_answers(batch).sum()) for batch in own_share))
    tokens = int(origin["tokens"])
    values = _average(sums, tokens)
    modules = channel_modules(target)
    roles = {name: each.role for name, each in modules.items()}
    origin |= {"method": ATTRIBUTION, "points": str(points)}
    metadata = {**describe_pair(donor, target), **(metadata or {}), **origin}
    return ChannelScores(values, {}, tokens, metadata, roles=roles, sizes=channel_sizes(modules))


def _average(sums: Sums, tokens: int) -> dict[str, Float[Tensor, " channels"]]:
    """Minus the means over answer tokens of all processes, since moving is to lower the NLL."""
    values = {name: (-add_up(each.double().cpu()) / tokens).float() for name, each in sums.items()}
    for name, part in values.items():
        require_sound(part, f"attributions of module {name} are")
    reason = "have the same parameters in every channel, or the target's forward is another's"
    require_differing(values, reason)
    return values


def place_points(points: int) -> list[tuple[float, float]]:
    """Gauss-Legendre points in [0, 1] and their weights, which add up to 1; of 0 the start alone.

    They lie denser near the ends, where the loss of what one of the models was trained on bends.

    Raises:
        ValueError: the number is negative.
    """
    if points < 0:
        raise ValueError(f"points must be at least 1, or 0 for the target's gradient, got {points}")
    if points == 0:
        return [(0.0, 1.0)]
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return list(zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True))


@torch.inference_mode(False)
@torch.enable_grad()
def _sum_over_path(
    donor: nn.Module,
    target: nn.Module,
    passes: Iterable[tuple[float, float, Mapping[str, Tensor]]],
    device: torch.device | str | None,
) -> Sums:
    """Sums over passes of weight * gradient of the answers' NLL * (donor - target), by channel.

    A pass is a point on the path, 0 to 1, its weight and a batch; equal points in succession.
    """
    path = copied(target).to(device).eval().requires_grad_(False)
    sums, ends, reached = _sum_gradients(path, target, donor)
    point = 0.0
    for lam, weight, stored in passes:
        if lam != point:
            point = lam
            for name, (start, stop) in ends.items():
                matrix = as_matrix(path.get_parameter(name))
                for rows in _chunks(start):  # target + lam * (donor - target), as `transfer_` would
                    matrix[rows] = interpolate(start[rows], stop[rows], lam)
            torch.clear_autocast_cache()  # in which the old values would live on
        batch = {key: stored[key].clone() for key in KEYS}  # out of inference mode
        _, logits, labels = answer_logits(path, batch)
        nll = nn.functional.cross_entropy(logits, labels, reduction="sum")
        require_sound(nll, f"the NLL of a batch at lam = {lam:.3g} is")
        if nll.requires_grad:
            (weight * nll).backward()
    if silent := [name for name in ends if name not in reached]:
        warnings.warn(
            f"no gradient reaches {list_first(silent)}, whose channels score 0: right where no "
            "token passes through them, wrong where torch.no_grad() or detach() in a forward or a "
            "hook cuts gradients off",
            stacklevel=5,
        )
    return sums


def _sum_gradients(
    path: nn.Module, target: nn.Module, donor: nn.Module
) -> tuple[Sums, Ends, set[str]]:
    """Let the path add each gradient to the sums of its channels, and drop it, once it is there.

    The hooks do not refer to the path, so that it goes with its owner.

    Returns:
        The sums by module, zeros at first; of each parameter the values in target and donor; the
        names of the parameters that a gradient has reached, none at first.
    """
    sums, ends, reached = Sums(), Ends(), set[str]()
    names = {id(parameter): name for name, parameter in path.named_parameters()}
    # of a parameter the sums of each module that it is in, with its channels' dimension
    parts = defaultdict[str, list[tuple[Tensor, int]]](list)
    for module_name, module in channel_modules(path).items():
        device = module.weight.device
        precise = torch.float32 if device.type == "mps" else torch.float64  # which MPS lacks
        sums[module_name] = torch.zeros(module.channels, dtype=precise, device=device)
        for parameter, dimension in module.parameters().values():
            parts[names[id(parameter)]].append((sums[module_name], dimension))

    def add(name: str, parameter: nn.Parameter) -> None:
        """Add gradient * (donor - target), summed over each channel, and drop the gradient."""
        reached.add(name)
        start, stop = ends[name]
        gradient = cast(Tensor, parameter.grad).reshape(start.shape)
        wide = torch.promote_types(gradient.dtype, torch.float32)
        for rows in _chunks(gradient):
            # in place, since what counts here are bytes moved
            product = stop[rows].to(gradient.device, wide, copy=True)
            product -= start[rows].to(gradient.device)
            product *= gradient[rows]
            for part, dimension in parts[name]:
                # rows of the matrix are channels, or each column is one
                (part[rows] if dimension == 0 else part).add_(product.sum(dim=1 - dimension))
        parameter.grad = None

    starts, stops = dict(target.named_parameters()), dict(donor.named_parameters())
    for name in parts:
        ends[name] = as_matrix(starts[name]), as_matrix(stops[name])
        hook = partial(add, name)
        path.get_parameter(name).requires_grad_(True).register_post_accumulate_grad_hook(hook)
    return sums, ends, reached


def _chunks(matrix: Float[Tensor, "rows columns"]) -> Iterator[slice]:
    """Slices of rows that cover a matrix: what a CPU's cache holds, on a GPU 256 MB in float32."""
    step = max(1, (2**20 if matrix.is_cpu else 2**26) // matrix.shape[1])
    return (slice(start, start + step) for start in range(0, len(matrix), step))


def sum_attributions(scores: ChannelScores, model: nn.Module) -> float:
    """Sum over all channels, in nats per answer token, each parameter counted once.

    About L(target) - L(target with all channels moved); how far it is off shows whether there were
    enough points. Of modules that are tied in the model the last alone counts, such as the LM head.
    """
    modules = channel_modules(model)  # a head may have a bias beside the tied weight
    ties = (sorted(each, key=lambda n: modules[n].role == "head") for each in tied_modules(model))
    again = {name for group in ties for name in group[:-1]}
    return math.fsum(float(s.double().sum()) for n, s in scores.values.items() if n not in again)
