"""Changes activations instead of weights, to ask what the masked channels cause.

    with patched(target, donor, mask):                    # activation patching
        evaluate(target, batches)
    with ablated(donor, mask, "zero"):                    # or "mean" with means=..., "resample"
        evaluate(donor, batches)

No parameter is written. A masked channel is edited where it is recorded: at that coordinate of its
module's output, whether the module is a linear layer, a norm, the embedding or the LM head. So an
embedding and an LM head that share one tensor are still two modules here. All positions are edited,
those of the prompt as well as those of the answer. A masked module that a forward leaves out is
named in a warning on exit.

Activation patching: Meng et al. 2022 (between two inputs), Prakash et al. 2024 (between two models,
as here). Ablation: Wang et al. 2022 (means), Chan et al. 2022 (resampling).
"""

import inspect
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import recursively_apply
from jaxtyping import Float, Int
from torch import Tensor, nn

from actlib.alignment import exchange_items
from actlib.channels import channel_modules, unwrapped
from actlib.forward import input_device
from actlib.hooks import editing_hooks, evaluating, output_hooks, rehearsing
from actlib.masks import ChannelMask, require_fit, require_same_channels
from actlib.pairs import require_pair
from actlib.wording import require_known

ABLATIONS = ("zero", "mean", "resample")
CACHES = ("past_key_values", "cache_params", "state", "mems")  # what families call them

Take = Callable[[str, Tensor, Tensor], Tensor]
"""What is written for a module's masked channels: (name, output of the source, their indices)."""


@contextmanager
def patched(target: nn.Module, donor: nn.Module, mask: ChannelMask) -> Iterator[None]:
    """Give the target the donor's activations on the masked channels, at all positions.

    Each forward of the target first runs the donor on the same inputs, in evaluation mode and
    without gradients, then writes the donor's outputs over the target's on the masked channels,
    from which the rest of the target computes. They are stored until that forward ends. Device and
    dtype of the two may differ.

    This is not parameter transfer: a patched channel holds what the donor computes from its own
    inputs to that module, with every difference upstream already in it; a transferred row acts on
    the target's inputs. So patching a late module alone can bring in all that the donor knows (all
    of the LM head: the donor's logits), where moving the same rows may bring little.

    Raises:
        ValueError: donor and target do not fit, or the mask is of another model or holds channels
            of packed experts or routers; in a forward, the inputs hold a cache or a module runs
            more often in the target than in the donor.
    """
    donor, target = unwrapped(donor), unwrapped(target)
    require_pair(donor, target)

    def take(_name: str, output: Tensor, index: Tensor) -> Tensor:
        return output[..., index]

    with _replayed(target, donor, mask, lambda _arguments: take):
        yield


@contextmanager
def ablated(
    model: nn.Module,
    mask: ChannelMask,
    how: str,
    means: Mapping[str, Float[Tensor, " channels"]] | None = None,
    seed: int = 0,
) -> Iterator[None]:
    """Take from the masked channels what they tell about the input, at all positions.

    "zero" sets them to 0, which can lie far from anything that the model has seen. "mean" sets each
    to its mean over reference inputs. "resample" gives each item the channels of another item of
    its batch, which keeps their distribution: the items are exchanged by a random derangement (no
    item keeps its own), the same for all modules, and what is given is taken from an unedited
    forward, run first. Positions are aligned at the items' last real tokens; where the other item
    is shorter, its first real token is given, so that padding never counts. An LM head that
    is asked for logits of some positions computes those of all.

    Args:
        model: the model to ablate.
        mask: the channels to ablate.
        how: "zero", "mean" or "resample".
        means: module name to the mean of each of its channels, for "mean" only; it must hold the
            modules with masked channels. `ChannelScores.means` are the donor's over answer tokens,
            one for all positions, so they also stand in for what prompt tokens give.
        seed: fixes, together with the number of forwards so far, who gives to whom; for "resample".

    Raises:
        ValueError: the mask is of another model or holds channels of packed experts or routers, the
            model is wrapped by peft, `how` is unknown, or a mean is missing or not finite; for
            "resample" in a forward, its inputs hold a cache, or `exchange_items` cannot align its
            items.
    """
    require_known("ablation", [how], ABLATIONS)
    model, forwards = unwrapped(model), itertools.count()
    if how == "resample":
        # the first hook sees the inputs first
        with (
            model.register_forward_pre_hook(_keep_all_logits, with_kwargs=True),
            _replayed(
                model, model, mask, lambda inputs: exchange_items(inputs, seed, next(forwards))
            ),
        ):
            yield
        return
    chosen = _masked_channels(model, mask)
    constants = {name: torch.zeros(len(index)) for name, index in chosen.items()}
    if how == "mean":
        constants = _masked_means(mask, chosen, means or {})

    def edit(name: str, output: Tensor) -> Tensor:
        values = constants[name].expand(*output.shape[:-1], -1)
        return _with_channels(output, chosen[name], values)

    with editing_hooks(model, chosen, edit):
        yield


def _keep_all_logits(_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """Inputs without a choice of positions for logits: an item's giver may have others."""
    return args, {**kwargs, "logits_to_keep": 0} if "logits_to_keep" in kwargs else kwargs


def require_no_resampling(target: nn.Module) -> None:
    """Raise ValueError within `ablated` by resampling: a copy is given the target's values."""
    if _keep_all_logits in target._forward_pre_hooks.values():
        raise ValueError(
            "within a resampling ablation attributions belong to no function of the parameters; "
            'ablate by "mean" or "zero", or attribute outside of it'
        )


@contextmanager
def _replayed(
    target: nn.Module,
    source: nn.Module,
    mask: ChannelMask,
    arrangement: Callable[[Mapping[str, Any]], Take],
) -> Iterator[None]:
    """Write masked channels of `source`, run on the same inputs, into each forward of `target`.

    The source may be the target itself, or share modules with it: while it runs these hooks do
    nothing. `forwards` is a stack, since another intervention on the same target may run a forward
    of it within a forward.
    """
    chosen, is_running = _masked_channels(target, mask), False
    forwards: list[Mapping[str, deque[Tensor]]] = []
    parameters = list(inspect.signature(target.forward).parameters)

    def run_source(_target: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal is_running
        if is_running:
            return
        forwards.append({})
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        if any(arguments.get(name) is not None for name in CACHES):
            # the source would write into the target's cache
            raise ValueError(
                "an intervention needs whole sequences, and the inputs hold a cache; generate with "
                "use_cache=False"
            )
        take, is_running = arrangement(arguments), True
        try:
            forwards[-1] = _take_channels(source, chosen, take, args, kwargs)
        finally:
            is_running = False

    def edit(name: str, output: Tensor) -> Tensor:
        if is_running:
            return output
        if not forwards:
            raise ValueError(f"module {name} ran outside of a forward of its whole model")
        if not forwards[-1].get(name):
            raise ValueError(f"module {name} runs more often than in the forward that gives to it")
        return _with_channels(output, chosen[name], forwards[-1][name].popleft())

    def drop_rest(*_call: object) -> None:
        if not is_running and forwards:
            forwards.pop()

    with (
        target.register_forward_pre_hook(run_source, with_kwargs=True),
        # also after an error, so that no activation outlives its forward
        target.register_forward_hook(drop_rest, always_call=True),
        editing_hooks(target, chosen, edit),
    ):
        yield


def _take_channels(
    source: nn.Module,
    chosen: Mapping[str, Int[Tensor, " masked"]],
    take: Take,
    args: tuple,
    kwargs: dict[str, Any],
) -> dict[str, deque[Tensor]]:
    """What is taken from each call of the chosen modules, run on its own device and dtype."""
    calls = defaultdict[str, deque[Tensor]](deque)

    def store(name: str, output: Tensor) -> None:
        calls[name].append(take(name, output, chosen[name].to(output.device)))

    def move(value: Tensor) -> Tensor:
        dtype = next(source.parameters()).dtype if value.is_floating_point() else value.dtype
        return value.to(input_device(source), dtype)

    args, kwargs = recursively_apply(move, (args, kwargs))
    with rehearsing(), evaluating(source), output_hooks(source, chosen, store):
        source(*args, **kwargs)
    return calls


def _masked_channels(model: nn.Module, mask: ChannelMask) -> dict[str, Int[Tensor, " masked"]]:
    """Indices of the masked channels, for modules that have any, whose outputs can be edited."""
    require_fit(model, mask)
    modules, chosen = channel_modules(model), mask.indices()
    hidden = [n for n in chosen if modules[n].is_packed or modules[n].role == "router"]
    if hidden:
        raise ValueError(
            "an intervention writes the outputs of modules, and the mask holds channels of packed "
            "experts, which have none of their own, or of routers, most of which choose experts "
            f"before they give any ({hidden[0]}); rank without them: without=('expert', 'router')"
        )
    return chosen


def _masked_means(
    mask: ChannelMask,
    chosen: Mapping[str, Int[Tensor, " masked"]],
    means: Mapping[str, Float[Tensor, " channels"]],
) -> dict[str, Float[Tensor, " masked"]]:
    """Means of the masked channels; refused where some are missing or not finite."""
    require_same_channels(
        {name: mask.channels[name].numel() for name in chosen},
        {name: means[name].numel() for name in chosen if name in means},
        "mean ablation needs `means` of this model (record with moments=True, pass scores.means)",
    )
    masked = {name: means[name][index.to(means[name].device)] for name, index in chosen.items()}
    for name, values in masked.items():
        if not values.isfinite().all():
            raise ValueError(f"the means of module {name} must be finite, and are not")
    return masked


def _with_channels(output: Tensor, index: Int[Tensor, " masked"], values: Tensor) -> Tensor:
    """The output with the values on these channels, its other channels bit by bit as they were."""
    # what all items share is now each item's own
    output = output.expand(*values.shape[:-1], output.shape[-1])
    return output.index_copy(-1, index.to(output.device), values.to(output))
