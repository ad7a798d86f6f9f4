"""A killed training resumes from its last checkpoint, to the bits of one that was not killed."""

import shutil

import pytest
import torch
from small_study import SIZES
from transformers import TrainerCallback

from actlib.finetune import finetune, light_lora
from actlib.study.presets import ScratchModel, load_preset
from actlib.study.training import small_model, small_tokenizer

ITEMS = [{"question": f"{n} + {n}?", "answer": f"It is {2 * n}."} for n in range(1, 9)]
SETTINGS = {"steps": 12, "learning_rate": 5e-3, "batch_size": 4, "progress": False}
SETTINGS |= {"mixed_precision": False}


class Stop(TrainerCallback):
    """Ends a training as a kill would, as far as its checkpoint goes: without a last word."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt

    def on_train_end(self, *_args, **_kwargs):
        raise KeyboardInterrupt


class Count(TrainerCallback):
    """Keeps the numbers of the steps that it sees."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **_kwargs):
        self.steps.append(state.global_step)


@pytest.fixture(scope="module")
def tokenizer(small_preset):
    return small_tokenizer(load_preset(small_preset), 400)


@pytest.fixture
def trained(tokenizer):
    """`trained(**settings)`: weights and losses of the same small model after a training."""

    def train(change=0.0, **settings):
        torch.manual_seed(0)
        spec = {"scratch": SIZES, "abilities": [], "steps": 1, "learning_rate": 1, "batch_size": 1}
        model = small_model(ScratchModel(**spec), tokenizer)
        with torch.no_grad():
            next(model.parameters()).flatten()[0] += change
        losses = finetune(model, tokenizer, ITEMS, **SETTINGS | settings)
        return torch.cat([each.detach().flatten() for each in model.parameters()]), losses

    return train


def saved(folder):
    return {path.name for path in folder.glob("*/checkpoint-*")}


@pytest.mark.parametrize(("lora", "mixed"), [(None, True), (light_lora(4), False)])
def test_an_interrupted_training_gives_the_same_bits(trained, tmp_path, lora, mixed):
    settings = {"lora": lora, "mixed_precision": mixed}
    expected, losses = trained(**settings)
    saving = {"checkpoints": tmp_path, "checkpoint_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        trained(**settings, **saving, callbacks=[Stop(7)])
    assert saved(tmp_path) == {"checkpoint-6"}
    count = Count()
    weights, found = trained(**settings, **saving, callbacks=[count])
    assert weights.equal(expected) and found == losses
    assert count.steps == list(range(7, 13))


@pytest.mark.parametrize("step", [5, 8, 99])
def test_every_step_is_one_to_resume_from(trained, tmp_path, step):
    """Within a pass of two steps, between two passes, and after the last step."""
    expected, losses = trained()
    saving = {"checkpoints": tmp_path, "checkpoint_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        trained(**saving, callbacks=[Stop(step)])
    assert saved(tmp_path) == {f"checkpoint-{min(step, 12)}"}
    weights, found = trained(**saving)
    assert weights.equal(expected) and found == losses


def test_a_half_written_checkpoint_is_not_resumed_from(trained, tmp_path):
    expected, _ = trained()
    saving = {"checkpoints": tmp_path, "checkpoint_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        trained(**saving, callbacks=[Stop(7)])
    (whole,) = tmp_path.glob("*/checkpoint-6")
    half = shutil.copytree(whole, whole.with_name("checkpoint-9"))
    (half / "trainer_state.json").write_text('{"global_step": 9, "log_his')
    assert trained(**saving)[0].equal(expected)
    (half / "trainer_state.json").unlink(missing_ok=True)
    assert trained(**saving)[0].equal(expected)


SCALED = light_lora(4)
SCALED.lora_alpha = 32
OTHERS = [{"learning_rate": 1e-3}, {"seed": 1}, {"change": 1e-3}, {"lora": light_lora(4)}]


@pytest.mark.parametrize(
    ("one", "other"), [*(({}, other) for other in OTHERS), (OTHERS[-1], {"lora": SCALED})]
)
def test_another_training_does_not_resume(trained, tmp_path, one, other):
    saving = {"checkpoints": tmp_path, "checkpoint_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        trained(**one, **saving, callbacks=[Stop(7)])
    count = Count()
    assert trained(**other, **saving, callbacks=[count])[0].equal(trained(**other)[0])
    assert count.steps == list(range(1, 13))
