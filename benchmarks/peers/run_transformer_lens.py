"""The same scores by TransformerLens: cache both models on answer tokens, subtract.

Run in TransformerLens's own environment by `python -m benchmarks recording-transformer-lens`.
"""

import argparse
import re
import tempfile
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.machine import named_versions
from benchmarks.serving import Way, serve
from benchmarks.shapes import ANSWER, random_pair, smol, study_batches, tiny

ANSWERS = slice(-ANSWER, None)
"""All answers end their left-padded items, so that one slice holds every answer token."""

CHANNELS = re.compile(
    r"(embed|ln_final|unembed|blocks\.\d+\.(ln[12]|attn\.[qkvo]|mlp\.(gate|in|out)))\.hook_out"
)
"""Hook points that are the outputs of modules with channels."""


def ways(dtype: torch.dtype, quick: bool) -> dict[str, Way]:
    """Cache every hook point, as by default; and only those of the channels that we record."""
    config = tiny() if quick else smol()
    bridges = [_bridge(model, config.vocab_size, dtype) for model in random_pair(config, dtype)]
    batches = study_batches(config, quick)

    def subtract(kept: Callable[[str], object] | None) -> dict[str, float]:
        sums: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for batch in batches:
                caches = [_cached(bridge, batch, kept) for bridge in bridges]
                for name in caches[0]:
                    donor, target = (cache[name].float() for cache in caches)
                    difference = (donor - target).abs().flatten(0, 1).sum(dim=0)
                    sums[name] = sums.get(name, 0) + difference
        return {"total_difference": sum(found.double().sum().item() for found in sums.values())}

    return {
        "cache all, subtract": Way(lambda: subtract(None)),
        "cache the same channels, subtract": Way(lambda: subtract(CHANNELS.fullmatch)),
    }


def _cached(bridge: TransformerBridge, batch: dict, kept: Callable | None) -> dict:
    _, cache = bridge.run_with_cache(
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        names_filter=kept,
        pos_slice=ANSWERS,
        return_cache_object=False,
    )
    floats = {name: found for name, found in cache.items() if isinstance(found, torch.Tensor)}
    return {name: found for name, found in floats.items() if found.is_floating_point()}


def _bridge(model: PreTrainedModel, words: int, dtype: torch.dtype) -> TransformerBridge:
    """Boot from a folder, as from the Hub; random weights and a tokenizer of as many words."""
    tokenizer = Tokenizer(models.WordLevel({f"w{word}": word for word in range(words)}, "w0"))
    marks = {"bos_token": "w1", "eos_token": "w1", "pad_token": "w2"}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=dtype)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    serve(
        lambda: ways(getattr(torch, given.case), given.quick),
        lambda: {"peer": named_versions("transformer-lens", "torch", "transformers")},
    )
