"""The command line does what the package does, and ends in one sentence on bad input."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import typer
from small_study import write_pair, write_preset

import actlib
from actlib.channels import channel_modules
from actlib.cli import app, main
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.study.presets import load_preset
from actlib.study.recorded import PARTS
from actlib.terminal import repeat_options
from actlib.transfer import transfer_


def test_record_leaves_scores_of_one_kind_of_every_ability_and_a_note(
    small_preset, small_store, monkeypatch, tmp_path
):
    monkeypatch.setenv("ACT_STORE", str(small_store))
    preset = load_preset(small_preset)
    roles = {**preset.roles.model_dump(), "second_donor": "maths"}
    path = write_preset(tmp_path / "two.yaml", preset.data.path, roles=roles)
    folder = small_store / "small"
    for kind, donors in (("differences", 2), ("attributions", 1)):
        assert main(["step", "record", "--preset", path, "--kind", kind]) == 0
        files = json.loads((folder / "scores" / f"{kind}-seed0.json").read_text())
        assert {file.split("/")[1] for file in files} == {kind}
        assert len(files) == donors * len(preset.abilities) * PARTS
        assert all((folder / file).is_file() for file in files)


@pytest.fixture
def folders(small_preset, tmp_path):
    """Folders of donor and target, with a tokenizer."""
    return write_pair(tmp_path, "llama", small_preset)


def test_from_questions_to_a_moved_folder(folders, tmp_path, capsys):
    questions = tmp_path / "own.jsonl"
    names = ["fr-maths"] * 3 + ["ru-maths"] * 2  # of which two each are taken
    rows = [
        {"question": f"what is {n}", "answer": f"it is {n}", "ability": name}
        for n, name in enumerate(names)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores, mask, out = (str(tmp_path / name) for name in ("scores", "mask", "out"))
    both = ["--donor", folders["donor"], "--target", folders["target"]]
    found = ["--questions", str(questions), "--out", scores, "--dtype", "float32", "--limit", "2"]
    found += ["--moments"]
    assert main(["record", *both, *found, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == scores and told["questions"] == 4
    assert told["answer_tokens"] == ChannelScores.load(scores).tokens
    assert ChannelScores.load(scores).metadata["items"] == "4"
    ranked = ["mask", scores, "--percent", "10", "--ranking", "scaled", "--out", mask]
    assert main(ranked) == 0
    line = capsys.readouterr().out
    assert main([*ranked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert line.strip() == f"{mask}: {told['channels']} of {told['of']} channels"
    taken = ChannelMask.load(mask)
    assert taken.channels.keys() == ChannelScores.load(scores).values.keys()
    assert taken.count == ChannelScores.load(scores).top(10, ranking="scaled").count
    assert ChannelScores.load(scores).stds.keys() == taken.channels.keys()
    assert main([*ranked, "--without", "head", "--without", "embedding"]) == 0
    assert not ChannelMask.load(mask).channels["lm_head"].any()
    assert main(ranked) == 0
    capsys.readouterr()
    moving = ["transfer", *both, "--mask", mask, "--scale", "0.5", "--out", out, "--json"]
    assert main(moving) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"out": out, "channels": taken.count, "of": taken.total, "scale": 0.5}
    moved = transformers.AutoModelForCausalLM.from_pretrained(out)
    donor, target = map(transformers.AutoModelForCausalLM.from_pretrained, both[1::2])
    transfer_(target, donor, taken, 0.5)
    expected = dict(target.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in moved.named_parameters())
    capsys.readouterr()


def test_record_says_of_what_is_no_model_more_than_that_a_tokenizer_lacks(
    folders, tmp_path, capsys
):
    (tmp_path / "own.jsonl").write_text('{"question": "what is 2", "answer": "it is 2"}\n')
    (tmp_path / "trained" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for name, words in (("trained", "holds checkpoint-5"), ("adapter", "merge_and_unload")):
        options = ["--donor", folders["donor"], "--target", str(tmp_path / name)]
        options += ["--questions", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "scores")]
        assert main(["record", *options]) == 1
        assert words in capsys.readouterr().err


def test_attributions_are_recorded_and_ranked_by_their_own_rankings(folders, tmp_path, capsys):
    questions, scores, mask = (str(tmp_path / name) for name in ("own.jsonl", "scores", "mask"))
    Path(questions).write_text('{"question": "what is 3", "answer": "it is 3"}\n')
    both = ["--donor", folders["donor"], "--target", folders["target"], "--questions", questions]
    record = ["record", *both, "--out", scores, "--dtype", "float32", "--attribution"]
    assert main([*record, "--points", "2", "--json"]) == 0
    assert ChannelScores.load(scores).metadata["points"] == "2"
    ranked = ["mask", scores, "--percent", "10", "--out", mask]
    assert main([*ranked, "--ranking", "attribution_by_size"]) == 0
    assert ChannelMask.load(mask).metadata["ranking"] == "attribution_by_size"
    spared = ["--ranking", "attribution", "--retained", scores, "--alpha", "-0.5"]
    assert main([*ranked, *spared]) == 0
    assert ChannelMask.load(mask).metadata["alpha"] == "-0.5"
    capsys.readouterr()
    assert main([*ranked, "--ranking", "best", "--retained", scores]) == 1
    assert capsys.readouterr().err.startswith("error: ranking 'best' is none of global")


def test_a_patch_is_made_inspected_applied_and_reverted(pair, tmp_path, capsys):
    for name, model in zip(("donor", "target"), pair("llama"), strict=True):
        model.save_pretrained(tmp_path / name)
    channels = {
        name: torch.arange(found.channels) % 5 == 0
        for name, found in channel_modules(model).items()
    }
    ChannelMask(channels).save(tmp_path / "mask")
    target, donor, mask, patch, moved, back = (
        str(tmp_path / name) for name in ("target", "donor", "mask", "patch", "moved", "back")
    )
    make = ["make", "--target", target, "--donor", donor, "--mask", mask, "--out", patch]
    assert main(["patch", *make, "--scale", "0.5", "--metadata", "license=mit", "year=2026"]) == 0
    printed = capsys.readouterr().out
    assert main(["patch", "inspect", patch, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["metadata"]["scale"], told["metadata"]["license"]) == ("0.5", "mit")
    assert printed.startswith(f"{told['elements']} elements of {len(told['tensors'])} tensors")
    assert main(["patch", "inspect", patch]) == 0
    assert {printed.strip(), "license: mit"} < set(capsys.readouterr().out.splitlines())
    assert main(["patch", "apply", patch, "--target", target, "--out", moved]) == 0
    assert main(["patch", "revert", patch, "--target", moved, "--out", back]) == 0
    assert capsys.readouterr().out.split() == [moved, back]
    weights = [(Path(each) / "model.safetensors").read_bytes() for each in (target, moved, back)]
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


def test_help_imports_no_heavy_module():
    code = "import sys; from actlib.cli import main; main(['mask', '--help']); "
    code += "print([name for name in ('torch', 'pandas', 'transformers') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"


def test_every_exported_name_loads():
    for name in actlib.__all__:
        assert getattr(actlib, name).__name__ == name
    assert set(actlib.__all__) <= set(dir(actlib))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "Missing command"),
        ("sing", "'sing'"),
        ("step build", "'--model'"),
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


def test_a_reader_that_stops_reading_is_no_mistake(tmp_path, pair):
    for name, model in zip(("donor", "target"), pair("llama", torch.float32), strict=True):
        model.save_pretrained(tmp_path / name)
    command = [sys.executable, "-m", "actlib", "check", tmp_path / "donor", tmp_path / "target"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        ran = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (141, b"")
