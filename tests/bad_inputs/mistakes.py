"""What a user can get wrong: how the files of a good folder are spoiled, what is asked for then,
and what the sentence must name: the file or option, the value, and the remedy.

The folder that each case starts from has `donor`, `target` and `base` (tiny Llama models with a
tokenizer), `own.jsonl`, `scores`, `mask`, `patch` and `pair.yaml`.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from actlib.channels import channel_modules
from actlib.files import save_tensors
from actlib.masks import ChannelMask
from actlib.patches import apply_patch
from actlib.scores import ChannelScores
from actlib.stored import INDEX, SINGLE

DONOR = Path("donor", SINGLE)
TRANSFER = "transfer --target target --donor donor --mask mask --out out"
RECORD = "record --donor donor --target target --questions own.jsonl --out new --dtype float32"
MASK = "mask scores --percent 5 --out new"
MAKE = "patch make --target target --donor donor --mask mask --out new"
APPLY = "patch apply patch --target target --out out"
MERGE = "merge --base base --give donor mask 0.4 --out out"
RUN = "run pair.yaml --notebooks 01"


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        name: what is wrong.
        command: words of the command line.
        told: what the sentence must hold: file or option, value, remedy.
        spoil: changes the working directory.
        status: exit status; 2 of words that are no command, option or value.
    """

    name: str
    command: str
    told: tuple[str, ...]
    spoil: Callable[[], object] = lambda: None
    status: int = 1


def cut(path: Path | str, kept: float) -> Callable[[], object]:
    """Leave only the first part of a file."""

    def spoil() -> None:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: int(len(data) * kept)])

    return spoil


def flip(path: Path | str, place: int) -> Callable[[], object]:
    """Flip the highest but one bit of one byte."""

    def spoil() -> None:
        data = bytearray(Path(path).read_bytes())
        data[place] ^= 64
        Path(path).write_bytes(data)

    return spoil


def write(path: Path | str, content: str | bytes) -> Callable[[], object]:
    """Put something else in a file's place."""

    def spoil() -> None:
        data = content.encode() if isinstance(content, str) else content
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(data)

    return spoil


def rows(*found: object) -> Callable[[], object]:
    """Other questions."""
    return write("own.jsonl", "".join(json.dumps(row) + "\n" for row in found))


def removed(path: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def tensors(path: Path | str, **values: float) -> Callable[[], object]:
    """Fill some tensors of a safetensors file with a number."""

    def spoil() -> None:
        found = load_file(path)
        for name, value in values.items():
            found[name.replace("__", ".")].fill_(value)
        save_file(found, path, {"format": "pt"})

    return spoil


def sharded(change: Callable[[dict], object]) -> Callable[[], object]:
    """Cut the donor's weights in two files with an index, and change what the index says."""

    def spoil() -> None:
        found = load_file(DONOR)
        DONOR.unlink()
        names, index = sorted(found), {}
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            file = f"model-0000{number}-of-00002.safetensors"
            save_file({name: found[name] for name in part}, Path("donor", file), {"format": "pt"})
            index |= dict.fromkeys(part, file)
        content = {"metadata": {}, "weight_map": index}
        change(content)
        Path("donor", INDEX).write_text(json.dumps(content))

    return spoil


def config(folder: str, **changes: object) -> Callable[[], object]:
    """Change entries of a model's configuration."""

    def spoil() -> None:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def tokenizer(**changes: object) -> Callable[[], object]:
    """Change entries of the tokenizers' settings; None takes one away."""

    def spoil() -> None:
        for folder in ("donor", "target", "base"):
            path = Path(folder, "tokenizer_config.json")
            held = json.loads(path.read_text()) | changes
            path.write_text(json.dumps({k: v for k, v in held.items() if v is not None}))
            for name in ("chat_template.jinja", "special_tokens_map.json"):
                Path(folder, name).unlink(missing_ok=True)

    return spoil


def preset(text: str = "", **changes: object) -> Callable[[], object]:
    """Change keys of the YAML, and write some text after them; None takes a key away."""

    def spoil() -> None:
        path = Path("pair.yaml")
        held = yaml.safe_load(path.read_text()) | changes
        held = {key: value for key, value in held.items() if value is not None}
        path.write_text(yaml.safe_dump(held) + text)

    return spoil


def other_model(path: str) -> Callable[[], object]:
    """A mask or scores of a model with other modules."""

    def spoil() -> None:
        sizes = {n: each.channels for n, each in channel_modules(tiny_model("gpt2", 0)).items()}
        if path == "mask":
            ChannelMask({n: torch.ones(k, dtype=torch.bool) for n, k in sizes.items()}).save(path)
        else:
            values = {n: torch.rand(k) for n, k in sizes.items()}
            ChannelScores(values, values, 3).save(path)

    return spoil


def gpt2(*folders: str) -> Callable[[], object]:
    """Models with 64 positions, learned ones, in place of those there."""

    def spoil() -> None:
        for seed, folder in enumerate(folders):
            model = tiny_model("gpt2", seed)
            model.save_pretrained(folder)

    return spoil


def scores_of(value: float | None) -> None:
    found = ChannelScores.load("scores")
    for values in found.values.values():
        if value is None:
            values.zero_()
        else:
            values[0] = value
    found.save("scores")


def numbers_for_a_mask() -> None:
    mask = ChannelMask.load("mask")
    save_tensors("mask", "ChannelMask", {n: m.float() for n, m in mask.channels.items()}, {})


def no_channel() -> None:
    mask = ChannelMask.load("mask")
    ChannelMask({name: each & False for name, each in mask.channels.items()}).save("mask")


def patched() -> None:
    apply_patch("target", "patch", "moved")


def study_data() -> None:
    row = {"question": "a", "answer": "b 3", "value": "3", "language": "fr", "domain": "maths"}
    for split in ("train", "test"):
        Path("data", split).mkdir(parents=True)
        lines = [json.dumps(row | {"id": str(n)}) + "\n" for n in range(3)]
        Path("data", split, "fr.jsonl").write_text("".join(lines))
