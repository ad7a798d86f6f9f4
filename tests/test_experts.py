import pytest
import torch

from actlib.experts import routed_outputs
from actlib.recording import record_differences


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
