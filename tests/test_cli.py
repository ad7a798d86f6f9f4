"""The command line does what the package does, and ends in one sentence on bad input.

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
import transformers
import typer
from safetensors.torch import load_file, save_file
from small_study import write_pair, write_questions
from tiny_models import contents, random_mask, same_bits, state_of

import actlib
from actlib.cli import app, main
from actlib.masks import ChannelMask
from actlib.merging import RULES
from actlib.scores import ChannelScores
from actlib.stored import SINGLE
from actlib.terminal import repeat_options
from actlib.transfer import transfer_

MOVE = "transfer --target target --donor donor --mask mask --out out"
READ = "record --donor donor --target target --questions own.jsonl --out new --dtype float32"
TAKE = "mask scores --percent 5 --out new"
MAKE = "patch make --target target --donor donor --mask mask --out new"
MERGE = "merge --base base --give donor mask 0.4 --out out"


@pytest.fixture(scope="module")
def good(tmp_path_factory, tokenizer):
    """The folder that every test starts from; each command above works in it."""
    folder = tmp_path_factory.mktemp("good")
    write_pair(folder, tokenizer)
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


def run(capsys, words):
    """What a command prints, words split at spaces, where its exit status is 0."""
    assert main(words.split()) == 0
    return capsys.readouterr().out


def test_from_questions_to_a_moved_folder(here, capsys):
    write_questions(here, "fr-maths", "ru-maths", count=3)  # of which two each are taken
    options = "--questions questions.jsonl --limit 2 --dtype float32 --out scores --moments --json"
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
    options = "--questions own.jsonl --dtype float32 --out scores --attribution --points 2"
    run(capsys, f"record --donor donor --target target {options}")
    scores = ChannelScores.load("scores")
    assert scores.metadata["points"] == "2"
    ranked = "mask scores --percent 10 --out mask --ranking"
    run(capsys, f"{ranked} attribution_by_size")
    assert ChannelMask.load("mask").digest == scores.top(10, "attribution_by_size").digest
    run(capsys, f"{ranked} attribution --retained scores --alpha -0.5")
    assert ChannelMask.load("mask").metadata["alpha"] == "-0.5"


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


@pytest.mark.parametrize(
    ("words", "named"),
    [("sing", "'sing'"), ("eval m --tasks", "'--tasks'"), (f"{READ} --limit 0", "'--limit'")],
)
def test_words_that_are_no_command_are_a_sentence_and_status_2(words, named, capsys):
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and named in told


# Command, what the sentence must name, and which file is spoiled before, by which content.
CASES = [
    (MOVE, "donor/model.safetensors damaged copy", {"donor/model.safetensors": "{"}),
    (MOVE, "donor config.json", {"donor/config.json": None}),
    ("check donor target", "donor vit", {"donor/config.json": '{"model_type": "vit"}'}),
    (READ, "target tokenizer", {"target/tokenizer.json": "{"}),
    (READ.replace("donor donor", "donor owner/model"), "owner/model HF_HUB_OFFLINE", {}),
    (
        READ.replace("donor donor", "donor base"),
        "merge_and_unload",
        {"base/adapter_config.json": ""},
    ),
    (READ + " --attribution --moments", "--attribution --moments", {}),
    (READ.replace("out new", "out own.jsonl"), "own.jsonl another", {}),
    (TAKE.replace("scores", "nowhere"), "nowhere actlib record", {}),
    (TAKE + " --ranking relative", "relative --reference", {}),
    (TAKE + " --alpha 1", "--alpha --retained", {}),
    (MOVE.replace("mask mask", "mask scores"), "scores ChannelScores actlib mask", {}),
    (MAKE.replace("out new", "out mask"), "mask another", {}),
    (MERGE.replace("0.4", "much"), "donor much number", {}),
    (MERGE.replace("mask 0.4", "mask"), "DONOR MASK SCALE", {}),
    (MAKE + " --metadata license", "KEY=TEXT license", {}),
    ("eval --tasks act_fr_maths", "model --list", {}),
]


@pytest.mark.parametrize(("command", "told", "spoiled"), CASES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(command, told, spoiled, here, capsys):
    for path, content in spoiled.items():
        Path(path).write_text(content) if content is not None else Path(path).unlink()
    before = contents(here)
    assert main(shlex.split(command)) == 1
    captured = capsys.readouterr()
    sentence = captured.err.splitlines()[-1]
    assert sentence.startswith("error: ") and "Traceback" not in captured.err and not captured.out
    assert [part for part in told.split() if part not in sentence] == []
    assert contents(here) == before


def test_a_mask_that_moves_nothing_is_refused(here, capsys):
    ChannelMask({"model.norm": torch.zeros(32).bool()}).save("mask")
    assert main(shlex.split(MOVE)) == 1 and "is empty" in capsys.readouterr().err


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


def test_the_command_line_names_every_rule_for_collisions(capsys):
    main(["merge", "--help"])
    assert f"<{'|'.join(RULES)}>" in capsys.readouterr().out.replace(" ", "")
