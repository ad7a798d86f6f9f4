"""Goes through batches once, for a recording: in parts that fit in memory, with a progress bar.

with Bar(batches, "recording", shown=True) as bar:
    for part in parts(bar, held_bytes // bytes_per_token(donor), Share.current()):
        held = held_activations(donor, modules, part)
        add_part(sums, target, part, take)
        bar.add(part)
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from actlib.activations import Activations, read_answers
from actlib.channels import ChannelModule, Layout, channel_modules
from actlib.experts import Routed
from actlib.hooks import Answers, AnswerTokens, answer_positions
from actlib.parallel import Share
from actlib.running_sums import RunningSums

HELD_BYTES = 2**29
"""Most that is held of a donor's activations, by default: the answer tokens of one part."""

KEYS = ("input_ids", "attention_mask", "answer_mask")


@dataclass(frozen=True, eq=False)
class Part:
    """Items of one batch that run together: all of them, where their activations fit in memory.

    Attributes:
        number: counted over all batches, the same in each of several processes.
        batch: input_ids, attention_mask and answer_mask, each [batch, seq].
        tokens: where its answer tokens lie.
    """

    number: int
    batch: dict[str, Tensor]
    tokens: AnswerTokens

    @property
    def digest(self) -> str:
        """SHA-256 of the three tensors, padding included."""
        state = hashlib.sha256()
        for key in KEYS:
            values = self.batch[key].long().cpu().contiguous()
            state.update(f"{key}{tuple(values.shape)}".encode())
            state.update(values.numpy().tobytes())
        return state.hexdigest()

    def item_digests(self) -> list[bytes]:
        """One hash per item over its real tokens and answer marks, whatever its padding."""
        marks = answer_positions(self.batch).long()
        both = torch.stack([self.batch["input_ids"].long(), marks], dim=-1).cpu()
        real = self.batch["attention_mask"].bool().cpu()
        return [
            hashlib.sha256(item[kept].numpy().tobytes()).digest()
            for item, kept in zip(both, real, strict=True)
        ]


def bytes_per_token(model: nn.Module) -> int:
    """Bytes of all activations of one answer token, in the model's dtype; weights are not read.

    Of experts, those that a token is sent to count. A norm applied to each head counts once, so
    that models which have one (Qwen3, Gemma 3) hold up to a few percent more.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    outputs = 0
    for each in channel_modules(model).values():
        if each.layout is Layout.PACKED:
            experts, width = each.weight.shape[:2]
            outputs += width * min(getattr(config, "num_experts_per_tok", experts), experts)
        else:
            outputs += each.channels
    return outputs * next(model.parameters()).element_size()


def parts(
    batches: Iterable[Mapping[str, Tensor]], most_tokens: int, share: Share
) -> Iterator[Part]:
    """A process's share of the batches, those split in items that have more answer tokens.

    Args:
        batches: mappings of input_ids, attention_mask and answer_mask; other entries are dropped.
        most_tokens: answer tokens of one part; an item that has more runs alone.
        share: which of the batches.

    Raises:
        ValueError: an entry is missing or of another shape, or an item has no answer token.
    """
    number = items = 0
    for place, batch in enumerate(batches):
        positions = answer_positions(batch)
        groups = _groups(positions.sum(dim=1).tolist(), most_tokens)
        if share.has(place):
            whole = AnswerTokens.of_batch(batch, first_item=items)
            for offset, group in enumerate(groups):
                chosen = {key: batch[key][group] for key in KEYS}
                tokens = AnswerTokens.of_batch(chosen) if len(groups) > 1 else whole
                yield Part(number + offset, chosen, tokens)
        number, items = number + len(groups), items + len(positions)


def _groups(counts: list[int], most: int) -> list[slice]:
    """Runs of neighbors, each of which adds up to no more than `most` or is one alone."""
    groups, start, held = [], 0, 0
    for place, count in enumerate(counts):
        if place > start and held + count > most:
            groups.append(slice(start, place))
            start, held = place, 0
        held += count
    return [*groups, slice(start, len(counts))]


class Bar:
    """A progress bar over batches, with tokens a second and the time left; as a context manager.

    The time left needs batches whose number is known. Away from notebooks it is plain text.
    """

    def __init__(self, batches: Iterable, title: str, *, shown: bool) -> None:
        """Prepare a bar for these batches; the title stands before it."""
        self._bar = tqdm(batches, desc=title, unit="batch", disable=not shown)
        self._tokens, self._start = 0, time.perf_counter()

    def __enter__(self) -> "Bar":
        """The bar itself, to iterate over."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """Go through the batches."""
        return iter(self._bar)

    def add(self, part: Part) -> None:
        """Count the real tokens of a part that has run, those of prompts too."""
        if self._bar.disable:
            return
        self._tokens += int(part.batch["attention_mask"].sum())
        seconds = time.perf_counter() - self._start
        self._bar.set_postfix_str(f"{self._tokens / seconds:,.0f} tokens/s", refresh=False)


Take = Callable[[str], Activations | None]


def add_part(sums: RunningSums, target: nn.Module, part: Part, take: Take) -> None:
    """Run the target on a part, and add up how it differs from what the donor gave there.

    Args:
        sums: what is added to.
        target: the model that lacks the ability.
        part: items to run.
        take: gives the donor's activations of a module, call after call; None where it has no more.

    Raises:
        ValueError: a module runs more often in the target, or an activation is NaN or infinite.
    """

    def subtract(name: str, theirs: Answers | Routed) -> None:
        ours = take(name)
        if ours is None:
            raise ValueError(f"module {name} runs more often in the target than in the donor")
        if isinstance(theirs, Routed):
            sums.add(name, ours, theirs)
        else:
            sums.add(name, ours, theirs.flat, theirs.rows)

    read_answers(target, sums.modules, part.batch, part.tokens, subtract)
    sums.tokens += len(part.tokens.rows)
    sums.require_finite()


def held_activations(
    donor: nn.Module, modules: Mapping[str, ChannelModule], part: Part
) -> dict[str, list[Activations]]:
    """The donor's activations of a part, a list per module: one entry for each time it ran.

    On a CPU a copy of all logits takes as long as a good part of the forward pass, so what a module
    returned is kept itself where all of it is answer tokens. A donor that writes over it later runs
    a second time, with copies.
    """
    kept: list[tuple[Tensor, int]] = []

    def keep(found: Tensor) -> Tensor:
        if not found.is_cpu or found.is_inference():  # no count of writes to rely on
            return found.clone()
        kept.append((found, found._version))
        return found

    held = _held(donor, modules, part, keep)
    if any(found._version != version for found, version in kept):
        held = _held(donor, modules, part, Tensor.clone)
    return held


def _held(
    donor: nn.Module,
    modules: Mapping[str, ChannelModule],
    part: Part,
    keep: Callable[[Tensor], Tensor],
) -> dict[str, list[Activations]]:
    held: dict[str, list[Activations]] = {}

    def hold(name: str, found: Answers | Routed) -> None:
        values: Activations
        if isinstance(found, Routed):
            values = found
        else:
            values = keep(found.flat) if found.rows is None else found.tensor()
        held.setdefault(name, []).append(values)

    read_answers(donor, modules, part.batch, part.tokens, hold)
    return held


def describe_model(model: nn.Module) -> dict[str, str]:
    """Name, revision and dtype of a model, for the metadata of scores; empty where unknown.

    Of a folder the name is its last part: where it lies on this machine concerns nobody else.
    """
    config = getattr(model, "config", None)
    name = getattr(config, "name_or_path", "") or ""
    return {
        "name": Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name,
        "revision": getattr(config, "_commit_hash", None) or "",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }


def pair_metadata(donor: Mapping[str, str], target: Mapping[str, str]) -> dict[str, str]:
    """Metadata of scores out of what `describe_model` gives for the two models."""
    found = {"dtype": "/".join(sorted({donor["dtype"], target["dtype"]}))}
    for role, model in (("donor", donor), ("target", target)):
        found |= {role: model["name"], f"{role}_revision": model["revision"]}
    return found
