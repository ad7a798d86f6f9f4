"""Times by size: recording by tokens, width and depth; transfer by size of the checkpoint."""

from collections.abc import Mapping

import torch

from actlib.channels import channel_modules
from actlib.folders.checkpoints import transfer_checkpoint
from benchmarks import folders
from benchmarks.recording import recording_ways
from benchmarks.serving import Way
from benchmarks.shapes import llama, random_batches, random_pair
from benchmarks.side import Setting

TOKENS = (52, 104, 208, 416, 832, 1664, 3328)
WIDTHS = (64, 128, 256, 512, 768)
LAYERS = (2, 4, 8, 16, 32)
CHECKPOINT_LAYERS = (1, 2, 4, 8, 16)
BATCH = {"items": 16, "tokens": 52, "answer": 16}


def ways(case: str, setting: Setting) -> Mapping[str, Way]:
    """Every way at every size, named `WAY|SIZE`, for one of the axes."""
    return {
        "tokens": _by_tokens,
        "channels": _by_channels,
        "layers": _by_layers,
        "checkpoint": _by_checkpoint,
    }[case](setting)


def _by_tokens(setting: Setting) -> dict[str, Way]:
    """A batch of up to 16 items, whose number grows, so that attention's square stays out."""
    config = llama(2, 64, 128) if setting.quick else llama(8, 256, 8192)
    donor, target = random_pair(config, torch.float32)
    found = {}
    for tokens in _sizes(TOKENS, setting):
        items = tokens // BATCH["tokens"]
        shape = {"batches": -(-items // 16), "items": min(items, 16)}
        batches = random_batches(config, **{**BATCH, **shape})
        found |= _named(recording_ways(donor, target, batches), tokens)
    return found


def _by_channels(setting: Setting) -> dict[str, Way]:
    found = {}
    for width in _sizes(WIDTHS, setting):
        config = llama(4, width, vocabulary=8 * width)
        donor, target = random_pair(config, torch.float32)
        channels = sum(each.channels for each in channel_modules(target).values())
        batches = random_batches(config, batches=1, **BATCH)
        found |= _named(recording_ways(donor, target, batches), channels)
    return found


def _by_layers(setting: Setting) -> dict[str, Way]:
    found = {}
    for layers in _sizes(LAYERS, setting):
        config = llama(layers, 64 if setting.quick else 256, vocabulary=512)
        donor, target = random_pair(config, torch.float32)
        batches = random_batches(config, batches=1, **BATCH)
        found |= _named(recording_ways(donor, target, batches), layers)
    return found


def _by_checkpoint(setting: Setting) -> dict[str, Way]:
    found = {}
    out = setting.scratch / "out"
    for layers in _sizes(CHECKPOINT_LAYERS, setting):
        width, vocabulary = (64, 128) if setting.quick else (2048, 8000)
        config = llama(layers, width, vocabulary)
        donor, target, mask = folders.made_pair(setting.scratch / "growth", config, shards=2)

        def transfer(target=target, donor=donor, mask=mask) -> None:
            transfer_checkpoint(target, donor, mask, out)

        def prepare(target=target, donor=donor) -> None:
            folders.remove(out)
            folders.warm(donor, target)

        megabytes = f"{folders.size_of(target) / 1e6:.4g}"
        found[f"transfer_checkpoint|{megabytes}"] = Way(
            transfer, prepare, lambda: folders.remove(out)
        )
    return found


def _sizes(sizes: tuple[int, ...], setting: Setting) -> tuple[int, ...]:
    return sizes[:3] if setting.quick else sizes


def _named(found: Mapping[str, Way], size: int) -> dict[str, Way]:
    return {f"{name}|{size}": way for name, way in found.items()}
