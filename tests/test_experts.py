import pytest
import torch

from actlib.experts import routed_outputs, sum_routed
from actlib.recording import record_differences


def routed(generator, tokens=7, experts=4, kept=2, outputs=3):
    """Random outputs of experts, sparse and dense."""
    chosen = torch.rand(tokens, experts, generator=generator).topk(kept).indices
    dense = torch.zeros(tokens, experts, outputs)
    for token in range(tokens):
        dense[token, chosen[token]] = torch.randn(kept, outputs, generator=generator)
    places = dense.abs().sum(-1).T.nonzero().T.flip(0)
    values = dense[*places]
    return torch.sparse_coo_tensor(places, values, dense.shape, check_invariants=True), dense


def test_a_token_of_one_model_only_counts_whole_in_the_difference():
    generator = torch.Generator().manual_seed(0)
    (ours, one), (theirs, other) = routed(generator), routed(generator)
    alone = (one != 0).any(-1) ^ (other != 0).any(-1)
    assert alone.any() and not alone.all()
    found = sum_routed(ours, theirs, moments=True)
    expected = (one - other).abs(), (one.abs() + other.abs()) / 2, one, one.square()
    for own, each in zip(found, expected, strict=True):
        torch.testing.assert_close(own, each.double().sum(0).flatten())


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_scores_do_not_depend_on_how_experts_are_run(pair, batches, name, implementation):
    expected = record_differences(*pair(name), batches)
    models = pair(name)
    for model in models:
        model.set_experts_implementation(implementation)
    found = record_differences(*models, batches)
    for module, values in found.values.items():
        torch.testing.assert_close(values, expected.values[module], rtol=1e-4, atol=1e-5)
        assert module != "model.layers.0.mlp.experts.down_proj" or (values > 0).any()


@torch.no_grad()
def test_outputs_are_kept_for_the_experts_chosen_alone(family):
    experts = family("mixtral").model.layers[0].mlp.experts
    hidden = torch.randn(5, experts.hidden_dim)
    chosen = torch.tensor([[0, 3], [3, 0], [1, 3], [0, 1], [3, 1]])
    found = routed_outputs(experts, hidden, chosen)
    assert list(found) == ["gate_up_proj", "down_proj"]
    for each in found.values():
        tokens, numbers = each.coalesce().indices()
        assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert numbers.tolist() == [0, 3, 0, 3, 1, 3, 0, 1, 1, 3]
    # An expert that is not there (numbers above the last one are of other processes) is left out.
    chosen[0, 1] = experts.num_experts
    assert len(routed_outputs(experts, hidden, chosen)["down_proj"].coalesce().values()) == 9


def test_experts_that_no_answer_token_reaches_score_zero(pair, collate, items):
    donor, target = pair("mixtral")
    for model in (donor, target):
        with torch.no_grad():  # The router now always prefers the first two.
            gate = model.model.layers[0].mlp.gate
            gate.forward = lambda hidden, gate=gate: always(gate, hidden)
    scores = record_differences(donor, target, collate(items))
    experts = target.model.layers[0].mlp.experts
    for own, width in (("gate_up_proj", 2 * experts.intermediate_dim), ("down_proj", 16)):
        values = scores.values[f"model.layers.0.mlp.experts.{own}"].view(-1, width)
        assert (values[:2] > 0).any(1).all() and (values[2:] == 0).all()


def always(gate, hidden):
    hidden = hidden.reshape(-1, gate.hidden_dim)
    weights = torch.full((len(hidden), 2), 0.5)
    return hidden @ gate.weight.T, weights, torch.arange(2).expand(len(hidden), 2)
