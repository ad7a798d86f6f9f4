"""Localizes an ability: which channels differ between two models on the answer tokens.

    scores = record_differences(donor, target, batches)        # ACT's scores, Eq. 2
    control = weight_differences(donor, target)                # ranks by parameters instead
    features = record_activations(model, batches, mask)        # per item, for probes

Everything streams: no activation outlives its batch. Two models that do not fit in memory together:
`actlib.two_passes`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial, reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actlib.activations import Activations, read_answers
from actlib.channels import ChannelModule, channel_modules
from actlib.experts import Routed
from actlib.hooks import Answers, AnswerTokens, evaluating
from actlib.masks import ChannelMask, require_fit
from actlib.pairs import require_pair
from actlib.parallel import Share
from actlib.passes import (
    HELD_BYTES,
    Bar,
    add_part,
    bytes_per_token,
    describe_model,
    held_activations,
    pair_metadata,
    parts,
)
from actlib.placement import require_in_memory
from actlib.running_sums import RunningSums
from actlib.scores import ChannelScores


def record_differences(
    donor: nn.Module,
    target: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
    held_bytes: int = HELD_BYTES,
    values_only: bool = False,
) -> ChannelScores:
    """Mean over answer tokens of |a_donor - a_target|, per channel. Source: ACT, Eq. 2.

    Each batch runs through the donor, then through the target. Sums are kept in float32 or wider,
    so batch size and padding change the result by rounding only. Channels of a module that never
    runs score 0. The same pass keeps the donor's mean activation and its standard deviation over
    the answer tokens (population), which some rankings of `ChannelScores.top` ask for.

    The models may be spread over several devices (``device_map="auto"``) or offloaded to CPU or
    disk by accelerate: weights are never read here, and what a module gives is summed where it
    runs. Of packed experts, a token counts as 0 for each expert that it was not sent to, see
    `actlib.experts`.

    Beside the models and one forward pass, memory holds the donor's activations of one part of a
    batch (`held_bytes`) and 32 bytes a channel.

    Several processes share the batches, each with both models on its own device, and each returns
    the scores of all. They differ from those of one process by rounding only::

        # record.py, run by: accelerate launch --num_processes 4 record.py
        device = accelerate.PartialState().device
        donor, target = (load(place).to(device) for place in places)
        scores = record_differences(donor, target, batches)    # the same batches in each process
        if accelerate.PartialState().is_main_process:
            scores.save("scores.safetensors")

    Args:
        donor: the model that has the ability.
        target: the model that lacks it, of the same architecture.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq]; other
            entries are ignored.
        metadata: added to the metadata of the scores, such as the ability's name.
        progress: show a bar over the batches, with tokens a second and the time left.
        held_bytes: most that is held of the donor's activations. A batch whose answer tokens need
            more runs in several parts; an item that needs more runs alone.
        values_only: leave out magnitudes, means and stds, which take most of the arithmetic. The
            rankings "global", the paper's, and "module" need none of them.

    Raises:
        ValueError: the models do not fit, there is no batch, an answer span is empty, an activation
            is NaN or infinite, or the recording failed in another process.
    """
    require_pair(donor, target)
    share = Share.current()
    sums = RunningSums(channel_modules(target), values_only=values_only)
    most_tokens = held_bytes // bytes_per_token(donor)

    def work() -> list[bytes]:
        digests: list[bytes] = []
        shown = progress and share.rank == 0
        with evaluating(donor, target), Bar(batches, "activation differences", shown=shown) as bar:
            for part in parts(bar, most_tokens, share):
                held = held_activations(donor, sums.modules, part)
                add_part(sums, target, part, partial(_next_of, held))
                digests += part.item_digests()
                bar.add(part)
        return digests

    digests = share.together(work)
    found = pair_metadata(describe_model(donor), describe_model(target))
    return combined_scores(share, sums, digests, found | dict(metadata or {}))


def combined_scores(
    share: Share, sums: RunningSums, digests: list[bytes], metadata: Mapping[str, str]
) -> ChannelScores:
    """Scores out of what every process summed up, the same in each of them.

    Args:
        share: which of several processes this is.
        sums: over this one's answer tokens.
        digests: one for each of its items.
        metadata: of the pair; that of the data and the method is added beneath it.

    Raises:
        ValueError: no process had a batch.
    """
    digests = [digest for each in share.gathered(digests) for digest in each]
    if not digests:
        raise ValueError("there is no batch to record")
    tokens = sum(share.gathered(sums.tokens))
    sums.set_state(*(share.summed(part) for part in sums.state()))
    values, magnitudes, means, stds = sums.results()
    found = {
        "method": "activation difference",
        "data_hash": hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
        "items": str(len(digests)),
        "tokens": str(tokens),
    }
    return ChannelScores(
        values,
        magnitudes,
        tokens,
        found | dict(metadata),
        means,
        stds,
        roles={name: each.role for name, each in sums.modules.items()},
    )


def weight_differences(donor: nn.Module, target: nn.Module) -> ChannelScores:
    """L2 norm of each channel's parameter difference, bias included: a control without data.

    The magnitudes are the mean of the two models' norms of the channel's parameters. There are no
    means and no stds, since there are no tokens.

    Raises:
        ValueError: the models do not fit, or parameters of one are offloaded.
    """
    require_pair(donor, target)
    require_in_memory(donor, target)
    ours, theirs = channel_modules(donor), channel_modules(target)
    values, magnitudes = {}, {}
    with torch.no_grad():
        for name in theirs:
            pairs = _parameter_pairs(ours[name], theirs[name])
            norms = [_norm([pair[side] for pair in pairs]) for side in (0, 1)]
            values[name] = _norm([a - b for a, b in pairs])
            magnitudes[name] = (norms[0] + norms[1]) / 2
    metadata = pair_metadata(describe_model(donor), describe_model(target))
    metadata |= {"method": "weight difference", "tokens": "0"}
    roles = {name: each.role for name, each in theirs.items()}
    return ChannelScores(values, magnitudes, 0, metadata, roles=roles)


def record_activations(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], channels: ChannelMask
) -> Float[Tensor, "items masked"]:
    """Mean activation of each masked channel over each item's answer tokens, in float32.

    Items come in the order of the batches, channels in module order, then by index.

    Raises:
        ValueError: the mask is of another model or empty, there is no batch, an answer span is
            empty, or an activation is NaN or infinite.
    """
    require_fit(model, channels)
    chosen = {name: mask.nonzero().flatten() for name, mask in channels.channels.items()}
    chosen = {name: index for name, index in chosen.items() if len(index)}
    if not chosen:
        raise ValueError("the mask is empty, there is no channel to record")
    rows: list[Tensor] = []
    with evaluating(model):
        for batch in batches:
            tokens = AnswerTokens.of_batch(batch, first_item=sum(map(len, rows)))
            rows.append(_item_means(model, batch, tokens, chosen, channels))
    if not rows:
        raise ValueError("there is no batch to record")
    return torch.cat(rows)


def _item_means(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
    chosen: Mapping[str, Tensor],
    channels: ChannelMask,
) -> Float[Tensor, "items masked"]:
    items = tokens.shape[0]
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)

    def collect(name: str, found: Answers | Routed) -> None:
        device = found.values.device if isinstance(found, Routed) else found.flat.device
        rows, index = tokens.rows.to(device), chosen[name].to(device)
        sums.setdefault(name, torch.zeros(items, len(index), device=device))
        if isinstance(found, Routed):
            groups = rows[found.tokens] * found.total + found.experts
            wide = found.mapped(Tensor.float).summed(groups, items * found.total)
            sums[name] += wide.view(items, -1)[:, index]
            counts[name] += 1
        else:
            values = found.tensor()
            repeats = len(values) // len(rows)  # heads of a norm applied to each head
            sums[name].index_add_(0, rows.repeat_interleave(repeats), values[:, index].float())
            counts[name] += repeats

    modules = channel_modules(model)
    read_answers(model, {name: modules[name] for name in chosen}, batch, tokens, collect)
    per_item = torch.bincount(tokens.rows, minlength=items).cpu()[:, None]
    parts = []
    for name, index in chosen.items():
        part = sums[name].cpu() if name in sums else torch.zeros(items, len(index))
        if not part.isfinite().all():
            raise ValueError(f"module {name} gave NaN or infinite activations")
        parts.append(part / (per_item * max(counts[name], 1)))
    return torch.cat(parts, dim=1)


def _next_of(held: dict[str, list[Activations]], name: str) -> Activations | None:
    """The first that is held of a module, which is let go of with it."""
    return held[name].pop(0) if held.get(name) else None


def _parameter_pairs(ours: ChannelModule, theirs: ChannelModule) -> list[tuple[Tensor, Tensor]]:
    """Parameters of both modules as float32 [channels, numbers] on the target's device."""
    others = ours.parameters()
    pairs = []
    for key, (parameter, dimension) in theirs.parameters().items():
        both = (others[key][0].detach().to(parameter.device), parameter.detach())
        by_channel = (tensor.float().movedim(dimension, 0) for tensor in both)
        one, other = (tensor.reshape(theirs.channels, -1) for tensor in by_channel)
        pairs.append((one, other))
    return pairs


def _norm(parts: list[Float[Tensor, "channels _"]]) -> Float[Tensor, " channels"]:
    # In float64 the order of the terms, which streaming from files changes, leaves no trace.
    squares = (part.square().sum(dim=1, dtype=torch.float64) for part in parts)
    return reduce(torch.add, squares).sqrt().float().cpu()
