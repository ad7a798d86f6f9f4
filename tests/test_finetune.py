"""Fine-tuning: answers alone count, a seed decides everything, and the loss goes down."""

import pytest
import torch
from peft import LoraConfig
from small_study import SIZES
from torch import nn
from transformers import TrainerCallback

from actlib.channels import channel_modules, tied_modules
from actlib.evaluation import evaluate
from actlib.finetune import IGNORED, collate, finetune, light_lora
from actlib.prompts import Encoded, batches, encode_rows
from actlib.study.presets import ScratchModel, load_preset
from actlib.study.training import small_model, small_tokenizer

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
        spec = {"scratch": SIZES, "abilities": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
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


def test_the_first_loss_is_the_mean_over_answer_tokens(fresh, tokenizer, questions):
    """The loss that training reports is that of evaluation, weighed by tokens."""
    model, lengths = fresh(), []
    judged = evaluate(model, batches(tokenizer, questions, 8))
    for item in questions:
        lengths.append(sum(encode_rows(tokenizer, [item])[0].answer_mask))
    expected = (judged["nll"] * lengths).sum() / sum(lengths)
    settings = {**SETTINGS, "steps": 1, "batch_size": 8}
    assert finetune(model, tokenizer, questions, **settings)[0] == pytest.approx(expected, abs=1e-3)


def test_labels_are_the_answers_tokens_and_only_their_predictions_get_a_gradient(
    fresh, tokenizer, questions
):
    items = [Encoded([5, 6, 7, 8], [False, False, True, True])]
    items.append(Encoded([9, 10, 11], [False, False, True]))
    batch = collate(items)
    assert batch["labels"].tolist() == [[IGNORED, 7, 8], [IGNORED, IGNORED, 11]]
    longer = {"question": "How much is it?", "answer": "A longer answer than those before it."}
    batch = collate(encode_rows(tokenizer, [*questions[:3], longer]))
    outputs = fresh()(**batch)
    assert outputs.logits.shape[1] == batch["logits_to_keep"] == batch["labels"].shape[1]
    outputs.logits.retain_grad()
    outputs.loss.backward()
    touched = outputs.logits.grad.abs().sum(-1) > 0
    assert touched[:, :-1].equal(batch["labels"][:, 1:] != IGNORED) and not touched[:, -1].any()


def test_the_model_keeps_its_dtype_and_every_parameter_moves(fresh, tokenizer, questions):
    before = {name: p.clone() for name, p in fresh().named_parameters()}
    model = fresh()
    finetune(model, tokenizer, questions, **SETTINGS | {"mixed_precision": True})
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.equal(before[name]), name


def traces(model):
    """All that wrapping could leave on a model: modules, parameters, attributes, hooks, modes."""
    return {
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "parameters": [(n, id(p), p.requires_grad) for n, p in model.named_parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "channels": [(name, found.dimension) for name, found in channel_modules(model).items()],
        "tied": tied_modules(model),
    }


def bits(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_lora_lowers_the_loss_and_is_merged(fresh, tokenizer, questions):
    """From a trained start, since nothing can be learned around a random embedding."""
    model = fresh()
    long = SETTINGS | {"steps": 30}
    finetune(model, tokenizer, [{**row, "answer": "I do not know."} for row in questions], **long)
    judged = batches(tokenizer, questions, 8)
    last = []

    class Judge(TrainerCallback):
        def on_train_end(self, args, state, control, model, **kwargs):
            last.append(evaluate(model, judged))

    before = evaluate(model, judged)["nll"].mean()
    losses = finetune(model, tokenizer, questions, **long, lora=light_lora(8), callbacks=[Judge()])
    after = evaluate(model, judged)
    assert len(losses) == long["steps"] and losses[-1] < losses[0] - 0.5
    assert after["nll"].mean() < before - 0.5
    assert after["nll"].tolist() == pytest.approx(last[0]["nll"].tolist(), abs=1e-4)


def test_lora_moves_linear_weights_alone_and_leaves_nothing_behind(fresh, tokenizer, questions):
    model = fresh().eval()
    frozen = next(model.parameters()).requires_grad_(False)
    before, weights = traces(model), bits(model)
    finetune(model, tokenizer, questions, **SETTINGS, lora=light_lora(4))
    assert traces(model) == before
    assert not frozen.requires_grad
    assert not any(module.training for module in model.modules())
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.lm_head
    }
    changed = {name for name, p in model.named_parameters() if not p.equal(weights[name])}
    assert changed == linear


def test_a_seed_fixes_lora_too_and_its_configuration_can_be_used_again(fresh, tokenizer, questions):
    lora, results = light_lora(4), []
    for state in range(2):
        model = fresh()
        torch.manual_seed(state)  # the caller's own state must not matter
        results.append(weights_after(model, tokenizer, questions, seed=0, lora=lora))
    assert results[0][0].equal(results[1][0]) and results[0][1] == results[1][1]
    assert lora.target_modules == "all-linear"


def test_lora_that_fails_gives_the_model_back(fresh, tokenizer, questions):
    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("out of patience")

    model = fresh()
    before, weights = traces(model), bits(model)
    with pytest.raises(RuntimeError, match="patience"):
        lora = {"lora": light_lora(4), "callbacks": [Failing()]}
        finetune(model, tokenizer, questions, **SETTINGS, **lora)
    assert traces(model) == before
    assert all(p.equal(weights[name]) for name, p in model.named_parameters())


ALONE = "must leave biases and whole modules alone"
REFUSALS = [
    ({"items": []}, "at least one item"),
    ({"steps": 0}, "steps must be .*, got 0"),
    ({"learning_rate": float("nan")}, "must be .*, got nan"),
    ({"lora": LoraConfig(target_modules="all-linear", bias="all")}, ALONE),
    ({"lora": LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"])}, ALONE),
]


@pytest.mark.parametrize(("wrong", "named"), REFUSALS)
def test_a_refusal_changes_nothing(fresh, tokenizer, questions, wrong, named):
    model = fresh()
    before, weights = traces(model), bits(model)
    with pytest.raises(ValueError, match=named):
        finetune(model, tokenizer, **{"items": questions, **SETTINGS, **wrong})
    assert traces(model) == before
    assert all(p.equal(weights[name]) for name, p in model.named_parameters())
