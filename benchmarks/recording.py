"""Recording a pair, beside two bare forward passes over the same batches."""

from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedModel

from actlib.channels import channel_modules
from actlib.hooks import AnswerTokens, evaluating, run_model
from actlib.localize import record_differences
from actlib.parallel import Share
from actlib.passes import held_activations, parts
from benchmarks.rows import BARE, HELD, RECORD
from benchmarks.serving import NotRunError, Way
from benchmarks.shapes import (
    Batches,
    qwen_7b,
    random_batches,
    random_pair,
    smol,
    study_batches,
    tiny,
)
from benchmarks.side import Setting


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Record, and run the two models alone, on the shapes that the case names.

    A case such as "float32 values" records the scores alone, as the paper's ranking needs them.

    Raises:
        NotRunError: the case needs a GPU and there is none.
    """
    if case == "cuda":
        return _on_gpu(setting)
    config = tiny() if setting.quick else smol()
    dtype, _, alone = case.partition(" ")
    donor, target = random_pair(config, getattr(torch, dtype))
    batches = study_batches(config, setting.quick)
    return recording_ways(donor, target, batches, values_only=alone == "values")


def recording_ways(
    donor: PreTrainedModel, target: PreTrainedModel, batches: Batches, values_only: bool = False
) -> dict[str, Way]:
    """Both ways over the same batches; logits are computed at answer positions by both.

    Beside them, the floor: what both models give at the answer tokens is read and let go of, with
    nothing computed from it.
    """

    def record() -> dict[str, float]:
        scores = record_differences(donor, target, batches, values_only=values_only)
        total = sum(values.double().sum().item() for values in scores.values.values())
        return {"total_difference": total * scores.tokens}

    return {
        RECORD: Way(record),
        BARE: Way(lambda: run_bare(donor, target, batches)),
        HELD: Way(lambda: hold(donor, target, batches)),
    }


def run_bare(donor: PreTrainedModel, target: PreTrainedModel, batches: Batches) -> None:
    """Each batch through the donor, then through the target, with nothing read."""
    with evaluating(donor, target):
        for batch in batches:
            tokens = AnswerTokens.of_batch(batch)
            for model in (donor, target):
                run_model(model, batch, tokens)


def hold(donor: PreTrainedModel, target: PreTrainedModel, batches: Batches) -> None:
    """Each batch through the donor, then through the target, with the answer tokens held."""
    modules = channel_modules(target)
    with evaluating(donor, target):
        for part in parts(batches, sum(batch["input_ids"].numel() for batch in batches), Share()):
            for model in (donor, target):
                held_activations(model, modules, part)


def _on_gpu(setting: Setting) -> dict[str, Way]:
    if not torch.cuda.is_available():
        raise NotRunError("no GPU here")
    config = tiny() if setting.quick else qwen_7b()
    donor, target = random_pair(config, torch.bfloat16, "cuda")
    shape = {"tokens": 24, "answer": 16} if setting.quick else {"tokens": 256, "answer": 64}
    batches = random_batches(config, batches=4, items=8, **shape)
    batches = [{key: value.cuda() for key, value in batch.items()} for batch in batches]
    found = recording_ways(donor, target, batches)
    return {name: Way(_finished(way.run), _fresh_peak) for name, way in found.items()}


def _fresh_peak() -> None:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _finished(run: Callable[[], dict | None]) -> Callable[[], dict[str, float]]:
    """Wait for the GPU before the clock stops; tell the most that tensors held on it."""

    def whole() -> dict[str, float]:
        found = run() or {}
        torch.cuda.synchronize()
        return {**found, "gpu_peak_bytes": torch.cuda.max_memory_allocated()}

    return whole
