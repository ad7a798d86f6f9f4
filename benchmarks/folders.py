"""Model folders of random weights, made once in a scratch folder, and what of them is cached.

donor, target = made_pair(scratch, llama(layers=17, width=2048), shards=4)
"""

import ctypes
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from actlib.channels import channel_modules
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from benchmarks.shapes import llama, tiny

_BLOCK = 1 << 22  # random numbers that tensors are cut from, over and over


def two_gigabytes(quick: bool) -> PretrainedConfig:
    """A Llama of 1.0 billion parameters, 2.0 GB in bfloat16; with `quick` a tiny one."""
    return tiny() if quick else llama(layers=17, width=2048)


def made_pair(
    scratch: Path, config: PretrainedConfig, shards: int = 4
) -> tuple[Path, Path, ChannelMask]:
    """Donor's and target's folder, made where they are missing, and a mask of p = 5 %.

    The mask's channels are drawn evenly over all modules, embedding and LM head among them: the
    scattered case, where every tensor has something to move.
    """
    name = f"{config.num_hidden_layers}-layers-{config.hidden_size}-wide-{shards}-shards"
    folders = [scratch / name / role for role in ("donor", "target")]
    for seed, folder in enumerate(folders):
        if not folder.is_dir():
            _make(folder, config, shards, seed)
    with torch.device("meta"):
        found = channel_modules(AutoModelForCausalLM.from_config(config))
    generator = torch.Generator().manual_seed(0)
    drawn = {key: torch.rand(each.channels, generator=generator) for key, each in found.items()}
    return *folders, ChannelScores(drawn, drawn, tokens=1).top(5.0)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    """Delete a folder where there is one, before its bytes go to the disk."""
    shutil.rmtree(folder, ignore_errors=True)


def warm(*folders: Path) -> None:
    """Read files into the page cache, unless they are there."""
    for path in _files(folders):
        if cached_share(path) < 0.999:
            with path.open("rb") as stream:
                while stream.read(1 << 24):
                    pass


def cool(*folders: Path) -> float:
    """Ask the system to drop the files from the page cache; the largest share that stays."""
    os.sync()
    for path in _files(folders):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return max(map(cached_share, _files(folders)), default=0.0)


def cached_share(path: Path) -> float:
    """Share of a file's pages in the page cache, by mincore(2)."""
    size = path.stat().st_size
    if not size:
        return 1.0
    pages = -(-size // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), size, mmap.MAP_PRIVATE) as view:
        place = ctypes.c_char.from_buffer(view)
        failed = libc.mincore(ctypes.byref(place), ctypes.c_size_t(size), states)
        del place  # The map cannot close while something points into it.
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore failed for {path}")
    return sum(state & 1 for state in bytes(states)) / pages


def _files(folders: tuple[Path, ...]) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.safetensors"))


def _make(folder: Path, config: PretrainedConfig, shards: int, seed: int) -> None:
    partial = folder.with_name(f".{folder.name}")
    remove(partial)
    partial.mkdir(parents=True)
    config.dtype, config.architectures = torch.bfloat16, ["LlamaForCausalLM"]
    config.save_pretrained(partial)
    _tokenizer(config.vocab_size).save_pretrained(partial)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    sizes = {name: tensor.numel() * 2 for name, tensor in state.items()}
    total, weight_map, done = sum(sizes.values()), {}, 0
    for name, size in sizes.items():
        place = min(shards - 1, done * shards // total) + 1
        weight_map[name] = f"model-{place:05d}-of-{shards:05d}.safetensors"
        done += size
    for file in sorted(set(weight_map.values())):
        names = [name for name in state if weight_map[name] == file]
        drawn = _drawn({name: tuple(state[name].shape) for name in names}, seed)
        save_file(dict(drawn), partial / file, {"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    partial.replace(folder)


def _drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Random tensors; all cut from one block, since drawing each number would take minutes."""
    generator = torch.Generator().manual_seed(seed)
    block = (torch.randn(_BLOCK, generator=generator) * 0.02).to(torch.bfloat16)
    for name, shape in shapes.items():
        whole = torch.Size(shape).numel()
        shift = int(torch.randint(_BLOCK, (1,), generator=generator))
        yield name, block.roll(shift).repeat(-(-whole // _BLOCK))[:whole].view(shape)


def _tokenizer(words: int) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({f"w{word}": word for word in range(words)}, "w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w1", pad_token="w2")
