"""Supervised fine-tuning on answers: makes specialists, and tunes lightly after a transfer.

A thin layer over ``transformers.Trainer``: the loss is the mean negative log-likelihood of the
answer tokens, and only the positions that predict an answer token reach the LM head.

    finetune(model, tokenizer, items, steps=120, learning_rate=3e-4, seed=0)
    finetune(model, tokenizer, items, steps=120, learning_rate=3e-3, lora=light_lora(16))
    finetune(model, tokenizer, items, steps=5000, learning_rate=1e-5, checkpoints=folder)

The last keeps the Trainer's own checkpoint of every ``checkpoint_steps`` and of the end, one at a
time, about three times the model's size in float32. After a kill, the same call resumes from it: on
the CPU to the same weights and losses, bit for bit, as without the kill. Another training has a
checkpoint of its own in the folder; one of fewer steps has none. Remove the folder afterwards.

Several processes (`torchrun`, `accelerate launch`), each with the same model and items, train one
model: they share each batch of ``batch_size``. The weights differ from those of one process by
rounding, and where the last batch of a pass is filled up from the pass's first items.
"""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from actlib.files import digest_tensors
from actlib.prompts import Encoded, encode_rows, pad_left

IGNORED = -100


def collate(items: list[Encoded]) -> dict[str, Tensor | int]:
    """A left-padded batch whose labels and logits are cut to where answers are predicted.

    The first label is of a prompt; the model's own loss shifts the labels, and drops it.
    """
    batch = pad_left(items)
    length = 1 + max(sum(item.answer_mask) for item in items)
    labels = batch["input_ids"].masked_fill(~batch.pop("answer_mask"), IGNORED)
    return {**batch, "labels": labels[:, -length:], "logits_to_keep": length}


class _QuietTrainer(Trainer):
    """Trainer that keeps the losses without printing a line for each step."""

    def log(self, logs, start_time=None):
        self.state.log_history.append(dict(logs))


def light_lora(rank: int = 16) -> LoraConfig:
    """LoRA on all linear layers but the LM head, without dropout, at alpha = 2 * rank.

    An adapted weight is W + (alpha / rank) * B A, with B zero at the start. Source: Hu et al. 2022,
    arXiv 2106.09685; on all linear layers, as Dettmers et al. 2023, arXiv 2305.14314. Alpha of
    twice the rank is a custom of the field, not of either paper.

    Args:
        rank: rows of A and columns of B, at least 1.

    Raises:
        ValueError: the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA must be at least 1, got {rank}")
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Iterable[Mapping],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    warmup_steps: int = 5,
    mixed_precision: bool = True,
    callbacks: Iterable[TrainerCallback] = (),
    progress: bool = True,
    lora: LoraConfig | None = None,
    checkpoints: str | Path | None = None,
    checkpoint_steps: int = 25,
) -> list[float]:
    """Fine-tune ``model`` in place on the answers of ``items``: all parameters, or through LoRA.

    Weights stay in the dtype of the model (float32 is expected, so that small updates are not
    rounded away); with ``mixed_precision`` the matrix products run in bfloat16, 24 times as slow on
    a CPU without instructions for it. AdamW, whose weight decay leaves norms and biases alone;
    linear warm-up, cosine decay. Batches mix all items, in an order fixed by ``seed``: the same
    seed, data and threads give the same weights. ``checkpoints`` is a folder to resume from.

    With ``lora``, adapters are trained and then merged into the weights they adapt; their start is
    fixed by ``seed`` too. LoRA usually wants a learning rate about ten times that of full
    fine-tuning (Schulman et al. 2025, LoRA Without Regret). Callbacks get the wrapped model. After
    a failure the model has the weights that it had.

    Returns:
        The training loss of each step, in nats per answer token.

    Raises:
        ValueError: there is no item, an item has an empty answer, a number is out of its range, the
            processes are no divisor of the batch size, or ``lora`` would also train biases or whole
            modules. The model is unchanged then.
    """
    encoded = encode_rows(tokenizer, items)
    counts = {"steps": steps, "batch_size": batch_size, "checkpoint_steps": checkpoint_steps}
    _require_settings(encoded, learning_rate, counts)
    schedule = {
        "max_steps": steps,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "per_device_train_batch_size": batch_size,
        "warmup_steps": min(warmup_steps, steps // 2),
        "bf16": mixed_precision,
        "use_cpu": model.device.type == "cpu",
        "seed": seed,
        "disable_tqdm": not progress,
        "save_steps": checkpoint_steps,
    }
    with nullcontext(model) if lora is None else _adapted(model, lora, seed) as trained:
        output = Path(checkpoints) if checkpoints and steps > checkpoint_steps else None
        output = output and output / _training_digest(trained, encoded, schedule, lora)
        losses = _train(trained, encoded, schedule, callbacks, output)
    model.eval()
    return losses


def _require_settings(encoded: list[Encoded], learning_rate: float, counts: dict) -> None:
    if not encoded:
        raise ValueError("fine-tuning needs at least one item, and none was given")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be a positive number, got {learning_rate}")


def _train(
    model: PreTrainedModel | PeftModel,
    encoded: list[Encoded],
    schedule: Mapping,
    callbacks: Iterable[TrainerCallback],
    output: Path | None,
) -> list[float]:
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=str(output or scratch),
            save_strategy="steps" if output else "no",
            save_total_limit=1,
            lr_scheduler_type="cosine",
            optim="adamw_torch_fused",
            adam_beta2=0.98,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            logging_steps=1,
            report_to=[],
            accelerator_config={"split_batches": True},  # the processes share a batch
            **schedule,
        )
        if arguments.train_batch_size % arguments.world_size:
            raise ValueError(
                f"{arguments.world_size} processes cannot share a batch of "
                f"{arguments.train_batch_size} items evenly; choose a multiple of the processes"
            )
        trainer = _QuietTrainer(
            model=model,
            args=arguments,
            train_dataset=encoded,
            data_collator=collate,
            callbacks=list(callbacks),
        )
        trainer.train(resume_from_checkpoint=_last_checkpoint(output) if output else None)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _last_checkpoint(output: Path) -> str | None:
    """The last whole checkpoint, or None; what a kill left half-written is removed."""
    for folder in output.glob("checkpoint-*"):
        try:  # the Trainer writes its state last
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
    return get_last_checkpoint(str(output)) if output.is_dir() else None


def _training_digest(
    model: torch.nn.Module, encoded: list[Encoded], schedule: Mapping, lora: LoraConfig | None
) -> str:
    """Name of a training: its initial weights, tokens, settings and versions."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    versions = [torch.__version__, transformers.__version__]
    settings = [encoded, schedule, lora and lora.to_dict(), versions, trained]
    weights = digest_tensors(dict(model.named_parameters()))
    text = json.dumps(settings, sort_keys=True, default=str) + weights
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _adapted(model: PreTrainedModel, lora: LoraConfig, seed: int) -> Iterator[PeftModel]:
    """The model with fresh adapters; they are merged into it on exit, or dropped on an error."""
    if lora.bias != "none" or lora.modules_to_save:
        raise ValueError(
            "LoRA must leave biases and whole modules alone, but the configuration has "
            f"bias={lora.bias!r} and modules_to_save={lora.modules_to_save!r}"
        )
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    set_seed(seed)  # the adapters are drawn here, before the trainer sets the seed
    try:
        # peft writes the names of modules into its configuration, so it gets a copy.
        wrapped = get_peft_model(model, copy.deepcopy(lora))
        try:
            yield wrapped
        except BaseException:
            wrapped.unload()
            raise
        wrapped.merge_and_unload()
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])
