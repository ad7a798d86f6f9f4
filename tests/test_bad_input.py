"""A user's mistake is one sentence that names file, value and remedy, and leaves all as it was.

What a sentence says of each file is tested with the module that reads it; here, that the command
line says it, with its exit status, and what it alone checks.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_study import write_pair
from tiny_models import tiny_model

from actlib.channels import channel_modules
from actlib.cli import main
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.stored import SINGLE

MOVE = "transfer --target target --donor donor --mask mask --out out"
READ = "record --donor donor --target target --questions own.jsonl --out new --dtype float32"
TAKE = "mask scores --percent 5 --out new"
MAKE = "patch make --target target --donor donor --mask mask --out new"
APPLY = "patch apply patch --target target --out out"
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
            f"patch make {pair} --mask mask --out patch",
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


def remove(path):
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def fill(name, value):
    """Fill a tensor of the donor with a number."""

    def spoil():
        tensors = load_file(Path("donor", SINGLE))
        tensors[name].fill_(value)
        save_file(tensors, Path("donor", SINGLE), {"format": "pt"})

    return spoil


def other_kind():
    tiny_model("gpt2", 0).save_pretrained("donor")


def other_scores():
    sizes = {n: each.channels for n, each in channel_modules(tiny_model("gpt2", 0)).items()}
    values = {n: torch.rand(size) for n, size in sizes.items()}
    ChannelScores(values, values, 3).save("other")


def empty_mask():
    mask = ChannelMask.load("mask")
    ChannelMask({name: each & False for name, each in mask.channels.items()}).save("mask")


def configure(**entries):
    def spoil():
        path = Path("donor", "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return spoil


def without_end():
    path = Path("target", "tokenizer_config.json")
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        Path("target", name).unlink(missing_ok=True)


NAN = fill("model.embed_tokens.weight", float("nan"))
# Command, what the sentence must name, what is spoiled before.
CASES = [
    (MOVE, "donor/model.safetensors damaged copy", cut("donor/model.safetensors")),
    (READ, "donor/model.safetensors damaged copy", cut("donor/model.safetensors")),
    (MOVE, "donor model.embed_tokens.weight NaN check", NAN),
    (READ, "donor model.embed_tokens NaN check", NAN),
    (MOVE, "fit architecture", other_kind),
    (MOVE, "donor config.json save_pretrained", remove("donor/config.json")),
    (MOVE, "donor config.json", write("donor/config.json", "{]")),
    ("check donor target", "donor sonnet9", configure(model_type="sonnet9")),
    ("check donor target", "donor vit", configure(model_type="vit")),
    (READ, "donor shapes config.json", configure(intermediate_size=64)),
    (MOVE.replace("donor donor", "donor nowhere"), "nowhere", None),
    (MOVE.replace("donor donor", "donor own.jsonl"), "own.jsonl folder", None),
    (MOVE.replace("donor donor", "donor owner/model"), "owner/model download", None),
    (READ.replace("donor donor", "donor owner/model"), "owner/model HF_HUB_OFFLINE", None),
    (MOVE.replace("donor donor", "donor target"), "target same", None),
    (READ, "donor target same", lambda: shutil.copy("target/model.safetensors", "donor")),
    (READ, "target eos_token", without_end),
    (READ, "target tokenizer", write("target/tokenizer.json", "{")),
    (READ, "own.jsonl line 2 JSON", write("own.jsonl", '{"question": "a", "answer": "b"}\n{')),
    (READ, "own.jsonl name one", remove("own.jsonl")),
    (READ + " --device-map moon", "moon auto", None),
    (READ + " --attribution --moments", "--attribution --moments", None),
    (READ + " --points 3", "--points --attribution", None),
    (READ.replace("out new", "out own.jsonl/new"), "own.jsonl folder", None),
    (READ.replace("out new", "out own.jsonl"), "own.jsonl another", None),
    (TAKE.replace("scores", "nowhere"), "nowhere actlib record", None),
    ("mask scores --out new --percent=101", "percent 101 at most 100", None),
    (TAKE + " --ranking relative", "relative --reference", None),
    (TAKE + " --ranking scaled --reference scores", "scaled leave --reference", None),
    (TAKE + " --alpha 1", "--alpha --retained", None),
    (TAKE + " --ranking contrast --reference other", "other another model", other_scores),
    ("mask scores --percent 5 --out scores", "scores another", None),
    ("mask scores --percent 5 --out donor", "donor folder", None),
    (f"mask scores --percent 5 --out {'x' * 300}", "xxx look path", None),
    (MOVE.replace("mask mask", "mask scores"), "scores ChannelScores actlib mask", None),
    (MOVE, "mask empty", empty_mask),
    (MOVE + " --scale 1e300", "1e+300 infinite", None),
    (MERGE.replace("0.4", "much"), "donor much number", None),
    (MERGE.replace("mask 0.4", "mask"), "DONOR MASK SCALE", None),
    (MOVE, "out not empty", write("out/own.txt", "mine")),
    (MOVE.replace("out out", "out own.jsonl/x"), "own.jsonl folder", None),
    (MAKE.replace("out new", "out mask"), "mask another", None),
    (MAKE + " --metadata license", "KEY=TEXT license", None),
    (APPLY.replace("apply patch", "apply nowhere"), "nowhere actlib patch make", None),
    (APPLY, "patch damaged copy", cut("patch")),
    ("run nope", "nope smol YAML", None),
    (RUN, "do not fit", other_kind),
    (RUN, "nowhere.jsonl", write("pair.yaml", "{donor: a, target: b, questions: nowhere.jsonl}")),
    (RUN.replace("01", "77"), "notebooks 77 01", None),
    ("step build --preset pair.yaml --model nobody", "nobody donor", None),
    ("eval target --out table.txt", "--out table.txt .csv", None),
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


def test_what_is_unusual_is_no_mistake(here):
    Path("donor").rename("le modèle donneur")
    Path("own.jsonl").write_bytes(b"\xef\xbb\xbf" + Path("own.jsonl").read_bytes())
    words = shlex.split(READ.replace("donor donor", "donor 'le modèle donneur'"))
    assert main([*words, "--limit", "3"]) == 0  # spaces, accents, and a mark of Windows
    assert main(shlex.split("mask scores --percent 100 --out all")) == 0
    mask = ChannelMask.load("all")
    assert mask.count == mask.total


@pytest.mark.parametrize("entry", ["pad_token", "chat_template"])
def test_a_tokenizer_without_padding_or_template_is_no_mistake(here, entry):
    for path in (Path(role, "tokenizer_config.json") for role in ("donor", "target")):
        settings = json.loads(path.read_text())
        settings.pop(entry, None)
        path.write_text(json.dumps(settings))
        path.with_name("chat_template.jinja").unlink(missing_ok=entry == "chat_template")
    assert main(shlex.split(READ)) == 0
    assert ChannelScores.load("new").tokens > 80


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


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("mask own.jsonl --percent 5 --out new", 1, "own.jsonl is not a readable ChannelScores"),
        pytest.param(
            "check owner/model target",
            1,
            "cannot load 'owner/model' from a folder or the Hub",
            marks=pytest.mark.slow,  # the Hub's client asks again and again for half a minute
        ),
    ],
)
def test_a_process_ends_with_the_status_and_the_sentence(here, words, status, told):
    before = listing(here)
    # A Hub that does not answer, as without a network; nothing is asked of the real one.
    ended = subprocess.run(
        [sys.executable, "-m", "actlib", *shlex.split(words)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == status and not ended.stdout
    assert told in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
    assert listing(here) == before
