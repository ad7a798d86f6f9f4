"""Scores to mask at the channel count of Qwen2.5-7B, beside one torch.topk over the same values."""

from collections.abc import Mapping

import torch
from torch import Tensor

from actlib.scores import ChannelScores
from actlib.topk import channel_count
from benchmarks.serving import Way
from benchmarks.shapes import channel_layout, qwen_7b, tiny
from benchmarks.side import Setting

PERCENT = 5.0


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Our mask by the ranking that the case names, and torch's choice of as many values.

    Scores are log-normal, which has a heavy tail as recorded ones do; torch gets the ranked values
    as one tensor, made beforehand.
    """
    scores = heavy_tailed(channel_layout(tiny() if setting.quick else qwen_7b()))
    flat = torch.cat(list(scores.ranked(case).values()))
    count = channel_count(PERCENT, flat.numel())

    def top() -> dict[str, float]:
        scores.top(PERCENT, case)
        return {"channels": flat.numel()}

    def topk() -> None:
        torch.topk(flat, count)

    return {"top": Way(top), "torch.topk": Way(topk)}


def heavy_tailed(layout: Mapping[str, int]) -> ChannelScores:
    """Random scores of a layout (module name to channels), with a reference attached."""
    generator = torch.Generator().manual_seed(0)

    def drawn(unit: float) -> dict[str, Tensor]:
        return {
            name: torch.empty(size).log_normal_(0, unit, generator=generator)
            for name, size in layout.items()
        }

    scores, off = (
        ChannelScores(drawn(1.0), drawn(0.5), 1000, means=drawn(0.5), stds=drawn(1.0))
        for _ in range(2)
    )
    return scores.relative_to(off)
