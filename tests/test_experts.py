import pytest
import torch

from actlib.recording import record_differences


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_scores_do_not_depend_on_how_experts_are_run(pair, batches, implementation):
    expected = record_differences(*pair("qwen3_moe"), batches)
    models = pair("qwen3_moe")
    for model in models:
        model.set_experts_implementation(implementation)
    found = record_differences(*models, batches)
    for module, values in found.values.items():
        torch.testing.assert_close(values, expected.values[module], rtol=1e-4, atol=1e-5)
        assert module != "model.layers.0.mlp.experts.down_proj" or (values > 0).any()
