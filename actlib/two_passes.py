"""Records two models that fit in memory one at a time; the donor's activations wait on disk.

scores = record_differences_in_two_passes("donor/", "target/", batches, "scratch/")
"""

import gc
import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from actlib import activations, experts, forward, hooks, recording
from actlib.channels import channel_modules
from actlib.files import digest_tensors
from actlib.loading import empty_model, load_pretrained
from actlib.pairs import require_pair
from actlib.parameters import digest_parameters
from actlib.processes import failing_together
from actlib.recording import DifferenceSums, describe_model, describe_pair, own_batches
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
        moments: as for `record_differences`, like `metadata`.
        metadata: of the scores.
        progress: show a bar for each pass.

    Raises:
        ValueError: as `record_differences`; or the batches can be gone through only once.
    """
    if iter(batches) is batches:
        raise ValueError("two passes need batches that can be gone through twice, such as a list")
    if not callable(donor) and not callable(target):
        require_pair(empty_model(donor), empty_model(target))  # before hours of work
    titles, paths = ["donor" * progress, "target" * progress], dict[int, Path]()
    with failing_together():
        model = _load(donor)
        modules, origin, key = channel_modules(model), describe_model(model), _key(model)
        with hooks.evaluating(model):
            for number, batch, tokens in own_batches(batches, titles[0]):
                name = hashlib.sha256(f"{key}{_digest(batch)}".encode()).hexdigest()
                paths[number] = Path(folder) / f"activations-{name[:32]}.safetensors"
                if not paths[number].exists():
                    ours = recording.collect_activations(model, modules, batch, tokens)
                    activations.save_activations(ours, paths[number])
        with torch.device("meta"):
            skeleton = type(model)(model.config)
        del model, modules
        gc.collect()  # hooks of accelerate refer in circles
        model = _load(target)
        require_pair(skeleton, model)
        sums = DifferenceSums(channel_modules(model), moments)
        with hooks.evaluating(model):
            for number, batch, tokens in own_batches(batches, titles[1]):
                ours = activations.load_activations(paths[number], sums.modules, tokens)
                sums.add_batch(model, batch, tokens, ours)
    scores = sums.combine(describe_pair(origin, describe_model(model)) | dict(metadata or {}))
    for path in () if keep else paths.values():
        path.unlink(missing_ok=True)
    return scores


def _digest(batch: Mapping[str, Tensor]) -> str:
    return digest_tensors({key: batch[key] for key in hooks.KEYS})


def _key(donor: nn.Module) -> str:
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in CODE)
    return digest_parameters(donor) + hashlib.sha256(code).hexdigest()


def _load(source: Source) -> nn.Module:
    if callable(source):
        return source()
    placed = {"device_map": "auto"} if torch.cuda.is_available() else {}
    return load_pretrained(AutoModelForCausalLM, source, dtype="auto", **placed)
