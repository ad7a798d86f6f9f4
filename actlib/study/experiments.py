"""The study's measurements, one function each: tidy rows out, one row an item.

Notebooks call these once per seed and hand the rows to ``actlib.study.tables``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pandas as pd
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback

from actlib.finetune import finetune, light_lora
from actlib.masks import ChannelMask
from actlib.merging import Contribution, merge_
from actlib.study.old_session import Study
from actlib.study.presets import Training
from actlib.transfer import preserved, transfer_, transferred


def transfers(
    study: Study,
    models: tuple[PreTrainedModel, PreTrainedModel],
    masks: Sequence[tuple[Mapping, ChannelMask, float]],
    cells: Iterable[str],
    purpose: str,
) -> pd.DataFrame:
    """Judge the target under each transfer; the target comes out as it went in.

    Args:
        study: whose items are judged.
        models: donor and target.
        masks: for each transfer its labels, mask and scale.
        cells: abilities to judge.
        purpose: ``validation`` or ``test``.

    Returns:
        Rows of ``Study.judge`` with the labels as columns.
    """
    donor, target = models
    cells, frames = list(cells), []
    for labels, mask, scale in tqdm(masks, desc=f"transfers judged on {purpose} items"):
        with transferred(target, donor, mask, scale):
            frames.append(study.judge(target, cells, purpose, **labels))
    return pd.concat(frames, ignore_index=True)


def ends(
    study: Study, models: tuple[PreTrainedModel, PreTrainedModel], cells, purpose: str, **labels
) -> pd.DataFrame:
    """Rows of the untouched donor and target, under ``method`` donor and target."""
    names = ("donor", "target")
    frames = [
        study.judge(model, cells, purpose, method=name, **labels)
        for name, model in zip(names, models, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


class _Judged(TrainerCallback):
    """Judges the model at given steps of a fine-tuning."""

    def __init__(self, study: Study, steps: Iterable[int], cells, labels: Mapping) -> None:
        self.study, self.steps, self.cells, self.labels = study, set(steps), cells, labels
        self.frames: list[pd.DataFrame] = []
        told = ", ".join(f"{key} {value}" for key, value in labels.items())
        self.bar = tqdm(total=max(self.steps), desc=f"fine-tuning ({told})")

    def judge(self, model: PreTrainedModel, step: int) -> None:
        """Judge now, if this step is one of those asked for."""
        if step in self.steps:
            labels = {**self.labels, "steps": step}
            self.frames.append(self.study.judge(model, self.cells, "test", **labels))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Judge after a step of training."""
        self.bar.update()
        self.judge(model, state.global_step)


def light_sft(
    study: Study,
    seed: int,
    start: tuple[ChannelMask, float] | None,
    settings: Training,
    steps: Sequence[int],
    /,
    *,
    lora: bool = False,
    **labels,
) -> pd.DataFrame:
    """Fine-tune the target lightly, after a transfer or without one, and judge it on the way.

    All arms see the same items in the same order: training items drawn evenly over all
    abilities, lost and retained. The learning rate falls over all of the steps, so what is judged
    on the way is not what a shorter fine-tuning would end at.

    Args:
        study: whose target is tuned.
        seed: training seed of the family; decides the items too.
        start: mask and scale of a transfer from the donor, done first; None for no transfer.
        settings: steps, learning rate, batch size.
        steps: after which to judge; 0 is before the first.
        lora: tune low-rank adapters of the linear layers instead of all parameters.
        **labels: columns to add.

    Returns:
        Rows of ``Study.judge`` with ``steps`` and the labels as columns.
    """
    model = study.model("target", seed, dtype="float32")
    if start is not None:
        transfer_(model, study.model("donor", seed, dtype="float32"), *start)
    judged = _Judged(study, steps, study.cells, labels)
    judged.judge(model, 0)
    finetune(
        model,
        study.tokenizer(seed),
        study.training(study.cells, seed + 1)[: settings.steps * settings.batch_size],
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        seed=seed,
        mixed_precision=study.preset.dtype == "bfloat16",
        callbacks=[judged],
        progress=False,
        lora=light_lora() if lora else None,
    )
    judged.bar.close()
    return pd.concat(judged.frames, ignore_index=True)


@contextmanager
def merged(
    base: PreTrainedModel, contributions: Sequence[Contribution], collisions: str = "sum"
) -> Iterator[PreTrainedModel]:
    """The base with contributions merged in, put back on exit, bit for bit."""
    union = contributions[0][1]
    for _, mask, _ in contributions[1:]:
        union = union | mask
    with preserved(base, union):
        merge_(base, contributions, collisions)
        yield base
