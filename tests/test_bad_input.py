"""A user's mistake is one sentence that names file, value and remedy, and leaves all as it was.

What a sentence says of each file is tested with the module that reads it; here, that the command
line says it, with its exit status, and what it alone checks.
"""

import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_study import write_pair

from actlib.cli import main
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.stored import SINGLE

MOVE = "transfer --target target --donor donor --mask mask --out out"
READ = "record --donor donor --target target --questions own.jsonl --out new --dtype float32"
TAKE = "mask scores --percent 5 --out new"
MAKE = "patch make --target target --donor donor --mask mask --out new"
MERGE = "merge --base base --give donor mask 0.4 --out out"
RUN = "run pair.yaml --notebooks 01"
EVAL = "eval target --tasks act_fr_maths"


def listing(folder):
    """Every file and folder with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(Path(folder).rglob("*"))
    }


@pytest.fixture(scope="session")
def good(tmp_path_factory, small_preset):
    """The folder that every case starts from; each command of the table works in it."""
    folder = tmp_path_factory.mktemp("good")
    write_pair(folder, "llama", small_preset)
    languages = ("fr", "en")
    items = [
        {"question": f"what is {n} and {n}", "answer": f"{2 * n}", "ability": f"{lang}-maths"}
        for n in range(40)
        for lang in languages
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    named = {"donor": "donor", "target": "target", "questions": "own.jsonl"}
    named |= {"lost": ["fr-maths"], "retained": ["en-maths"]}
    (folder / "pair.yaml").write_text(yaml.safe_dump(named))
    before = Path.cwd()
    os.chdir(folder)
    try:
        pair = "--donor donor --target target"
        for words in (
            f"record {pair} --questions own.jsonl --limit 4 --dtype float32 --out scores",
            "mask scores --percent 20 --out mask",
        ):
            assert main(shlex.split(words)) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(good, tmp_path, monkeypatch):
    """A copy of the good folder, as the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACT_STORE", str(folder / "store"))
    return folder


def write(path, text):
    return lambda: (Path(path).parent.mkdir(exist_ok=True), Path(path).write_text(text))


def cut(path):
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:-20])


def fill(name, value):
    """Fill a tensor of the donor with a number."""

    def spoil():
        tensors = load_file(Path("donor", SINGLE))
        tensors[name].fill_(value)
        save_file(tensors, Path("donor", SINGLE), {"format": "pt"})

    return spoil


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
    (MOVE, "donor config.json", write("donor/config.json", "{]")),
    ("check donor target", "donor vit", configure(model_type="vit")),
    (READ, "donor shapes config.json", configure(intermediate_size=64)),
    (MOVE.replace("donor donor", "donor nowhere"), "nowhere", None),
    (READ.replace("donor donor", "donor owner/model"), "owner/model HF_HUB_OFFLINE", None),
    (MOVE.replace("donor donor", "donor target"), "target same", None),
    (READ, "target tokenizer", write("target/tokenizer.json", "{")),
    (READ + " --device-map moon", "moon auto", None),
    (READ + " --attribution --moments", "--attribution --moments", None),
    (READ + " --points 3", "--points --attribution", None),
    (READ.replace("out new", "out own.jsonl/new"), "own.jsonl folder", None),
    (READ.replace("out new", "out own.jsonl"), "own.jsonl another", None),
    (TAKE.replace("scores", "nowhere"), "nowhere actlib record", None),
    (TAKE + " --ranking relative", "relative --reference", None),
    (TAKE + " --ranking scaled --reference scores", "scaled leave --reference", None),
    (TAKE + " --alpha 1", "--alpha --retained", None),
    ("mask scores --percent 5 --out donor", "donor folder", None),
    (f"mask scores --percent 5 --out {'x' * 300}", "xxx look path", None),
    (MOVE.replace("mask mask", "mask scores"), "scores ChannelScores actlib mask", None),
    (MOVE, "mask empty", empty_mask),
    (MERGE.replace("0.4", "much"), "donor much number", None),
    (MERGE.replace("mask 0.4", "mask"), "DONOR MASK SCALE", None),
    (MAKE.replace("out new", "out mask"), "mask another", None),
    (MAKE + " --metadata license", "KEY=TEXT license", None),
    (RUN.replace("01", "77"), "notebooks 77 01", None),
    ("step build --preset pair.yaml --model nobody", "nobody donor", None),
    ("eval --tasks act_fr_maths", "model --list", None),
    (EVAL + " --batch-size many", "batch many", None),
    ("eval --list --data nowhere", "nowhere", None),
]


@pytest.mark.parametrize(("command", "told", "spoil"), CASES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(command, told, spoil, here, capsys):
    if spoil:
        spoil()
    before = listing(here)
    assert main(shlex.split(command)) == 1
    captured = capsys.readouterr()
    sentence = captured.err.splitlines()[-1]
    assert "error: " in sentence and "Traceback" not in captured.err and not captured.out
    assert captured.err.count("error:") == 1
    assert [part for part in told.split() if part not in sentence] == []
    assert listing(here) == before


def test_check_tells_weights_that_are_not_finite_by_its_status(here, capsys):
    fill("model.norm.weight", float("inf"))()
    before = listing(here)
    assert main(["check", "donor", "target"]) == 1
    told = capsys.readouterr().out
    assert "NaN or infinite" in told and "donor's model.norm.weight" in told
    assert main(["check", "donor", "target", "--json"]) == 1
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert listing(here) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
def test_a_defect_of_ours_is_a_full_traceback_and_another_status(here, monkeypatch, capsys, error):
    def defect(*_, **__):
        raise error("a slip of ours")

    monkeypatch.setattr(ChannelScores, "top", defect)
    before = listing(here)
    assert main(shlex.split(TAKE)) == 4
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert "in defect" in told and "a slip of ours" in told and told.endswith("lines above\n")
    assert listing(here) == before


@pytest.mark.parametrize("command", [READ, READ + " --attribution"])
def test_a_device_that_is_too_small_for_the_work_is_told_so(here, monkeypatch, capsys, command):
    def overflow(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.nn.functional, "embedding", overflow)
    assert main(shlex.split(command)) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and "2.00 GiB" in told and "--batch-size" in told
