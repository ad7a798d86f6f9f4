"""Records how the activations of two models differ on the answer tokens, channel by channel.

    scores = record_differences(donor, target, batches)        # ACT's scores, Eq. 2

The score of channel i is the mean over answer tokens t of |a_i,t(donor) - a_i,t(target)|, where a
is the output of the channel's module. What a batch holds and where an activation is read is
in `actlib.hooks`. Nothing outlives its batch but sums in float64.
"""

import hashlib
import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from actlib.activations import Activations, read_activations, require_sound
from actlib.channels import ChannelModule, channel_modules, channel_sizes, unwrapped
from actlib.files import RESERVED, require_metadata
from actlib.forward import pad_right
from actlib.hooks import AnswerTokens, evaluating, mark_answers
from actlib.loading import public_name
from actlib.pairs import require_pair
from actlib.processes import add_up, gather, is_own_batch
from actlib.scores import ChannelScores, require_differing
from actlib.wording import list_first

STATED = (RESERVED, "method", "tokens", "items", "data_hash", "silent", "points")
"""Metadata that a recording writes itself."""
Calls = defaultdict[str, deque[Activations]]
"""Activations of one batch by module, one entry for each call of it, in order."""


def sum_tokens(
    donor: Float[Tensor, "entries channels"],
    target: Float[Tensor, "entries channels"],
    moments: bool = False,
) -> Float[Tensor, "sums channels"]:
    """Sums over tokens, per channel, from which scores are means. Source: ACT, Eq. 2.

    In float32 or wider; on a CPU a few tokens at a time, which stay in its cache.

    Returns:
        |a - b|, (|a| + |b|) / 2 and, with `moments`, a and a^2, in float64.
    """
    wide = torch.promote_types(torch.promote_types(donor.dtype, target.dtype), torch.float32)
    sums = donor.new_zeros(4 if moments else 2, donor.shape[1], dtype=torch.float64)
    step = max(1, 2**17 // donor.shape[1]) if donor.is_cpu else len(donor)

    def absolute(values: Tensor) -> Tensor:
        if values.is_cpu:
            return values.abs().sum(dim=0, dtype=wide)
        # bytes moved count on a GPU, where this reads bfloat16 as it is
        return torch.linalg.vector_norm(values, ord=1, dim=0, dtype=wide)

    for a, b in zip(donor.split(step), target.split(step), strict=True):
        sums[0] += absolute(a.to(wide) - b)
        sums[1] += (absolute(a) + absolute(b)) / 2
        if moments:
            # deviations from the mean keep what squares of a channel far from 0 would lose
            variance, mean = torch.var_mean(a.to(wide), dim=0, correction=0)
            sums[2] += mean.double() * len(a)
            sums[3] += (variance.double() + mean.double().square()) * len(a)
    return sums


def record_differences(
    donor: nn.Module,
    target: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    moments: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
) -> ChannelScores:
    """Mean over answer tokens of |a_donor - a_target|, per channel. Source: ACT, Eq. 2.

    Each batch runs through the donor, then through the target; meanwhile the donor's activations of
    its answer tokens wait, so the batch size is the knob for memory. Batch size, padding and
    several processes (`actlib.processes`) change the result by rounding only. Weights are never
    read, so the models may be spread over devices or offloaded by accelerate; two that do not fit
    in memory together: `actlib.two_passes`. Channels of a module that never runs score 0, with a
    warning and its name under "silent" in the metadata. A token counts as 0 for each packed expert
    that it was not sent to, see `actlib.activations`.

    Args:
        donor: the model that has the ability.
        target: the model that lacks it, of the same architecture.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq], padded on
            either side; other entries are ignored.
        moments: also record the donor's mean activation and its standard deviation over the answer
            tokens, which mean ablation and the ranking "relative" ask for.
        metadata: added to the metadata of the scores, such as the ability's name.
        progress: show a bar over the batches.

    Raises:
        ValueError: the models do not fit, there is no batch, an answer span is empty, an activation
            is NaN or infinite, or no channel differs.
    """
    donor, target = unwrapped(donor), unwrapped(target)
    require_pair(donor, target)
    require_metadata(metadata or {}, STATED)
    sums = DifferenceSums(channel_modules(target), moments)
    with evaluating(donor, target):
        for _, batch, tokens in own_batches(batches, "activation differences" if progress else ""):
            calls = collect_activations(donor, sums.modules, batch, tokens)
            sums.add_batch(target, batch, tokens, calls)
    return sums.combine(describe_pair(donor, target) | dict(metadata or {}))


def own_batches(
    batches: Iterable[Mapping[str, Tensor]], progress: str = ""
) -> Iterator[tuple[int, Mapping[str, Tensor], AnswerTokens]]:
    """This process's share of the batches, each with its number and its answer tokens.

    `progress` is what to call a bar over them, or empty.

    Raises:
        ValueError: there is no batch, or as `AnswerTokens.of_batch`.
    """
    items = 0
    bar = tqdm(batches, progress, disable=not progress or not is_own_batch(0))
    for number, batch in enumerate(bar):
        if is_own_batch(number):
            batch = pad_right(batch)
            yield number, batch, AnswerTokens.of_batch(batch, first_item=items)
        items += len(batch["input_ids"])
    if not items:
        raise ValueError("there is no batch to record")


def collect_activations(
    donor: nn.Module,
    modules: Mapping[str, ChannelModule],
    batch: Mapping[str, Tensor],
    tokens: AnswerTokens,
) -> Calls:
    """Run the donor on a batch, and keep what its modules give at the answer tokens."""
    calls = Calls(deque)
    read_activations(donor, modules, batch, tokens, lambda name, values: calls[name].append(values))
    return calls


class DifferenceSums:
    """Running sums over answer tokens, by module and channel, on the devices that give them."""

    def __init__(self, modules: Mapping[str, ChannelModule], moments: bool) -> None:
        """Start at 0 for these modules, with or without the donor's moments."""
        self.modules, self.moments = modules, moments
        empty = torch.zeros(4 if moments else 2, 1, dtype=torch.float64)
        self._sums: dict[str, Float[Tensor, "sums channels"]] = {
            name: empty.repeat(1, each.channels) for name, each in modules.items()
        }
        self._entries = dict.fromkeys(modules, 0)
        self._tokens, self._items = 0, list[bytes]()

    def add_batch(
        self, target: nn.Module, batch: Mapping[str, Tensor], tokens: AnswerTokens, calls: Calls
    ) -> None:
        """Run the target on a batch, and add up how it differs from what the donor gave there.

        Raises:
            ValueError: a module runs more often in one model, or gives activations of another
                shape there, or one is not finite.
        """

        def subtract(name: str, target_values: Activations) -> None:
            if not calls[name]:
                raise ValueError(f"module {name} runs more often in the target than in the donor")
            self._add(name, calls[name].popleft(), target_values)

        read_activations(target, self.modules, batch, tokens, subtract)
        for name in filter(calls.get, calls):
            raise ValueError(f"module {name} runs more often in the donor than in the target")
        if not self._tokens:
            for name, sums in self._sums.items():  # now, rather than after hours
                require_sound(sums, f"in donor or target the activations of module {name} are")
        self._tokens += len(tokens.rows)
        self._items += digest_items(batch)

    def _add(self, name: str, donor_values: Activations, target_values: Activations) -> None:
        """Add what one call of a module gives at the same tokens in donor and target."""
        # on the device that gives them; MPS has no float64
        device = torch.device("cpu") if target_values.device.type == "mps" else target_values.device
        sums = self._sums[name] = self._sums[name].to(device)
        donor_values, target_values = donor_values.to(device), target_values.to(device)
        if donor_values.shape != target_values.shape:
            raise ValueError(
                f"module {name} gives {tuple(donor_values.shape)} in the donor and "
                f"{tuple(target_values.shape)} in the target; give both the same batches"
            )
        if donor_values.is_sparse:  # 0 for an expert to which a token was not sent
            donor_values = donor_values.to_dense().flatten(1)
            target_values = target_values.to_dense().flatten(1)
        sums += sum_tokens(donor_values, target_values, self.moments)
        self._entries[name] += donor_values.shape[0]

    def combine(self, metadata: Mapping[str, str]) -> ChannelScores:
        """Scores out of what all processes summed up, the same in each of them.

        Raises:
            ValueError: no module ran, a sum is not finite, or all scores are 0.
        """
        entries = add_up(torch.tensor([*self._entries.values()], dtype=torch.float64))
        differences, magnitudes, *moments = self._average(entries)
        silent = [name for name, count in zip(self.modules, entries, strict=True) if not count]
        alike = "give the same activations in every channel"
        bypassed = "are run by other code than their modules"
        require_differing(differences, alike if entries.any() else bypassed)
        origin = {"method": "activation difference", **describe_items(self._items, self._tokens)}
        if silent:
            origin["silent"] = ",".join(silent)
            warnings.warn(
                f"modules that never ran on these inputs score 0: {list_first(silent)}",
                stacklevel=3,
            )
        roles = {name: each.role for name, each in self.modules.items()}
        tokens, metadata = int(origin["tokens"]), {**metadata, **origin}
        means, stds = moments or [{}, {}]
        sizes = channel_sizes(self.modules)
        return ChannelScores(differences, magnitudes, tokens, metadata, means, stds, roles, sizes)

    def _average(self, entries: Float[Tensor, " modules"]) -> list[dict[str, Tensor]]:
        """Means over the entries of all processes, in the order of `sum_tokens`; of a^2 the std."""
        parts: list[dict[str, Tensor]] = [{} for _ in range(4 if self.moments else 2)]
        for (name, sums), count in zip(self._sums.items(), entries, strict=True):
            averages = add_up(sums.cpu()) / count.clamp_min(1)
            if self.moments:
                mean, square = averages[2:]
                averages[3] = (square - mean.square()).clamp_min(0).sqrt()  # a constant's is 0
            rows = averages.float()
            require_sound(rows, f"in donor or target the activations of module {name} are")
            for part, row in zip(parts, rows, strict=True):
                part[name] = row.clone()
        return parts


def digest_items(batch: Mapping[str, Tensor]) -> list[bytes]:
    """SHA-256 of each item's real tokens and answer marks, whatever its padding."""
    marks = mark_answers(batch).long()
    marked = torch.stack([batch["input_ids"].long(), marks], dim=-1).cpu()
    real = batch["attention_mask"].bool().cpu()
    return [
        hashlib.sha256(item[own].numpy().tobytes()).digest()
        for item, own in zip(marked, real, strict=True)
    ]


def describe_items(items: list[bytes], tokens: int) -> dict[str, str]:
    """Metadata of scores out of the digests of this process's items and its answer tokens."""
    digests = sorted(digest for own in gather(items) for digest in own)
    data_hash = hashlib.sha256(b"".join(digests)).hexdigest()
    return {"data_hash": data_hash, "items": str(len(digests)), "tokens": str(sum(gather(tokens)))}


def describe_pair(donor: nn.Module, target: nn.Module) -> dict[str, str]:
    """Metadata of scores: `public_name` and revision of each model, empty if unknown, and dtype."""
    metadata, dtypes = {}, set()
    for role, model in (("donor", donor), ("target", target)):
        config = getattr(model, "config", None)
        name = getattr(config, "name_or_path", "") or ""
        metadata[role] = public_name(name) if name else ""
        metadata[f"{role}_revision"] = getattr(config, "_commit_hash", None) or ""
        dtypes.add(str(next(model.parameters()).dtype).removeprefix("torch."))
    return {"dtype": "/".join(sorted(dtypes)), **metadata}
