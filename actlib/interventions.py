"""Changes activations instead of weights, to ask what the masked channels cause.

    with patched(target, donor, mask):                    # activation patching
        evaluate(target, batches)
    with ablated(donor, mask, "zero"):                    # or "mean" with means=..., "resample"
        evaluate(donor, batches)

No parameter is written. A masked channel is edited where it is recorded: at that coordinate of its
module's output, whether the module is a linear layer, a norm, the embedding or the LM head. So an
embedding and an LM head that share one tensor are still two modules here. All positions are edited,
those of the prompt as well as those of the answer.

Activation patching: Meng et al. 2022 (between two inputs), Prakash et al. 2024 (between two models,
as here). Ablation: Wang et al. 2022 (means), Chan et al. 2022 (resampling).
"""

import inspect
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from actlib.alignment import exchange_items
from actlib.channels import Layout, channel_modules, uncompiled
from actlib.forward import input_device
from actlib.hooks import editing_hooks, evaluating, is_trying, output_hooks, rehearsing
from actlib.masks import ChannelMask, require_fit, require_same_channels
from actlib.pairs import require_pair
from actlib.weights import require_unwrapped

ABLATIONS = ("zero", "mean", "resample")

# What is written for a module's masked channels: (name, output of the source, their indices).
Arrangement = Callable[[str, Tensor, Tensor], Tensor]


@contextmanager
def patched(target: nn.Module, donor: nn.Module, mask: ChannelMask) -> Iterator[None]:
    """Give the target the donor's activations on the masked channels, at all positions.

    Each forward of the target first runs the donor on the same inputs, in evaluation mode and
    without gradients, then writes the donor's outputs over the target's on the masked channels. The
    rest of the target computes from those. Of the donor only the masked channels are
    stored, and only until that forward of the target ends. Device and dtype of the two may differ.

    This is not parameter transfer. A patched channel holds what the donor computes from the donor's
    own inputs to that module, with every difference upstream already in it; a transferred row holds
    the donor's weights, but acts on the target's inputs. So patching a late module alone can bring
    in all that the donor knows (all of the LM head: the donor's logits), where moving the same rows
    may bring little.

    Raises:
        ValueError: donor and target do not fit, or the mask is of another model or holds channels
            of packed experts; in a forward, the inputs hold a cache, a module runs more often in
            the target than in the donor, or its outputs differ in shape.
    """
    donor, target = uncompiled(donor), uncompiled(target)
    require_pair(donor, target)
    with _replayed(target, donor, mask, lambda _arguments: lambda _name, output, i: output[..., i]):
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
    computes logits for some positions only is aligned among these.

    Args:
        model: the model to ablate.
        mask: the channels to ablate.
        how: "zero", "mean" or "resample".
        means: module name to the mean of each of its channels, for "mean" only; it must hold the
            modules with masked channels. `ChannelScores.means` are the donor's over answer tokens,
            one for all positions, so they also stand in for what prompt tokens give.
        seed: fixes, together with the number of forwards so far, who gives to whom; for "resample".

    Raises:
        ValueError: the mask is of another model or holds channels of packed experts, the model is
            wrapped by peft, `how` is unknown, or a mean is missing or not finite; for "resample" in
            a forward, its inputs hold a cache, or `exchange_items` cannot align its items.
    """
    if how not in ABLATIONS:
        raise ValueError(f"unknown ablation {how!r}, expected one of {', '.join(ABLATIONS)}")
    model = uncompiled(model)
    require_unwrapped(model)
    if how == "resample":
        forwards = itertools.count()
        with _replayed(
            model, model, mask, lambda arguments: exchange_items(arguments, seed, next(forwards))
        ):
            yield
        return
    chosen = _chosen(model, mask)
    constants = {name: torch.zeros(len(index)) for name, index in chosen.items()}
    if how == "mean":
        constants = _masked_means(mask, chosen, means or {})

    def edit(name: str, output: Tensor) -> Tensor:
        values = constants[name].expand(*output.shape[:-1], -1)
        return _with_channels(name, output, chosen[name], values)

    with editing_hooks(model, chosen, edit):
        yield


@contextmanager
def _replayed(
    target: nn.Module,
    source: nn.Module,
    mask: ChannelMask,
    arrangement: Callable[[Mapping[str, Any]], Arrangement],
) -> Iterator[None]:
    """Write masked channels of `source`, run on the same inputs, into each forward of `target`."""
    chosen = _chosen(target, mask)
    if not chosen:
        yield
        return
    replay = _Replay(target, source, chosen, arrangement)
    with ExitStack() as stack:
        stack.callback(replay.forwards.clear)
        stack.enter_context(target.register_forward_pre_hook(replay.before, with_kwargs=True))
        # Also after an error, so that no activation outlives its forward.
        stack.enter_context(target.register_forward_hook(replay.after, always_call=True))
        stack.enter_context(editing_hooks(target, chosen, replay.edit))
        yield


class _Replay:
    """Masked channels of `source`, held from its forward until the target's has taken them.

    The source may be the target itself, or share modules with it: while it is recorded these hooks
    do nothing. `forwards` is a stack, because another replay on the same target may run a forward
    of it within a forward.
    """

    def __init__(
        self,
        target: nn.Module,
        source: nn.Module,
        chosen: Mapping[str, Int[Tensor, " masked"]],
        arrangement: Callable[[Mapping[str, Any]], Arrangement],
    ) -> None:
        self.parameters = list(inspect.signature(target.forward).parameters)
        self.source = source
        self.chosen = chosen
        self.arrangement = arrangement
        self.forwards: list[dict[str, deque[Tensor]]] = []
        self.recording = False

    def before(self, _target: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Run the source on the inputs of a forward that is about to start."""
        if self.recording or is_trying():
            return
        calls: dict[str, deque[Tensor]] = defaultdict(deque)
        self.forwards.append(calls)
        arguments = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        if arguments.get("past_key_values") is not None:
            # The source would write into the target's cache.
            raise ValueError("an intervention needs whole sequences, and the inputs hold a cache")
        arrange = self.arrangement(arguments)

        def store(name: str, output: Tensor) -> None:
            calls[name].append(arrange(name, output, self.chosen[name].to(output.device)))

        self.recording = True
        try:
            with rehearsing(), evaluating(self.source):
                with output_hooks(self.source, self.chosen, store):
                    self.source(*_moved(args, self.source), **_moved(kwargs, self.source))
        finally:
            self.recording = False

    def edit(self, name: str, output: Tensor) -> Tensor:
        """Write the source's channels into one call of a module."""
        if self.recording:
            return output
        if not self.forwards:
            raise ValueError(f"module {name} ran outside of a forward of its whole model")
        calls = self.forwards[-1][name]
        if not calls:
            raise ValueError(f"module {name} runs more often in the target than in the donor")
        values = calls.popleft()
        if len(output) == 1 < len(values):  # positions that all items share, now no longer
            output = output.expand(len(values), *output.shape[1:])
        return _with_channels(name, output, self.chosen[name], values)

    def after(self, _target: nn.Module, _args: tuple, _output: object) -> None:
        """Drop what a forward left over."""
        if not self.recording and not is_trying() and self.forwards:
            self.forwards.pop()


def _chosen(model: nn.Module, mask: ChannelMask) -> dict[str, Int[Tensor, " masked"]]:
    """Indices of the masked channels, for modules that have any.

    Raises:
        ValueError: the mask is of another model, or holds channels of packed experts.
    """
    require_fit(model, mask)
    chosen = {name: selected.nonzero().flatten() for name, selected in mask.channels.items()}
    chosen = {name: index for name, index in chosen.items() if len(index)}
    modules = channel_modules(model)
    if packed := [name for name in chosen if modules[name].layout is Layout.PACKED]:
        raise ValueError(
            f"an intervention writes the outputs of modules, and the mask holds channels of packed "
            f"experts, which have none of their own ({packed[0]}); leave these out of the mask"
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
        "mean ablation needs `means` of this model",
    )
    masked = {name: means[name][index.to(means[name].device)] for name, index in chosen.items()}
    for name, values in masked.items():
        if not values.isfinite().all():
            raise ValueError(f"the means of module {name} must be finite, and are not")
    return masked


def _with_channels(
    name: str, output: Tensor, index: Int[Tensor, " masked"], values: Tensor
) -> Tensor:
    """The output with the values on these channels, its other channels bit by bit as they were."""
    if values.shape[:-1] != output.shape[:-1]:
        raise ValueError(
            f"module {name} returned {tuple(output.shape[:-1])} before its channels, and the "
            f"donor's {tuple(values.shape[:-1])}"
        )
    return output.index_copy(-1, index.to(output.device), values.to(output))


def _moved(value: Any, model: nn.Module) -> Any:
    """Tensors of a nest of inputs on the model's device, floating ones in its dtype."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point()
        dtype = next(model.parameters()).dtype if floating else value.dtype
        return value.to(input_device(model), dtype)
    if isinstance(value, dict):
        return {key: _moved(entry, model) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_moved(entry, model) for entry in value)
    return value
