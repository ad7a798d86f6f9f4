"""Supervised fine-tuning on answers: makes specialists, and tunes lightly after a transfer.

A thin layer over ``transformers.Trainer``: the loss is the mean negative log-likelihood of the
answer tokens, and only the positions that predict an answer token reach the LM head.

    finetune(model, tokenizer, items, steps=120, learning_rate=3e-4, seed=0)
"""

import tempfile
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from .prompts import Encoded, encode, pad_left

IGNORED = -100


def answer_loss(
    logits: Float[Tensor, "batch kept vocab"], labels: Int[Tensor, "batch kept"]
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the answer tokens, in nats per token.

    Labels are already shifted: ``labels[:, i]`` is the token that ``logits[:, i]`` predicts, or
    ``IGNORED`` where that token is not part of the answer.
    """
    chosen = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[chosen].float(), labels[chosen])


def collate(items: list[Encoded], pad_id: int) -> dict[str, Tensor | int]:
    """One left-padded batch whose logits are kept from the first answer token's prediction on."""
    batch = pad_left(items, pad_id)
    kept = 1 + max(sum(item.answer_mask) for item in items)
    labels = batch["input_ids"].masked_fill(~batch["answer_mask"], IGNORED)[:, 1 - kept :]
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "position_ids": batch["position_ids"],
        "labels": labels,
        "logits_to_keep": kept,
    }


class _AnswerTrainer(Trainer):
    """Trainer whose loss reads logits and labels that are cut to the answer's positions."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = answer_loss(outputs.logits[:, :-1], labels)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        """Keep the losses without printing a line for each step."""
        self.state.log_history.append(dict(logs))


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Iterable[Mapping],
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    batch_size: int = 16,
    warmup_steps: int = 5,
    mixed_precision: bool = True,
    callbacks: Iterable[TrainerCallback] = (),
    progress: bool = True,
) -> list[float]:
    """Fine-tune all parameters of ``model`` in place on the answers of ``items``.

    Weights stay in the dtype of the model (float32 is expected, so that small updates are not
    rounded away); with ``mixed_precision`` the matrix products run in bfloat16. AdamW without
    weight decay, linear warm-up, cosine decay. Batches mix all items in an order fixed by ``seed``
    (batches of similar length would each hold one task, and learn far slower): the same seed, data
    and thread count give the same weights.

    Returns:
        The training loss of each step, in nats per answer token.

    Raises:
        ValueError: there is no item, or an item has an empty answer.
    """
    rows = [vars(encode(tokenizer, item["question"], item["answer"])) for item in items]
    if not rows:
        raise ValueError("fine-tuning needs at least one item, and none was given")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            learning_rate=learning_rate,
            per_device_train_batch_size=batch_size,
            warmup_steps=min(warmup_steps, steps // 2),
            lr_scheduler_type="cosine",
            optim="adamw_torch_fused",
            weight_decay=0.0,
            adam_beta2=0.98,
            bf16=mixed_precision,
            use_cpu=model.device.type == "cpu",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            seed=seed,
            data_seed=seed,
            disable_tqdm=not progress,
        )
        trainer = _AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda batch: collate([Encoded(**row) for row in batch], pad),
            callbacks=list(callbacks),
        )
        trainer.train()
    model.eval()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
