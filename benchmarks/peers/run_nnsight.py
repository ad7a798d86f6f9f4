"""The same scores by nnsight: trace both models, save answer tokens, subtract.

Run in nnsight's own environment by `python -m benchmarks recording-nnsight`.
"""

import argparse

import nnsight
import torch
from transformers import PretrainedConfig

from benchmarks.machine import named_versions
from benchmarks.serving import Way, serve
from benchmarks.shapes import ANSWER, random_pair, smol, study_batches, tiny

LAYER = (
    "input_layernorm",
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    "post_attention_layernorm",
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
"""Modules with channels in the order in which a Llama layer runs them; nnsight needs that order."""


def ways(dtype: torch.dtype, quick: bool) -> dict[str, Way]:
    """Trace the donor, then the target, and subtract what was saved of each module."""
    config = tiny() if quick else smol()
    models = [nnsight.NNsight(model) for model in random_pair(config, dtype)]
    names, batches = _names(config), study_batches(config, quick)

    def subtract() -> dict[str, float]:
        sums: dict[str, torch.Tensor] = {}
        for batch in batches:
            donor, target = (_saved(model, names, batch) for model in models)
            for name in names:
                difference = (donor[name].float() - target[name].float()).abs()
                sums[name] = sums.get(name, 0) + difference.flatten(0, 1).sum(dim=0)
        return {"total_difference": sum(found.double().sum().item() for found in sums.values())}

    return {"trace and subtract": Way(subtract)}


def _saved(model: nnsight.NNsight, names: list[str], batch: dict) -> dict[str, torch.Tensor]:
    envoys = {name: model.get(name) for name in names}
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad(), model.trace(**inputs, use_cache=False, logits_to_keep=ANSWER):
        found = nnsight.save({})
        for name, envoy in envoys.items():
            found[name] = envoy.output[:, -ANSWER:]
    return found


def _names(config: PretrainedConfig) -> list[str]:
    layers = range(config.num_hidden_layers)
    inner = [f"model.layers.{layer}.{part}" for layer in layers for part in LAYER]
    return ["model.embed_tokens", *inner, "model.norm", "lm_head"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    serve(
        lambda: ways(getattr(torch, given.case), given.quick),
        lambda: {"peer": named_versions("nnsight", "torch", "transformers")},
    )
