"""Judging by one forward pass agrees with decoding, and with likelihoods computed at length."""

import pytest
import torch
from small_study import random_items

from actlib.evaluate import answer_scores, evaluate
from actlib.hooks import position_ids_of
from actlib.prompts import Encoded, pad_left


@pytest.fixture
def complete(collate):
    """`complete(items, size, side)`: batches with position ids and item numbers."""

    def make(items, size, side="left"):
        batches, first = collate(items, size, side), 0
        for batch in batches:
            batch["position_ids"] = position_ids_of(batch["attention_mask"])
            batch["index"] = torch.arange(first, first := first + len(batch["input_ids"]))
        return batches

    return make


@torch.no_grad()
def slow_nll(model, ids, answer):
    """Mean over answer tokens of -log p, one item alone, from all logits."""
    likelihood = model(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1)
    losses = [-likelihood[n - 1, ids[n]] for n in range(len(ids)) if answer[n]]
    return float(torch.stack(losses).mean())


def test_nll_is_the_reference_of_full_logits(family, architecture, items, complete):
    model = family(architecture)
    expected = torch.tensor([slow_nll(model, *item) for item in items])
    for size in (1, 2, 6):
        for side in ("left", "right"):
            found = torch.tensor(evaluate(model, complete(items, size, side))["nll"].to_numpy())
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_exact_match_is_what_greedy_decoding_writes(family, architecture):
    model, exact = family(architecture), []
    model.generation_config.eos_token_id = None
    encoded = []
    for number, prompt in enumerate(random_items(12, low=3, high=8)):
        length = 2 + number % 4
        written = model.generate(
            input_ids=prompt[None],
            attention_mask=torch.ones_like(prompt)[None],
            do_sample=False,
            max_new_tokens=length,
        )[0]
        wanted = written.clone()
        if number % 3 == 0:  # one token is another, anywhere in the answer
            wanted[-1 - number % length] = (wanted[-1 - number % length] + 1) % 60
        exact.append(bool(wanted.equal(written)))
        mask = [False] * len(prompt) + [True] * length
        encoded.append(Encoded(wanted.tolist(), mask))
    _, found = answer_scores(model, pad_left(encoded, 2))
    assert found.tolist() == exact
    assert 0 < sum(exact) < len(exact)


def test_rows_follow_the_items_whatever_the_order_of_the_batches(family, items, complete):
    batches = complete(items, 2)
    first, second = evaluate(family(), batches), evaluate(family(), batches[::-1])
    assert first["item"].tolist() == list(range(len(items)))
    assert first.equals(second)


def test_tokens_of_the_prompt_are_not_judged(family, items, complete):
    model = family()
    ids, answer = items[0]
    longer = answer.clone()
    longer[int(answer.int().argmax()) - 1] = True
    short, long = (evaluate(model, complete([(ids, mask)], 1)) for mask in (answer, longer))
    assert short["nll"][0] == pytest.approx(slow_nll(model, ids, answer), abs=1e-5)
    assert long["nll"][0] == pytest.approx(slow_nll(model, ids, longer), abs=1e-5)
    assert abs(short["nll"][0] - long["nll"][0]) > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_stays_even_after_an_error(family, items, complete, training):
    model = family("gpt2").train(training)  # has dropout
    once, twice = (evaluate(model, complete(items, 3)) for _ in range(2))
    assert once.equals(twice)
    assert model.training is training
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate(model, [])
    assert model.training is training


@pytest.mark.parametrize("mark", [0, 1])
def test_an_answer_needs_tokens_and_a_prompt(family, items, complete, mark):
    (batch,) = complete(items[:1], 1)
    batch["answer_mask"] = torch.full_like(batch["answer_mask"], bool(mark))
    with pytest.raises(ValueError, match="answer span"):
        evaluate(family(), [batch])


class Plain(torch.nn.Module):
    """A model of which no more can be asked than all logits of some tokens."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        positions = position_ids_of(attention_mask)
        return self.model(input_ids, attention_mask=attention_mask, position_ids=positions)


def test_a_model_that_takes_neither_positions_nor_fewer_logits_is_judged_the_same(
    family, items, complete
):
    model = family("gpt2")
    for batch in complete(items, 3):
        expected, found = answer_scores(model, batch), answer_scores(Plain(model), batch)
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
