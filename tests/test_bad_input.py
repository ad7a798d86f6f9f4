"""A user's mistake is one sentence that names file, value and remedy, and leaves all as it was.

What a sentence says of each file is tested with the module that reads it; here, that the command
line says it, with its exit status, and what it alone checks.
"""

import contextlib
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_study import write_pair
from tiny_models import contents

from actlib.cli import main
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.stored import SINGLE

MOVE = "transfer --target target --donor donor --mask mask --out out"
READ = "record --donor donor --target target --questions own.jsonl --out new --dtype float32"
TAKE = "mask scores --percent 5 --out new"
MAKE = "patch make --target target --donor donor --mask mask --out new"
MERGE = "merge --base base --give donor mask 0.4 --out out"
@pytest.fixture(scope="session")
def good(tmp_path_factory, small_preset):
    """The folder that every case starts from; each command of the table works in it."""
    folder = tmp_path_factory.mktemp("good")
    write_pair(folder, "llama", small_preset)
    items = [{"question": f"what is {n} and {n}", "answer": f"{2 * n}"} for n in range(4)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    with contextlib.chdir(folder):
        for words in (READ.replace("out new", "out scores"), TAKE.replace("out new", "out mask")):
            assert main(shlex.split(words)) == 0
    return folder


@pytest.fixture
def here(good, tmp_path, monkeypatch):
    """A copy of the good folder, as the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    return folder


def cut(path):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-20])


def damage_tokenizer():
    Path("target", "tokenizer.json").write_text("{")


def add_adapter():
    Path("adapter").mkdir()
    Path("adapter", "adapter_config.json").write_text("{}")


def empty_mask():
    mask = ChannelMask.load("mask")
    ChannelMask({name: each & False for name, each in mask.channels.items()}).save("mask")


def configure(**entries):
    def spoil():
        path = Path("donor", "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return spoil


# Command, what the sentence must name, what is spoiled before.
CASES = [
    (MOVE, "donor/model.safetensors damaged copy", cut("donor/model.safetensors")),
    (MOVE, "donor config.json save_pretrained", lambda: Path("donor/config.json").unlink()),
    ("check donor target", "donor vit", configure(model_type="vit")),
    (READ, "donor shapes config.json", configure(intermediate_size=64)),
    (MOVE.replace("donor donor", "donor nowhere"), "nowhere", None),
    (READ.replace("donor donor", "donor owner/model"), "owner/model HF_HUB_OFFLINE", None),
    (READ, "target tokenizer", damage_tokenizer),
    (READ.replace("donor donor", "donor adapter"), "adapter merge_and_unload", add_adapter),
    (READ + " --attribution --moments", "--attribution --moments", None),
    (READ.replace("out new", "out own.jsonl"), "own.jsonl another", None),
    (TAKE.replace("scores", "nowhere"), "nowhere actlib record", None),
    (TAKE + " --ranking relative", "relative --reference", None),
    (TAKE + " --alpha 1", "--alpha --retained", None),
    (MOVE.replace("mask mask", "mask scores"), "scores ChannelScores actlib mask", None),
    (MOVE, "mask empty", empty_mask),
    (MAKE.replace("out new", "out mask"), "mask another", None),
    (MERGE.replace("0.4", "much"), "donor much number", None),
    (MERGE.replace("mask 0.4", "mask"), "DONOR MASK SCALE", None),
    (MAKE + " --metadata license", "KEY=TEXT license", None),
    ("eval --tasks act_fr_maths", "model --list", None),
]


@pytest.mark.parametrize(("command", "told", "spoil"), CASES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(command, told, spoil, here, capsys):
    if spoil:
        spoil()
    before = contents(here)
    assert main(shlex.split(command)) == 1
    captured = capsys.readouterr()
    sentence = captured.err.splitlines()[-1]
    assert "error: " in sentence and "Traceback" not in captured.err and not captured.out
    assert captured.err.count("error:") == 1
    assert [part for part in told.split() if part not in sentence] == []
    assert contents(here) == before


def test_check_tells_weights_that_are_not_finite_by_its_status(here, capsys):
    tensors = load_file(Path("donor", SINGLE))
    tensors["model.norm.weight"].fill_(float("inf"))
    save_file(tensors, Path("donor", SINGLE), {"format": "pt"})
    assert main(["check", "donor", "target"]) == 1
    told = capsys.readouterr().out
    assert "NaN or infinite" in told and "donor's model.norm.weight" in told
    assert main(["check", "donor", "target", "--json"]) == 1
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_a_defect_of_ours_is_a_full_traceback_and_another_status(here, monkeypatch, capsys):
    def defect(*_, **__):
        raise KeyError("a slip of ours")

    monkeypatch.setattr(ChannelScores, "top", defect)
    assert main(shlex.split(TAKE)) == 4
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)") and "a slip of ours" in told


def test_a_device_that_is_too_small_for_the_work_is_told_so(here, monkeypatch, capsys):
    def overflow(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.nn.functional, "embedding", overflow)
    assert main(shlex.split(READ)) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and "2.00 GiB" in told and "--batch-size" in told
