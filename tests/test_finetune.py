"""Fine-tuning: answers alone count, a seed decides everything, and the loss goes down."""

import pytest
import torch
from small_study import SIZES
from transformers import TrainerCallback

from actlib.evaluate import evaluate
from actlib.families import small_model, small_tokenizer
from actlib.finetune import IGNORED, answer_loss, collate, finetune
from actlib.presets import ScratchModel, load_preset
from actlib.prompts import Encoded, batches, encode

SETTINGS = {"steps": 12, "learning_rate": 5e-3, "batch_size": 4, "mixed_precision": False}
SETTINGS |= {"progress": False}


@pytest.fixture(scope="module")
def tokenizer(small_preset):
    return small_tokenizer(load_preset(small_preset), 400)


@pytest.fixture
def fresh(tokenizer):
    """`fresh()`: the same small random model each time."""

    def make():
        torch.manual_seed(0)
        spec = {"scratch": SIZES, "cells": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
        return small_model(ScratchModel(**spec), tokenizer)

    return make


@pytest.fixture
def questions():
    return [{"question": f"{n} + {n}?", "answer": f"It is {2 * n}."} for n in range(1, 9)]


def weights_after(model, *arguments, **settings):
    losses = finetune(model, *arguments, **SETTINGS | settings)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), losses


def test_a_seed_gives_the_same_weights_and_another_seed_others(fresh, tokenizer, questions):
    once, twice, other = (
        weights_after(fresh(), tokenizer, questions, seed=seed) for seed in (0, 0, 1)
    )
    assert once[0].equal(twice[0]) and once[1] == twice[1]
    assert not once[0].equal(other[0])


def test_it_lowers_the_answer_loss(fresh, tokenizer, questions):
    model = fresh()
    judged = batches(tokenizer, questions, 8)
    before = evaluate(model, judged)["nll"].mean()
    losses = finetune(model, tokenizer, questions, **SETTINGS)
    assert len(losses) == SETTINGS["steps"]
    assert losses[-1] < losses[0] - 0.5
    assert evaluate(model, judged)["nll"].mean() < before - 0.5
    assert not model.training


def test_the_first_loss_is_the_mean_over_answer_tokens(fresh, tokenizer, questions):
    """The loss that training reports is that of evaluation, weighed by tokens."""
    model, lengths = fresh(), []
    judged = evaluate(model, batches(tokenizer, questions, 8))
    for item in questions:
        lengths.append(sum(encode(tokenizer, item["question"], item["answer"]).answer_mask))
    expected = (judged["nll"] * lengths).sum() / sum(lengths)
    settings = {**SETTINGS, "steps": 1, "batch_size": 8}
    assert finetune(model, tokenizer, questions, **settings)[0] == pytest.approx(expected, abs=1e-3)


def test_labels_are_the_answers_tokens_and_nothing_else():
    items = [Encoded([5, 6, 7, 8], [False, False, True, True])]
    items.append(Encoded([9, 10, 11], [False, False, True]))
    batch = collate(items, pad_id=0)
    assert batch["labels"].tolist() == [[7, 8], [IGNORED, 11]]
    assert batch["logits_to_keep"] == 3
    other = [Encoded([1, 2, 7, 8], items[0].answer_mask), items[1]]
    assert collate(other, pad_id=4)["labels"].equal(batch["labels"])


def test_only_predictions_of_answer_tokens_get_a_gradient(fresh, tokenizer, questions):
    encoded = [encode(tokenizer, item["question"], item["answer"]) for item in questions[:3]]
    encoded.append(encode(tokenizer, "How much is it?", "A longer answer than those before it."))
    batch = collate(encoded, pad_id=0)
    labels = batch.pop("labels")
    logits = fresh()(**batch).logits
    assert logits.shape[1] == labels.shape[1] + 1  # the LM head saw no other position
    logits = logits[:, :-1].detach().requires_grad_()
    answer_loss(logits, labels).backward()
    touched = logits.grad.abs().sum(-1) > 0
    assert touched.equal(labels != IGNORED)
    assert 0 < touched.sum() < touched.numel()


def test_the_model_keeps_its_dtype_and_every_parameter_moves(fresh, tokenizer, questions):
    before = {name: p.clone() for name, p in fresh().named_parameters()}
    model = fresh()
    finetune(model, tokenizer, questions, **SETTINGS | {"mixed_precision": True})
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.equal(before[name]), name


def test_callbacks_see_each_step(fresh, tokenizer, questions):
    class Counter(TrainerCallback):
        seen = []

        def on_step_end(self, args, state, control, **kwargs):
            self.seen.append(state.global_step)

    finetune(fresh(), tokenizer, questions, **SETTINGS, callbacks=[Counter()])
    assert Counter.seen == list(range(1, SETTINGS["steps"] + 1))


@pytest.mark.parametrize("rows", [[], [{"question": "2?", "answer": " "}]])
def test_no_items_or_an_empty_answer_change_nothing(fresh, tokenizer, rows):
    model = fresh()
    with pytest.raises(ValueError, match="at least one item|must hold text"):
        finetune(model, tokenizer, rows, **SETTINGS)
    pairs = zip(model.parameters(), fresh().parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs)
