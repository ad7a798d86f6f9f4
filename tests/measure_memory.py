"""Run by test_checkpoint_memory: prints the peak memory of one transfer and one merge as JSON.

What is counted is anonymous memory of the whole process (RssAnon), imports included, read every
2 ms. Resident pages of files are left out: nearly all of them are the code of torch, of which more
or fewer are resident from run to run (by 100 MB), and the kernel takes them back when it needs
memory. The weight files are read and written by system calls and never mapped, so none of their
pages would be in it anyway.
"""

import json
import shutil
import sys
import threading
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from actlib.channels import channel_modules
from actlib.folders.checkpoints import transfer_checkpoint
from actlib.folders.folders import empty_model
from actlib.folders.merging import merge_checkpoint
from actlib.masks import ChannelMask


def write_model(folder: Path, layers: int, shards: int = 4) -> tuple[int, int]:
    """A checkpoint of constants; bytes of the whole and of its largest tensor."""
    config = transformers.LlamaConfig(
        vocab_size=8000,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=8,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    parameters = dict(empty_model(folder).named_parameters())
    names, weight_map = list(parameters), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        own = names[shard::shards]
        save_file(
            {n: torch.full(parameters[n].shape, 0.5, dtype=torch.bfloat16) for n in own},
            folder / file,
        )
        weight_map |= dict.fromkeys(own, file)
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sizes = [2 * parameter.numel() for parameter in parameters.values()]
    return sum(sizes), max(sizes)


def peak_of(step) -> int:
    """Anonymous bytes resident at most during a step."""
    found, done = [anonymous()], threading.Event()

    def watch():
        while not done.wait(0.002):
            found.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        step()
    finally:  # or the process would wait for the watcher for ever
        done.set()
        watcher.join()
    return max(found)


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measured(folder: Path, outputs: Path) -> dict[str, int]:
    """Peaks of a transfer and a merge with every channel in the mask."""
    donor = shutil.copytree(folder, outputs / "donor")
    modules = channel_modules(empty_model(folder)).items()
    mask = ChannelMask({name: torch.ones(m.channels, dtype=torch.bool) for name, m in modules})
    given = [(donor, mask, 0.4), (donor, mask, 0.7)]
    return {
        "imports": peak_of(lambda: None),
        "transfer": peak_of(lambda: transfer_checkpoint(folder, donor, mask, outputs / "a")),
        "merge": peak_of(lambda: merge_checkpoint(folder, given, outputs / "b", "largest")),
    }


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), Path(sys.argv[2]))))
