"""A killed training goes on from its last checkpoint, to the bits of one that was not killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_study import SIZES, write_preset
from transformers import TrainerCallback

from actlib.finetune import finetune, light_lora
from actlib.resuming import Resume, training_digest
from actlib.study.families import small_model, small_tokenizer
from actlib.study.presets import ScratchModel, load_preset

ITEMS = [{"question": f"{n} + {n}?", "answer": f"It is {2 * n}."} for n in range(1, 9)]
SETTINGS = {"steps": 12, "learning_rate": 5e-3, "batch_size": 4, "progress": False}
SETTINGS |= {"mixed_precision": False}


class Stop(TrainerCallback):
    """Ends a training as a kill would, as far as its checkpoint goes: without a last word."""

    def on_step_begin(self, args, state, control, **_kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tokenizer(small_preset):
    return small_tokenizer(load_preset(small_preset), 400)


def fresh(tokenizer):
    torch.manual_seed(0)
    spec = {"scratch": SIZES, "cells": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
    return small_model(ScratchModel(**spec), tokenizer)


def trained(tokenizer, **settings):
    model = fresh(tokenizer)
    losses = finetune(model, tokenizer, ITEMS, **SETTINGS | settings)
    return torch.cat([each.detach().flatten() for each in model.parameters()]), losses


@pytest.mark.parametrize("lora", [None, light_lora(4)])
@pytest.mark.parametrize("mixed", [False, True])
def test_an_interrupted_training_gives_the_same_bits(tokenizer, tmp_path, lora, mixed):
    settings = {"lora": lora, "mixed_precision": mixed}
    whole = trained(tokenizer, **settings)
    resume = Resume(tmp_path / "state", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        trained(tokenizer, **settings, resume=resume, callbacks=[Stop()])
    assert list(resume.folder.glob("checkpoint-*"))
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **_kwargs):
            steps.append(state.global_step)

    again = trained(tokenizer, **settings, resume=resume, callbacks=[Count()])
    assert again[0].equal(whole[0]) and again[1] == whole[1]
    assert len(steps) < SETTINGS["steps"] and steps[-1] == SETTINGS["steps"]


def test_one_checkpoint_is_kept_and_of_this_training_alone(tokenizer, tmp_path):
    resume = Resume(tmp_path / "state", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        trained(tokenizer, resume=resume, callbacks=[Stop()])
    assert len(list(resume.folder.glob("checkpoint-*"))) == 1
    other = trained(tokenizer, resume=resume, learning_rate=1e-3)
    assert other[0].equal(trained(tokenizer, learning_rate=1e-3)[0])
    resume.forget()
    assert not list(tmp_path.iterdir())


def test_a_short_training_writes_nothing(tokenizer, tmp_path):
    trained(tokenizer, resume=Resume(tmp_path / "state"))
    assert not list(tmp_path.iterdir())


def test_without_room_for_a_checkpoint_the_training_goes_on(tokenizer, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.warns(UserWarning, match="without a checkpoint: no space is left"):
        found = trained(tokenizer, resume=Resume(tmp_path / "state", seconds=0))
    assert found[0].equal(trained(tokenizer)[0])
    assert not list(tmp_path.iterdir())


def test_a_training_is_named_by_its_start_its_data_and_its_settings(tokenizer):
    model, rows = fresh(tokenizer), [{"ids": [1, 2]}]
    digest = training_digest(model, rows, {"steps": 1})
    assert digest == training_digest(fresh(tokenizer), rows, {"steps": 1})
    assert digest != training_digest(model, [{"ids": [1, 3]}], {"steps": 1})
    assert digest != training_digest(model, rows, {"steps": 2})
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1e-3
    assert digest != training_digest(model, rows, {"steps": 1})


BUILD = """
import sys
from pathlib import Path
import torch
from actlib.study import families
from actlib.study.presets import load_preset
torch.set_num_threads(1)
families.Resume = lambda folder: __import__("actlib.resuming").resuming.Resume(folder, seconds=0)
families.build(load_preset(sys.argv[1]), "base", 0, Path(sys.argv[2]), progress=False)
"""


def test_a_build_killed_in_training_leaves_no_model_and_then_makes_the_same(small_preset, tmp_path):
    models = {"base": {"scratch": SIZES, "vocabulary": 400, "cells": ["en-science"]}}
    models["base"] |= {"steps": 60, "learning_rate": 3e-3, "batch_size": 8}
    small = load_preset(small_preset)
    models = small.model_dump(exclude_none=True)["models"] | models
    preset = write_preset(tmp_path / "long.yaml", small.data.path, models=models, name="long")
    command = [sys.executable, "-c", BUILD, preset]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    folder, state = (
        killed / "long/models" / name for name in ("base-seed0", ".base-seed0.training")
    )
    process = subprocess.Popen([*command, killed], start_new_session=True)
    while not list(state.glob("checkpoint-*")):
        assert process.poll() is None, "it ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    for store in (killed, whole):
        subprocess.run([*command, store], check=True)
    other = whole / "long/models/base-seed0"
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {"base-seed0"}, "what the killed build left is gone"
    assert Path(folder / "built.json").is_file()
