"""Localizes an ability: which channels differ between two models on the answer tokens.

    scores = record_differences(donor, target, batches)        # ACT's scores, Eq. 2
    control = weight_differences(donor, target)                # ranks by parameters instead
    features = record_activations(model, batches, mask)        # per item, for probes

Everything streams: no activation outlives its batch.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from actlib.channels import ChannelModule, channel_modules
from actlib.hooks import AnswerTokens, answer_positions, evaluating, output_hooks, run_model
from actlib.masks import ChannelMask, require_fit
from actlib.pairing.pairs import require_pair
from actlib.scores import ChannelScores


def record_differences(
    donor: nn.Module,
    target: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
) -> ChannelScores:
    """Mean over answer tokens of |a_donor - a_target|, per channel. Source: ACT, Eq. 2.

    Each batch runs through the donor, then through the target. Sums are kept in float32 or wider,
    so batch size and padding change the result by rounding only. Channels of a module that never
    runs score 0. The same pass keeps the donor's mean activation and its standard deviation over
    the answer tokens (population), which some rankings of `ChannelScores.top` ask for.

    Args:
        donor: the model that has the ability.
        target: the model that lacks it, of the same architecture.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq]; other
            entries are ignored.
        metadata: added to the metadata of the scores, such as the ability's name.
        progress: show a bar over the batches.

    Raises:
        ValueError: the models do not fit, there is no batch, an answer span is empty, or an
            activation is NaN or infinite.
    """
    require_pair(donor, target)
    modules = channel_modules(target)
    sums = _RunningSums(modules)
    digests: list[bytes] = []
    with evaluating(donor, target):
        for batch in tqdm(batches, desc="activation differences", disable=not progress):
            tokens = AnswerTokens.of_batch(batch, first_item=len(digests))
            sums.add_batch(donor, target, batch, tokens)
            digests += _item_digests(batch)
    if not digests:
        raise ValueError("there is no batch to record")
    found = _pair_metadata(donor, target) | {
        "method": "activation difference",
        "data_hash": hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
        "items": str(len(digests)),
        "tokens": str(sums.tokens),
    }
    values, magnitudes, means, spreads = sums.results()
    return ChannelScores(
        values, magnitudes, sums.tokens, found | (metadata or {}), means=means, spreads=spreads
    )


def weight_differences(donor: nn.Module, target: nn.Module) -> ChannelScores:
    """L2 norm of each channel's parameter difference, bias included: a control without data.

    The magnitudes are the mean of the two models' norms of the channel's parameters. There are no
    means and no spreads, since there are no tokens.

    Raises:
        ValueError: the models do not fit.
    """
    require_pair(donor, target)
    ours, theirs = channel_modules(donor), channel_modules(target)
    values, magnitudes = {}, {}
    with torch.no_grad():
        for name in theirs:
            pairs = _parameter_pairs(ours[name], theirs[name])
            norms = [_norm([pair[side] for pair in pairs]) for side in (0, 1)]
            values[name] = _norm([a - b for a, b in pairs])
            magnitudes[name] = (norms[0] + norms[1]) / 2
    metadata = _pair_metadata(donor, target) | {"method": "weight difference", "tokens": "0"}
    return ChannelScores(values, magnitudes, 0, metadata)


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


class _RunningSums:
    """Sums over answer tokens, by module, stacked as [4, channels].

    The rows are |a_donor - a_target|, (|a_donor| + |a_target|) / 2, a_donor and a_donor squared.
    """

    def __init__(self, modules: Mapping[str, ChannelModule]) -> None:
        self.modules = modules
        self.tokens = 0
        self.sums: dict[str, Float[Tensor, "4 channels"]] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def add_batch(
        self,
        donor: nn.Module,
        target: nn.Module,
        batch: Mapping[str, Tensor],
        tokens: AnswerTokens,
    ) -> None:
        """Add one batch; the donor's activations live until the target's arrive."""
        located = _Located(tokens)
        held: dict[str, deque[Tensor]] = defaultdict(deque)

        def hold(name: str, output: Tensor) -> None:
            held[name].append(located.select(name, output, self.modules[name].channels))

        def subtract(name: str, output: Tensor) -> None:
            if not held[name]:
                raise ValueError(f"module {name} runs more often in the target than in the donor")
            ours = held[name].popleft()
            theirs = located.select(name, output, self.modules[name].channels)
            self._add(name, ours.to(theirs.device).float(), theirs.float())

        with output_hooks(donor, self.modules, hold):
            run_model(donor, batch, tokens)
        with output_hooks(target, self.modules, subtract):
            run_model(target, batch, tokens)
        self.tokens += len(tokens.rows)
        _require_finite(self.sums)

    def results(self) -> list[dict[str, Float[Tensor, " channels"]]]:
        """Values, magnitudes, donor's means and spreads in float32 on the CPU, in module order."""
        found = {name: self._result(name, each.channels) for name, each in self.modules.items()}
        return [{name: rows[part].clone() for name, rows in found.items()} for part in range(4)]

    def _result(self, name: str, channels: int) -> Float[Tensor, "4 channels"]:
        if name not in self.sums:
            return torch.zeros(4, channels)
        rows = self.sums[name].cpu().double() / self.counts[name]
        # Rounding can leave a constant channel slightly below 0.
        rows[3] = (rows[3] - rows[2].square()).clamp_min(0).sqrt()
        return rows.float()

    def _add(self, name: str, ours: Tensor, theirs: Tensor) -> None:
        difference = (ours - theirs).abs_().sum(dim=0)
        size = (ours.abs().sum(dim=0) + theirs.abs().sum(dim=0)) / 2
        # Squares of deviations from the batch's mean keep in float32 what squares of a channel
        # far from zero would lose; the mean's own square is added in the wider type.
        mean = ours.mean(dim=0)
        variance = (ours - mean).square_().mean(dim=0)
        wide = torch.float32 if difference.device.type == "mps" else torch.float64
        mean, variance = mean.to(wide), variance.to(wide)
        rows = [difference, size, mean * len(ours), (variance + mean.square()) * len(ours)]
        rows = torch.stack([row.to(wide) for row in rows])
        self.sums[name] = self.sums[name].add_(rows) if name in self.sums else rows
        self.counts[name] += len(ours)


class _Located:
    """Answer tokens copied once to each device that asks, so that no module waits for the host."""

    def __init__(self, tokens: AnswerTokens) -> None:
        self._on = {tokens.rows.device: tokens}
        self._first = tokens

    def select(self, name: str, output: Tensor, channels: int) -> Float[Tensor, "tokens channels"]:
        if output.device not in self._on:
            self._on[output.device] = self._first.to(output.device)
        return self._on[output.device].select(name, output, channels)


def _item_means(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
    chosen: Mapping[str, Tensor],
    channels: ChannelMask,
) -> Float[Tensor, "items masked"]:
    located = _Located(tokens)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)

    def collect(name: str, output: Tensor) -> None:
        selected = located.select(name, output, channels.channels[name].numel())
        per_token = selected[:, chosen[name].to(output.device)].float()
        repeats = len(per_token) // len(tokens.rows)  # heads of a norm applied to each head
        rows = tokens.rows.to(output.device).repeat_interleave(repeats)
        sums.setdefault(name, per_token.new_zeros(tokens.shape[0], per_token.shape[1]))
        sums[name].index_add_(0, rows, per_token)
        counts[name] += repeats

    with output_hooks(model, chosen, collect):
        run_model(model, batch, tokens)
    _require_finite(sums)
    per_item = torch.bincount(tokens.rows, minlength=tokens.shape[0]).cpu()[:, None]
    parts = [
        sums[name].cpu() / (per_item * counts[name])
        if name in sums
        else torch.zeros(tokens.shape[0], len(index))
        for name, index in chosen.items()
    ]
    return torch.cat(parts, dim=1)


def _item_digests(batch: Mapping[str, Tensor]) -> list[bytes]:
    """One hash per item over its real tokens and answer marks, whatever its padding."""
    marks = answer_positions(batch).long()
    both = torch.stack([batch["input_ids"].long(), marks], dim=-1).cpu()
    real = batch["attention_mask"].bool().cpu()
    return [
        hashlib.sha256(item[kept].numpy().tobytes()).digest()
        for item, kept in zip(both, real, strict=True)
    ]


def _require_finite(sums: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinity with one wait for the device, not one per module."""
    device = next(iter(sums.values())).device
    totals = [total.sum().to(device) for total in sums.values()]
    if not torch.stack(totals).isfinite().all():
        name = next(name for name, total in sums.items() if not total.isfinite().all())
        raise ValueError(f"module {name} gave NaN or infinite activations")


def _parameter_pairs(ours: ChannelModule, theirs: ChannelModule) -> list[tuple[Tensor, Tensor]]:
    """Parameters of both modules as float32 [channels, numbers] on the target's device."""
    others = ours.parameters()
    pairs = []
    for key, (parameter, dimension) in theirs.parameters().items():
        both = (others[key][0].detach().to(parameter.device), parameter.detach())
        by_channel = (tensor.float().movedim(dimension, 0) for tensor in both)
        pairs.append(tuple(tensor.reshape(theirs.channels, -1) for tensor in by_channel))
    return pairs


def _norm(parts: list[Float[Tensor, "channels _"]]) -> Float[Tensor, " channels"]:
    return sum(part.square().sum(dim=1) for part in parts).sqrt().cpu()


def _pair_metadata(donor: nn.Module, target: nn.Module) -> dict[str, str]:
    dtypes = {
        str(next(model.parameters()).dtype).removeprefix("torch.") for model in (donor, target)
    }
    found = {"dtype": "/".join(sorted(dtypes))}
    for role, model in (("donor", donor), ("target", target)):
        config = getattr(model, "config", None)
        found[role] = getattr(config, "name_or_path", "") or ""
        found[f"{role}_revision"] = getattr(config, "_commit_hash", None) or ""
    return found
