"""Sizes far above the study's: channels, examples, vocabulary; time and memory, and how they grow.

The masks and scores have the shape of models that are never run, and the models that are run are
tiny: what is measured is what this package does around them.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from actlib.evaluation import evaluate
from actlib.localize import record_differences
from actlib.masks import ChannelMask, random_like
from actlib.prompts import batches
from actlib.questions import load_questions
from actlib.scores import ChannelScores
from actlib.topk import channel_count
from benchmarks.rankings import PERCENT, heavy_tailed
from benchmarks.serving import Way
from benchmarks.shapes import channel_layout, llama, random_batches, random_pair
from benchmarks.side import Setting

MASKED = (100_000, 1_000_000, 10_000_000)
LAYERS = (20, 40, 80)
EXAMPLES = (6_250, 25_000, 100_000)
VOCABULARIES = (16_000, 64_000, 256_000)
MODULE = 10_000  # channels of each module of a made mask
BATCH = 128
# Beside ours, what it cannot do without: how that grows with the size, caches and all.
PERMUTED, CHOSEN = "torch.randperm alone", "three torch.topk alone"


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Every way at every size, named `WAY|SIZE`, for one kind of load; made when its turn comes."""
    torch.set_num_threads(1)  # more would only wait for each other in models so small
    make, sizes, quick = {
        "mask": (_mask, MASKED, (1_000, 2_000, 4_000)),
        "scores": (_scores, LAYERS, (1, 2, 4)),
        "examples": (_examples, EXAMPLES, (8, 16, 32)),
        "vocabulary": (_vocabulary, VOCABULARIES, (128, 256, 512)),
    }[case]
    found = {}
    for size in quick if setting.quick else sizes:
        found |= make(size, setting)
    return found


def llama_70b(layers: int = 80) -> LlamaConfig:
    """Llama-3-70B, with as many layers as asked for."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )


class _Held:
    """What a way works on: made before its run, let go of after it, so that sizes do not add up."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self.value = make, None

    def way(self, run: Callable[[Any], object]) -> Way:
        def before() -> None:
            self.value = self._make()

        def after() -> None:
            self.value = None

        def measured() -> None:
            run(self.value)

        return Way(measured, before, after)


def _mask(size: int, setting: Setting) -> dict[str, Way]:
    path = setting.scratch / "load-mask.safetensors"

    def made() -> list[ChannelMask]:
        return [made_mask(size, seed) for seed in (0, 1)]

    def combine(masks: list[ChannelMask]) -> None:
        one, other = masks
        (one | other).digest, one.jaccard(other), (one - other).percent

    def draw(masks: list[ChannelMask]) -> None:
        random_like(masks[0], 0), random_like(masks[0], 0, per_module=False)

    def keep(masks: list[ChannelMask]) -> None:
        masks[0].save(path)
        ChannelMask.load(path)

    runs = {"combine, compare, hash": combine, "two random controls": draw, "save, load": keep}
    runs[PERMUTED] = lambda masks: torch.randperm(masks[0].total)
    return {f"{name}|{size}": _Held(made).way(run) for name, run in runs.items()}


def made_mask(channels: int, seed: int) -> ChannelMask:
    """A random mask over modules of one size."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.rand(channels, generator=generator).lt(PERCENT / 100).split(MODULE)
    return ChannelMask({f"model.layers.{n}.made": part.clone() for n, part in enumerate(parts)})


def _scores(layers: int, setting: Setting) -> dict[str, Way]:
    layout = channel_layout(llama(layers, 64, 128) if setting.quick else llama_70b(layers))
    path, channels = setting.scratch / "load-scores.safetensors", sum(layout.values())

    def keep(scores: ChannelScores) -> None:
        scores.save(path)
        ChannelScores.load(path)

    def rank(scores: ChannelScores) -> None:
        scores.top(PERCENT), scores.top(PERCENT, "scaled"), scores.top(PERCENT, "contrast")

    def choose(values: torch.Tensor) -> None:
        for _ in range(3):
            torch.topk(values, channel_count(PERCENT, len(values)), sorted=False)

    held = partial(heavy_tailed, layout)
    runs = {"save, load": keep, "three rankings to masks": rank}
    found = {f"{name}|{channels}": _Held(held).way(run) for name, run in runs.items()}
    flat = _Held(lambda: torch.cat(list(held().values.values())))
    return found | {f"{CHOSEN}|{channels}": flat.way(choose)}


def _examples(size: int, setting: Setting) -> dict[str, Way]:
    path, tokenizer = setting.scratch / f"load-{size}.jsonl", letters()
    pair = random_pair(llama(1, 8, len(tokenizer)), torch.float32)
    write_examples(path, size)

    def rows() -> list[dict[str, Any]]:
        return load_questions(path)

    def cut() -> list[dict[str, torch.Tensor]]:
        return batches(tokenizer, rows(), BATCH)

    return {
        f"load|{size}": Way(lambda: len(load_questions(path)) and None),
        f"tokenize, batch|{size}": _Held(rows).way(lambda rows: batches(tokenizer, rows, BATCH)),
        f"record|{size}": _Held(cut).way(lambda made: record_differences(*pair, made)),
    }


def write_examples(path: Path, size: int) -> None:
    """A user's file of so many questions, none like another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for n in range(size):
            row = {"question": f"What is {n} plus {n % 97}?", "answer": str(n + n % 97)}
            stream.write(json.dumps({**row, "ability": "en-maths"}) + "\n")


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of one token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(dict(zip(["<end>", *alphabet], range(257), strict=True)), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def _vocabulary(size: int, setting: Setting) -> dict[str, Way]:
    config = llama(2, 64, size)

    def made() -> tuple:
        (batch,) = random_batches(config, batches=1, items=16, tokens=52, answer=16)
        places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        judged = {**batch, "position_ids": places, "index": torch.arange(16)}
        return (*random_pair(config, torch.float32), [judged])

    runs = {
        "record": lambda given: record_differences(*given),
        "judge": lambda given: evaluate(given[0], given[2]),
    }
    return {f"{name}|{size}": _Held(made).way(run) for name, run in runs.items()}
