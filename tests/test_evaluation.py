"""Evaluation by one forward pass agrees with decoding, and with likelihoods computed at length."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from slow_reference import slow_nll

from actlib import evaluate
from actlib.prompts import Encoded, pad_left


def assert_nll(model, batches, expected):
    assert evaluate(model, batches)["nll"].tolist() == pytest.approx(expected, abs=2e-5, rel=2e-5)


def test_nll_is_the_reference_of_full_logits(family, architecture, items, collate):
    model = family(architecture)
    expected = [slow_nll(model, *item) for item in items]
    for size in (1, 2, 6):
        for side in ("left", "right"):
            assert_nll(model, collate(items, size, side), expected)


def test_exact_match_is_what_greedy_decoding_writes(family, architecture, items):
    model, exact = family(architecture), []
    model.generation_config.eos_token_id = None
    encoded = []
    for number, (prompt, _) in enumerate(items * 2):
        length = 2 + number % 4
        written = model.generate(prompt[None], do_sample=False, max_new_tokens=length)[0]
        wanted = written.clone()
        if number % 3 == 0:  # one token is another, anywhere in the answer
            wanted[-1 - number % length] = (wanted[-1 - number % length] + 1) % 60
        exact.append(bool(wanted.equal(written)))
        mask = [False] * len(prompt) + [True] * length
        encoded.append(Encoded(wanted.tolist(), mask))
    assert evaluate(model, [pad_left(encoded)])["exact"].astype(bool).tolist() == exact
    assert 0 < sum(exact) < len(exact)


def test_rows_follow_the_items_whatever_the_order_of_the_batches(family, items, collate):
    batches = collate(items, 2)
    first = evaluate(family(), batches)
    for number, batch in enumerate(batches):
        batch["index"] = torch.tensor([2 * number, 2 * number + 1])
    assert evaluate(family(), batches[::-1]).equals(first)


def test_the_mode_of_the_model_stays_even_after_an_error(family, items, collate):
    model = family("gpt2").train()  # has dropout
    once, twice = (evaluate(model, collate(items, 3)) for _ in range(2))
    assert once.equals(twice)
    assert model.training
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate(model, [])
    assert model.training


class Merging(torch.nn.Dropout):
    """As a layer of loralib, which merges its adapter in evaluation mode and takes it out again."""

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)


def test_a_layer_that_changes_with_its_mode_changes_back(family, batches):
    model = family("gpt2").train()
    model.transformer.drop = Merging()
    evaluate(model, batches)
    assert not model.transformer.drop.merged and model.training


class Wrapper(torch.nn.Module):
    """A model of which no more can be asked than all logits of some tokens."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, **kwargs):
        return self.model(input_ids, attention_mask=attention_mask, **kwargs)


def lora(model):
    wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2))
    for name, parameter in wrapped.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.5)
    return wrapped


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
@pytest.mark.parametrize("wrap", [Wrapper, lora])
def test_a_wrapped_model_counts_positions_without_the_padding(
    family, items, collate, wrap, architecture
):
    model = wrap(family(architecture).eval()).eval()
    inner = model if wrap is lora else family(architecture).eval()
    expected = [slow_nll(inner, *item) for item in items]
    assert_nll(model, collate(items, 6), expected)


def test_refusals(family, items, collate):
    (batch,) = collate(items, 6)
    with pytest.raises(ValueError, match="follows at least one prompt token"):
        evaluate(family(), [batch | {"answer_mask": torch.ones_like(batch["answer_mask"])}])
    with pytest.raises(ValueError, match="two items are number 0 .* by one call of `batches`"):
        evaluate(family(), [batch | {"index": torch.arange(6)}] * 2)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="learned prompt"):
        evaluate(get_peft_model(family(), prompt), [batch])
    spoiled = family()
    next(spoiled.parameters()).data[:] = float("nan")
    with pytest.raises(ValueError, match="NaN for item 0"):
        evaluate(spoiled, [batch])
