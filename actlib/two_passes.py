"""Records two models that fit in memory one at a time; the donor's activations wait on disk.

scores = record_differences_in_two_passes("donor/", "target/", batches, "scratch/")
"""

import gc
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from actlib import activations, experts, forward, hooks, recording
from actlib.channels import ChannelModule, channel_modules
from actlib.experts import Routed
from actlib.files import atomic_file, digest_tensors
from actlib.hooks import AnswerTokens
from actlib.loading import empty_model, load_pretrained
from actlib.pairs import require_pair
from actlib.parameters import digest_parameters
from actlib.processes import failing_together
from actlib.recording import Calls, DifferenceSums, describe_pair, own_batches
from actlib.scores import ChannelScores

CODE = (hooks, forward, experts, activations, recording)  # what a stored activation depends on
Source = str | Path | Callable[[], nn.Module]


def record_differences_in_two_passes(
    donor: Source,
    target: Source,
    batches: Collection[Mapping[str, Tensor]],
    folder: str | Path,
    *,
    keep: bool = False,
    moments: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
) -> ChannelScores:
    """Scores of `record_differences` with one model in memory at a time; on a CPU the same bits.

    The folder takes answer tokens x channels x bytes of a number: 3.5 MB a token for a model of 7B
    in bf16. An interrupted recording goes on where it stopped: the file of a batch is named after
    the donor's weights, the batch and the code that records, so no other is ever taken.

    Args:
        donor: folder or Hub id, or a function that loads the model and keeps no reference to it.
        target: the same of the target.
        batches: as for `record_differences`, in something that can be gone through twice.
        folder: for the activations; several processes may share it.
        keep: leave the activations in the folder, for another target of this donor.
        moments: as for `record_differences`, like `metadata` and `progress`.
        metadata: of the scores.
        progress: show a bar for each pass.

    Raises:
        ValueError: as `record_differences`; or the batches can be gone through only once.
    """
    if iter(batches) is batches:
        raise ValueError("two passes need batches that can be gone through twice, such as a list")
    if not callable(donor) and not callable(target):
        require_pair(empty_model(donor), empty_model(target))  # before hours of work
    with failing_together():
        model = _load(donor)
        paths = _store(model, batches, Path(folder), "donor" * progress)
        with torch.device("meta"):
            skeleton = type(model)(model.config).to(next(model.parameters()).dtype)
        del model
        gc.collect()  # hooks of accelerate refer in circles
        model = _load(target)
        require_pair(skeleton, model)
        sums = DifferenceSums(channel_modules(model), moments)
        with hooks.evaluating(model):
            for number, batch, tokens in own_batches(batches, "target" * progress):
                calls = _read(paths[number], sums.modules, tokens)
                sums.add_batch(model, batch, tokens, calls)
    scores = sums.combine(describe_pair(skeleton, model) | dict(metadata or {}))
    for path in () if keep else paths.values():
        path.unlink(missing_ok=True)
    return scores


def _store(
    donor: nn.Module, batches: Collection[Mapping[str, Tensor]], folder: Path, progress: str
) -> dict[int, Path]:
    """The file of each of this process's batches, by its number, where the donor has run."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in CODE)
    key = digest_parameters(donor) + hashlib.sha256(code).hexdigest()
    modules, paths = channel_modules(donor), dict[int, Path]()
    with hooks.evaluating(donor):
        for number, batch, tokens in own_batches(batches, progress):
            digest = digest_tensors({name: batch[name] for name in hooks.KEYS})
            name = hashlib.sha256(f"{key}{digest}".encode()).hexdigest()
            paths[number] = folder / f"activations-{name[:32]}.safetensors"
            if not paths[number].exists():
                calls = recording.collect_activations(donor, modules, batch, tokens)
                _save(calls, paths[number])
    return paths


def _save(calls: Calls, path: Path) -> None:
    """Write the activations of a batch in their own dtype, whole or not at all."""
    tensors = dict[str, Tensor]()
    for name in calls:
        for number, each in enumerate(calls[name]):
            parts = each.tensors() if isinstance(each, Routed) else {"": each}
            # copies, since both projections of an expert share their routes
            copies = {part: tensor.cpu().clone().contiguous() for part, tensor in parts.items()}
            tensors |= {f"{name}#{number}#{part}": tensor for part, tensor in copies.items()}
    with atomic_file(path) as unfinished:
        save_file(tensors, unfinished)


def _read(path: Path, modules: Mapping[str, ChannelModule], tokens: AnswerTokens) -> Calls:
    """What `_save` wrote for these answer tokens of a batch."""
    parts = defaultdict[tuple[str, int], dict[str, Tensor]](dict)
    for key, tensor in load_file(path).items():
        name, call, part = key.split("#")
        parts[name, int(call)][part] = tensor
    calls = Calls(deque)
    for name, number in sorted(parts):
        own, total = parts[name, number], len(modules[name].weight)
        routed = None if "" in own else Routed(**own, count=len(tokens.rows), total=total)
        calls[name].append(own[""] if routed is None else routed)
    return calls


def _load(source: Source) -> nn.Module:
    if callable(source):
        return source()
    placed = {"device_map": "auto"} if torch.cuda.is_available() else {}
    return load_pretrained(AutoModelForCausalLM, source, dtype="auto", **placed)
