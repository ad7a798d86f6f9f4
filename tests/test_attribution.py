"""Attributions: beside a reference that keeps everything, complete, and harmless to both models."""

import copy

import accelerate
import pytest
import torch
from causal_families import build
from slow_reference import moving_elements
from tiny_models import VOCAB, random_mask, same_bits, tiny_model, unchanged
from torch import nn

from actlib.attribution import place_points, record_attributions, sum_attributions
from actlib.channels import channel_modules
from actlib.evaluation import evaluate
from actlib.interventions import ablated
from actlib.masks import ChannelMask
from actlib.recording import record_differences
from actlib.scores import pool

TWO_POINTS = [(0.5 - 12**-0.5, 0.5), (0.5 + 12**-0.5, 0.5)]  # of Gauss and Legendre, with weights


def slow_attributions(donor, target, items, nodes):
    """Gradients of every parameter at every point and item, then gathered channel by channel."""
    moving, path = moving_elements(target, random_mask(target, share=1.1)), copy.deepcopy(target)
    starts, stops = (dict(model.named_parameters()) for model in (target, donor))
    parameters = dict(path.named_parameters())
    steps = {n: (stops[n] - starts[n]).detach() * moving[n] for n in parameters}
    totals = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    tokens = 0
    for lam, weight in nodes:
        for name, parameter in parameters.items():
            parameter.data = starts[name].detach() + lam * steps[name]
        tokens = 0
        for ids, answer in items:
            logs = path(ids[None]).logits[0].double().log_softmax(-1)
            places = answer.nonzero().flatten()
            loss = -sum(logs[place - 1, ids[place]] for place in places)
            gradients = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    totals[name] -= weight * gradient.double() * steps[name].double()
            tokens += len(places)
    expected = {}
    for module, found in channel_modules(target).items():
        expected[module] = torch.zeros(found.channels, dtype=torch.float64)
        for channel in range(found.channels):
            alone = ChannelMask({module: torch.arange(found.channels) == channel})
            elements = moving_elements(target, alone)
            chosen = [totals[name][elements[name]] for name in totals if elements[name].any()]
            expected[module][channel] = torch.cat(chosen).sum() / tokens
    return expected


def mean_nll(model, batches):
    table = evaluate(model, batches)
    return table["nll_sum"].sum() / table["tokens"].sum()


@pytest.fixture(scope="module")
def trained():
    """Donor, target, batches of what only the donor learned, and of what both know."""
    generator = torch.Generator().manual_seed(0)
    both, lost = (torch.randint(3, VOCAB, (4, 8), generator=generator) for _ in range(2))
    whole = torch.ones_like(both)
    answers = torch.arange(8).ge(4).expand(4, 8)
    known, new = (
        [{"input_ids": ids, "attention_mask": whole, "answer_mask": answers}]
        for ids in (both, lost)
    )
    models = [copy.deepcopy(tiny_model("llama_tied", 0))]
    for texts, steps in ((both, 150), (torch.cat([both, lost]), 150)):
        model = copy.deepcopy(models[-1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            model(texts, labels=texts).loss.backward()
            optimizer.step()
        models.append(model)
    _, target, donor = models
    return donor, target, new, known


def test_attributions_are_those_of_everything_stored(pair, any_architecture, items, collate):
    donor, target = pair(any_architecture)
    found = record_attributions(donor, target, collate(items, 4), points=2)
    expected = slow_attributions(donor, target, items, TWO_POINTS)
    assert found.values.keys() == expected.keys() == channel_modules(target).keys()
    for name, values in expected.items():
        torch.testing.assert_close(found.values[name].double(), values, rtol=1e-3, atol=1e-4)
        elements = random_mask(target, share=1.1).channels[name]
        one = moving_elements(target, ChannelMask({name: torch.arange(len(elements)) == 0}))
        unique = dict(target.named_parameters())
        assert found.sizes[name] == sum(int(one[key].sum()) for key in unique)
    assert record_differences(donor, target, collate(items, 4)).sizes == found.sizes
    assert found.tokens == sum(int(answer.sum()) for _, answer in items)


@pytest.mark.parametrize(("points", "error"), [(5, 0.05), (20, 0.01)])
def test_attributions_add_up_to_what_moving_all_channels_brings(trained, points, error):
    donor, target, lost, known = trained
    gap = mean_nll(target, lost) - mean_nll(donor, lost)
    assert gap > 1
    found = sum_attributions(record_attributions(donor, target, lost, points=points), target)
    assert found == pytest.approx(gap, rel=error)
    first = sum_attributions(record_attributions(donor, target, lost, points=0), target)
    assert first != pytest.approx(gap, rel=0.2) and place_points(0) == [(0.0, 1.0)]


def test_tied_elements_count_for_both_channels_and_once_in_the_sum(pair, batches):
    donor, target = pair("gpt2")
    found = record_attributions(donor, target, batches, points=2)
    embedding = next(n for n, role in found.roles.items() if role == "embedding")
    columns, rows = found.values[embedding].sum(), found.values["lm_head"].sum()
    assert rows.abs() > 0.01
    torch.testing.assert_close(columns, rows, rtol=1e-4, atol=1e-5)
    whole = sum(float(part.double().sum()) for part in found.values.values())
    assert sum_attributions(found, target) == pytest.approx(whole - float(columns), rel=1e-6)


def test_a_bias_beside_a_tied_head_counts_whichever_module_comes_first(batches):
    donor, target = (build("camembert", seed) for seed in (1, 0))  # whose head comes first
    for model in (donor, target):
        nn.init.normal_(model.lm_head.decoder.bias)
    gap = mean_nll(target, batches) - mean_nll(donor, batches)
    found = sum_attributions(record_attributions(donor, target, batches, points=9), target)
    assert found == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize("fails", [False, True])
def test_neither_model_is_changed_not_even_by_a_failure_halfway(pair, batches, fails):
    models = pair("llama_tied", torch.bfloat16)
    for model in models:
        model.train().model.layers[0].eval()
        model.lm_head.weight.requires_grad_(False)
        model.model.norm.weight.grad = torch.ones_like(model.model.norm.weight)
    if fails:  # the second batch holds a token that the model does not know
        batches[1]["input_ids"][0, -1] = VOCAB
        refused = pytest.raises(ValueError, match=f"token {VOCAB}")
        with unchanged(*models), torch.no_grad(), refused:
            record_attributions(*models, batches)
    else:
        with unchanged(*models), torch.inference_mode():
            record_attributions(*models, batches)


def test_autocasts_cache_changes_nothing(pair, batches):
    found = []
    for is_cached in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=is_cached):
            found.append(record_attributions(*pair("llama"), batches).values)
    assert same_bits(*found)


def test_a_model_that_accelerate_dispatched_is_copied_too(pair, batches):
    donor, target = pair("llama")
    expected = record_attributions(donor, target, batches)
    accelerate.dispatch_model(target, {"": "cpu"}, force_hooks=True)
    with unchanged(target):
        assert same_bits(record_attributions(donor, target, batches).values, expected.values)


def test_parameters_that_no_gradient_reaches_are_named_and_score_0(pair, batches):
    donor, target = pair("llama")
    expected = record_attributions(donor, target, batches, points=1)
    for model in (donor, target):  # before all others, and after them
        model.model.spare, model.spare = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.warns(UserWarning, match="no gradient reaches .*spare.weight.*, whose channels"):
        found = record_attributions(donor, target, batches, points=1).values
    assert not found["spare"].any() and found.keys() - expected.values.keys()
    assert all(torch.equal(found[name], values) for name, values in expected.values.items())
    target.model.layers[1].mlp.register_forward_hook(lambda _module, _args, output: output.detach())
    with pytest.warns(UserWarning, match=r"mlp.gate_proj.weight.* torch.no_grad\(\) or detach\(\)"):
        record_attributions(donor, target, batches, points=1)


def test_batches_and_pools_weigh_every_answer_token_alike(pair, items, collate):
    donor, target = pair("qwen2")
    whole = record_attributions(donor, target, collate(items, 6, "right"))
    parts = [
        record_attributions(donor, target, collate(each, 2)) for each in (items[:4], items[4:])
    ]
    assert parts[0].tokens != parts[1].tokens
    pooled = pool(parts)
    assert pooled.kind == whole.kind == "attributions" and pooled.sizes == whole.sizes
    assert pooled.tokens == whole.tokens
    torch.testing.assert_close(pooled.values, whole.values, rtol=1e-4, atol=1e-6)
    assert pooled.top(5, "attribution_by_size").digest == whole.top(5, "attribution_by_size").digest


def test_bfloat16_is_near_float32(trained):
    donor, target, lost, _ = trained
    wide = record_attributions(donor, target, lost)
    narrow = record_attributions(*(copy.deepcopy(m).bfloat16() for m in (donor, target)), lost)
    assert narrow.metadata["dtype"] == "bfloat16"
    ours, theirs = (torch.cat([*each.values.values()]) for each in (wide, narrow))
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.99


def test_retained_abilities_are_added_by_their_weight(trained):
    donor, target, lost, known = trained
    ours, theirs = (record_attributions(donor, target, each) for each in (lost, known))
    both = ours.with_retention(theirs, 0.5)
    for name, values in both.values.items():
        assert torch.equal(values, ours.values[name] + 0.5 * theirs.values[name])
    assert both.metadata["alpha"] == "0.5"
    assert both.metadata["retained"] == theirs.metadata["data_hash"]
    with pytest.raises(ValueError, match="before a retained ability is added"):
        pool([both, both])


def test_rankings_by_value_and_by_size(pair, batches):
    donor, target = pair("gpt2")
    found = record_attributions(donor, target, batches, metadata={"ability": "fr"})
    assert found.metadata["method"] == "attribution" and found.metadata["ability"] == "fr"
    assert found.ranked("attribution") == found.values
    for name, values in found.ranked("attribution_absolute").items():
        assert torch.equal(values, found.values[name].abs())
    for ranking, power in {"attribution_by_size": 0.5, "attribution_per_parameter": 1}.items():
        for name, values in found.ranked(ranking).items():
            torch.testing.assert_close(values * found.sizes[name] ** power, found.values[name])


def test_attributions_and_differences_are_not_confused(pair, batches):
    donor, target = pair("llama")
    ours = record_attributions(donor, target, batches, points=1)
    other = record_differences(donor, target, batches)
    with pytest.raises(ValueError, match='"global" orders differences, .* by one of attribution,'):
        ours.top(5)
    with pytest.raises(ValueError, match='"attribution" orders attributions, .* one of global'):
        other.top(5, "attribution")
    with pytest.raises(ValueError, match="with_retention takes attributions alone"):
        ours.with_retention(other)
    with pytest.raises(ValueError, match="attributions pool with attributions alone"):
        pool([other, ours])


def test_what_cannot_be_attributed_is_refused(pair, batches):
    donor, target = pair("llama")
    with ablated(target, random_mask(target), "resample"):
        with pytest.raises(ValueError, match='within a resampling ablation.*by "mean" or "zero"'):
            record_attributions(donor, target, batches)
    with ablated(target, random_mask(target), "zero"):
        assert record_attributions(donor, target, batches, points=0).tokens
    with pytest.raises(ValueError, match="points must be at least 1.* got -1"):
        record_attributions(donor, target, batches, points=-1)
    with torch.no_grad():
        donor.model.norm.weight[3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite.*actlib check"):
        record_attributions(donor, target, batches)
