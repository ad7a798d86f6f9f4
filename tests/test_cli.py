"""The command line does what the package does, and ends in one sentence on bad input."""

import json
import shlex
from pathlib import Path

import pytest
import transformers
import typer
from small_study import write_pair
from tiny_models import random_mask, same_bits, state_of

import actlib
from actlib.cli import app, main
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.terminal import repeat_options
from actlib.transfer import transfer_


@pytest.fixture
def here(small_preset, tmp_path, monkeypatch):
    """A working directory with folders of donor and target, with a tokenizer."""
    write_pair(tmp_path, "llama", small_preset)
    monkeypatch.chdir(tmp_path)


def run(capsys, words):
    """What a command prints, words split at spaces, where its exit status is 0."""
    assert main(words.split()) == 0
    return capsys.readouterr().out


def test_from_questions_to_a_moved_folder(here, capsys):
    names = ["fr-maths"] * 3 + ["ru-maths"] * 2  # of which two each are taken
    rows = [
        {"question": f"what is {n}", "answer": f"it is {n}", "ability": name}
        for n, name in enumerate(names)
    ]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = "--questions own.jsonl --limit 2 --dtype float32 --out scores --moments --json"
    told = json.loads(run(capsys, f"record --donor donor --target target {options}"))
    scores = ChannelScores.load("scores")
    assert (told["out"], told["questions"]) == ("scores", 4)
    assert told["answer_tokens"] == scores.tokens and scores.metadata["items"] == "4"
    ranked = "mask scores --percent 10 --ranking scaled --out mask"
    run(capsys, f"{ranked} --without head --without embedding")
    assert not ChannelMask.load("mask").channels["lm_head"].any()
    told = json.loads(run(capsys, f"{ranked} --json"))
    mask = ChannelMask.load("mask")
    assert mask.digest == scores.top(10, ranking="scaled").digest
    assert (told["channels"], told["of"]) == (mask.count, mask.total)
    moving = "transfer --donor donor --target target --mask mask --scale 0.5 --out out --json"
    told = json.loads(run(capsys, moving))
    assert told == {"out": "out", "channels": mask.count, "of": mask.total, "scale": 0.5}
    load = transformers.AutoModelForCausalLM.from_pretrained
    moved, target = load("out"), load("target")
    transfer_(target, load("donor"), mask, 0.5)
    assert same_bits(state_of(moved), state_of(target))


def test_attributions_are_recorded_and_ranked_by_their_own_rankings(here, capsys):
    Path("own.jsonl").write_text('{"question": "what is 3", "answer": "it is 3"}\n')
    options = "--questions own.jsonl --dtype float32 --out scores --attribution --points 2"
    run(capsys, f"record --donor donor --target target {options}")
    scores = ChannelScores.load("scores")
    assert scores.metadata["points"] == "2"
    ranked = "mask scores --percent 10 --out mask --ranking"
    run(capsys, f"{ranked} attribution_by_size")
    assert ChannelMask.load("mask").digest == scores.top(10, "attribution_by_size").digest
    run(capsys, f"{ranked} attribution --retained scores --alpha -0.5")
    spared = scores.with_retention(scores, -0.5).top(10, "attribution")
    assert ChannelMask.load("mask").digest == spared.digest


def test_a_patch_is_made_inspected_applied_and_reverted(here, capsys):
    random_mask(transformers.AutoModelForCausalLM.from_pretrained("target")).save("mask")
    make = "patch make --target target --donor donor --mask mask --out"
    printed = run(capsys, f"{make} patch --scale 0.5 --metadata license=mit year=2026")
    told = json.loads(run(capsys, "patch inspect patch --json"))
    assert (told["metadata"]["scale"], told["metadata"]["license"]) == ("0.5", "mit")
    assert {printed.strip(), "license: mit"} < set(run(capsys, "patch inspect patch").splitlines())
    run(capsys, "patch apply patch --target target --out moved")
    run(capsys, "patch revert patch --target moved --out back")
    weights = [Path(each, "model.safetensors").read_bytes() for each in ("target", "moved", "back")]
    assert weights[0] == weights[2] != weights[1]
    assert run(capsys, f"{make} lean --irreversible").strip().endswith("not reversible")


def _commands(group=None, before=()):
    """Every command, also of a group, with its words."""
    for name, each in (group or typer.main.get_command(app)).commands.items():
        if hasattr(each, "commands"):
            yield from _commands(each, (*before, name))
        else:
            yield [*before, name], each


@pytest.mark.parametrize(("words", "command"), list(_commands()))
def test_the_help_of_every_command_ends_with_a_valid_example(words, command, capsys):
    assert main([*words, "--help"]) == 0
    example = shlex.split(capsys.readouterr().out.partition("example:\n")[2])
    assert example[: len(words) + 1] == ["actlib", *words]
    command.make_context("actlib", repeat_options(example[len(words) + 1 :]))  # no usage error


def test_every_exported_name_loads():
    for name in actlib.__all__:
        assert getattr(actlib, name).__name__ == name
    assert set(actlib.__all__) <= set(dir(actlib))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("sing", "'sing'"),
        ("step record --seed x", "'--seed'"),
        ("eval m --tasks", "'--tasks'"),
        ("record --donor d --target t --questions q --out o --dtype int8", "'--dtype'"),
    ],
)
def test_words_that_are_no_command_are_a_sentence_and_status_2(words, named, capsys):
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert named in captured.err and "--help" in captured.err and not captured.out
