"""Records two models that fit in memory one at a time; the donor's activations wait on disk.

scores = record_differences_in_two_passes("donor/", "target/", batches, "scratch/")
"""

import copy
import gc
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from actlib.channels import channel_modules, tied_modules, unwrapped
from actlib.files import require_metadata
from actlib.hooks import evaluating
from actlib.loading import empty_model, load_pretrained
from actlib.pairs import require_pair
from actlib.recording import (
    STATED,
    Calls,
    DifferenceSums,
    collect_activations,
    describe_pair,
    own_batches,
)
from actlib.scores import ChannelScores

Source = str | Path | Callable[[], nn.Module]


def record_differences_in_two_passes(
    donor: Source,
    target: Source,
    batches: Iterable[Mapping[str, Tensor]],
    folder: str | Path,
    *,
    moments: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: bool = False,
) -> ChannelScores:
    """Scores of `record_differences` with one model in memory at a time; on a CPU the same bits.

    The folder takes answer tokens x channels x bytes of a number: 3.5 MB a token for a model of 7B
    in bf16. It is as it was at the end, or after an error.

    Args:
        donor: folder or Hub id, or a function that loads the model and keeps no reference to it.
        target: folder, Hub id or function of the model that lacks the ability.
        batches: mappings of input_ids, attention_mask and answer_mask, each [batch, seq], padded on
            either side; all are held.
        folder: for the activations; several processes may share it.
        moments: also record the donor's mean activation and its standard deviation.
        metadata: added to the metadata of the scores, such as the ability's name.
        progress: show a bar for each pass.

    Raises:
        ValueError: a model cannot be loaded or is none of transformers, the two do not fit, there
            is no batch, an answer span is empty, an activation is NaN or infinite, or no channel
            differs.
    """
    require_metadata(metadata or {}, STATED)
    batches = list(batches)
    if not callable(donor) and not callable(target):
        require_pair(empty_model(donor), empty_model(target))  # before hours of work
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model = _load(donor)
        skeleton = _without_weights(model)
        _write_activations(model, batches, scratch, "donor" if progress else "")
        del model
        gc.collect()  # hooks of accelerate refer in circles
        model = _load(target)
        require_pair(skeleton, model)
        sums = DifferenceSums(channel_modules(model), moments)
        with evaluating(model):
            for number, batch, tokens in own_batches(batches, "target" if progress else ""):
                path = Path(scratch, str(number))
                stored = torch.load(path, weights_only=True)
                calls = Calls(deque, {name: deque(each) for name, each in stored.items()})
                sums.add_batch(model, batch, tokens, calls)
                path.unlink()
    return sums.combine(describe_pair(skeleton, model) | dict(metadata or {}))


def _write_activations(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], folder: str, progress: str
) -> None:
    """Write what the donor gives on each batch."""
    modules = channel_modules(model)
    with evaluating(model):
        for number, batch, tokens in own_batches(batches, progress):
            calls = collect_activations(model, modules, batch, tokens)
            stored = {name: [each.cpu() for each in calls[name]] for name in calls}
            torch.save(stored, Path(folder, str(number)))


def _without_weights(model: nn.Module) -> nn.Module:
    """The model on the meta device, tied as it is, whatever its configuration says."""
    if not hasattr(model, "config"):
        raise ValueError(
            f"two passes need models of transformers, got {type(model).__name__}; use "
            "record_differences"
        )
    config: Any = copy.deepcopy(model.config)
    for each in [config, config.get_text_config()] if hasattr(config, "get_text_config") else []:
        if hasattr(each, "tie_word_embeddings"):
            each.tie_word_embeddings = bool(tied_modules(model))
    with torch.device("meta"):
        return type(model)(config).to(next(model.parameters()).dtype)


def _load(source: Source) -> nn.Module:
    if callable(source):
        return unwrapped(source())
    placed = {"device_map": "auto"} if torch.cuda.is_available() else {}
    return load_pretrained(AutoModelForCausalLM, source, dtype="auto", **placed)
