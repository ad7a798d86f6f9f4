"""Fine-tuning: answers alone count, a seed decides everything, and the loss goes down."""

import pytest
import torch
from peft import LoraConfig
from small_study import QUESTIONS, SETTINGS, random_model
from tiny_models import same_bits, state_of, traces, unchanged
from torch import nn
from transformers import TrainerCallback

from actlib.evaluation import evaluate
from actlib.finetune import IGNORED, collate, finetune, light_lora
from actlib.prompts import Encoded, batches, encode_rows


@pytest.fixture
def fresh(tokenizer):
    """`fresh()`: the same small random model each time."""

    def make():
        torch.manual_seed(0)
        return random_model(tokenizer)

    return make


def test_a_seed_gives_the_same_weights_and_another_seed_others(fresh, tokenizer):
    for lora in (None, light_lora(4)):
        results = []
        for seed in (0, 0, 1):
            model = fresh()
            torch.manual_seed(len(results))  # the caller's own state must not matter
            losses = finetune(model, tokenizer, QUESTIONS, **SETTINGS, seed=seed, lora=lora)
            results.append((losses, state_of(model)))
        once, twice, other = results
        assert once[0] == twice[0] and same_bits(once[1], twice[1])
        assert not same_bits(once[1], other[1])


def test_the_first_loss_is_the_mean_over_answer_tokens(fresh, tokenizer):
    """The loss that training reports is that of evaluation, weighed by tokens."""
    model = fresh()
    judged = evaluate(model, batches(tokenizer, QUESTIONS, 8))
    lengths = [sum(each.answer_mask) for each in encode_rows(tokenizer, QUESTIONS)]
    expected = (judged["nll"] * lengths).sum() / sum(lengths)
    settings = {**SETTINGS, "steps": 1, "batch_size": 8}
    assert finetune(model, tokenizer, QUESTIONS, **settings)[0] == pytest.approx(expected, abs=1e-3)


def test_labels_are_the_answers_tokens():
    items = [Encoded([5, 6, 7, 8], [False, False, True, True])]
    items.append(Encoded([9, 10, 11], [False, False, True]))
    batch = collate(items)
    assert batch["labels"].tolist() == [[IGNORED, 7, 8], [IGNORED, IGNORED, 11]]
    assert batch["logits_to_keep"] == 3


def test_the_model_keeps_its_dtype_and_every_parameter_moves(fresh, tokenizer):
    before, model = state_of(fresh()), fresh()
    finetune(model, tokenizer, QUESTIONS, **SETTINGS | {"mixed_precision": True})
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.equal(before[name]), name


class Judge(TrainerCallback):
    """Evaluates the model before its adapters are merged, and fails if told so."""

    def __init__(self, batches, fails=False):
        self.batches, self.fails = batches, fails

    def on_train_end(self, args, state, control, model, **kwargs):
        self.judged = evaluate(model, self.batches)["nll"].tolist()
        if self.fails:
            raise RuntimeError("out of patience")


def test_lora_moves_linear_weights_alone_and_is_merged(fresh, tokenizer):
    model, judge = fresh().eval(), Judge(batches(tokenizer, QUESTIONS, 8))
    next(model.parameters()).requires_grad_(False)
    before, weights = traces(model), state_of(model)
    options = {"lora": light_lora(4), "callbacks": [judge]}
    losses = finetune(model, tokenizer, QUESTIONS, **SETTINGS, **options)
    assert len(losses) == SETTINGS["steps"] and losses[-1] < losses[0]
    after = evaluate(model, judge.batches)["nll"].tolist()
    assert after == pytest.approx(judge.judged, abs=1e-4)
    assert traces(model) == before
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.lm_head
    }
    changed = {name for name, p in model.named_parameters() if not p.equal(weights[name])}
    assert changed == linear


def test_lora_that_fails_gives_the_model_back(fresh, tokenizer):
    model, judge = fresh(), Judge(batches(tokenizer, QUESTIONS, 8), fails=True)
    options = {"lora": light_lora(4), "callbacks": [judge]}
    with unchanged(model), pytest.raises(RuntimeError, match="patience"):
        finetune(model, tokenizer, QUESTIONS, **SETTINGS, **options)


ALONE = "must leave biases and whole modules alone"
REFUSALS = [
    ({"items": []}, "at least one item"),
    ({"learning_rate": float("nan")}, "must be .*, got nan"),
    ({"lora": LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"])}, ALONE),
]


@pytest.mark.parametrize(("wrong", "named"), REFUSALS)
def test_refusals(fresh, tokenizer, wrong, named):
    with pytest.raises(ValueError, match=named):
        finetune(fresh(), tokenizer, **{"items": QUESTIONS, **SETTINGS, **wrong})
