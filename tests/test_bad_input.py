"""A user's mistake is one sentence that names file, value and remedy, and leaves all as it was."""

import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bad_inputs import CASES
from bad_inputs.mistakes import DONOR, MASK, RECORD, TRANSFER, tensors, tokenizer
from small_study import write_pair

from actlib.cli import main
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_one_sentence_and_nothing_is_written(case, here, capsys):
    case.spoil()
    before = listing(here)
    assert main(shlex.split(case.command)) == case.status
    captured = capsys.readouterr()
    sentence = captured.err.splitlines()[-1]
    assert "error: " in sentence and "Traceback" not in captured.err and not captured.out
    assert captured.err.count("error:") == 1
    assert [part for part in case.told if part not in sentence] == []
    assert listing(here) == before


def test_the_table_is_long_and_names_each_case_once():
    assert len(CASES) > 100 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("changes", [{"pad_token": None}, {"chat_template": None}])
def test_a_tokenizer_without_padding_or_template_is_no_mistake(here, changes):
    tokenizer(**changes)()
    assert main(shlex.split(RECORD)) == 0
    assert ChannelScores.load("new").tokens > 80


def test_percent_100_takes_every_channel(here):
    assert main(shlex.split("mask scores --percent 100 --out all")) == 0
    mask = ChannelMask.load("all")
    assert mask.count == mask.total
    assert main(shlex.split(TRANSFER.replace("mask mask", "mask all"))) == 0


def test_names_with_spaces_and_accents_and_a_mark_of_windows_are_no_mistake(here):
    Path("donor").rename("le modèle donneur")
    Path("own.jsonl").write_bytes(b"\xef\xbb\xbf" + Path("own.jsonl").read_bytes())
    words = shlex.split(RECORD.replace("donor donor", "donor 'le modèle donneur'"))
    assert main([*words, "--limit", "3"]) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_check_tells_weights_that_are_not_finite_by_its_status(here, capsys, value):
    tensors(DONOR, model__norm__weight=value)()
    before = listing(here)
    assert main(["check", "donor", "target"]) == 1
    told = capsys.readouterr().out
    assert "NaN or infinite" in told and "donor's model.norm.weight" in told
    assert main(["check", "donor", "target", "--json"]) == 1
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert listing(here) == before


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AssertionError, KeyError])
def test_a_defect_of_ours_is_a_full_traceback_and_another_status(here, monkeypatch, capsys, error):
    def defect(*_, **__):
        raise error("a slip of ours")

    monkeypatch.setattr(ChannelScores, "top", defect)
    before = listing(here)
    assert main(shlex.split(MASK)) == 4
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert "in defect" in told and "a slip of ours" in told and told.endswith("lines above\n")
    assert listing(here) == before


def run(words, code=None, **environment):
    """The command line in a process of its own."""
    start = ["-c", code] if code else ["-m", "actlib"]
    return subprocess.run(
        [sys.executable, *start, *shlex.split(words)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (MASK.replace("5", "101"), 1, "percent must be above 0 and at most 100, got 101"),
        ("mask own.jsonl --percent 5 --out new", 1, "own.jsonl is not a readable ChannelScores"),
        ("steal", 2, "No such command 'steal'"),
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
    ended = run(words, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert ended.returncode == status and not ended.stdout
    assert told in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr
    assert listing(here) == before


def test_a_process_with_a_defect_ends_with_a_traceback(here):
    code = "import actlib.scores as s; s.ChannelScores.load = lambda path: 1 / 0\n"
    code += "import sys; from actlib.cli import main; sys.exit(main())"
    ended = run(MASK, code)
    assert ended.returncode == 4 and "ZeroDivisionError: division by zero" in ended.stderr
    assert ended.stderr.startswith("Traceback")
