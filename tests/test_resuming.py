"""A killed training resumes from its last checkpoint, to the bits of one that was not killed."""

import pytest
import torch
from small_study import QUESTIONS, SETTINGS, random_model
from transformers import TrainerCallback

from actlib.finetune import finetune, light_lora


class Watch(TrainerCallback):
    """Keeps the numbers of steps, and ends a training at one as a kill would."""

    def __init__(self, stop=None):
        self.steps, self.stop = [], stop

    def on_step_begin(self, args, state, control, **_kwargs):
        if state.global_step == self.stop:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **_kwargs):
        self.steps.append(state.global_step)


@pytest.fixture
def trained(tokenizer):
    """`trained(**settings)`: weights and losses of the same small model after a training."""

    def train(change=0.0, **settings):
        torch.manual_seed(0)
        model = random_model(tokenizer)
        with torch.no_grad():
            next(model.parameters()).flatten()[0] += change
        losses = finetune(model, tokenizer, QUESTIONS, **SETTINGS | settings)
        return torch.cat([each.detach().flatten() for each in model.parameters()]), losses

    return train


@pytest.mark.parametrize(
    ("step", "every", "settings"),
    [
        (7, 3, {"lora": light_lora(4)}),
        (5, 1, {"mixed_precision": True}),  # within a pass of two steps
    ],
)
def test_an_interrupted_training_gives_the_same_bits(trained, tmp_path, step, every, settings):
    expected, losses = trained(**settings)
    settings = settings | {"checkpoints": tmp_path, "checkpoint_steps": every}
    with pytest.raises(KeyboardInterrupt):
        trained(**settings, callbacks=[Watch(step)])
    done = step // every * every
    assert [path.name for path in tmp_path.glob("*/checkpoint-*")] == [f"checkpoint-{done}"]
    watch = Watch()
    weights, found = trained(**settings, callbacks=[watch])
    assert weights.equal(expected) and found == losses
    assert watch.steps == list(range(done + 1, 13))


SCALED = light_lora(4)
SCALED.lora_alpha = 32


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"learning_rate": 1e-3}),
        ({"lora": light_lora(4)}, {"lora": SCALED}),
        ({}, {"change": 1e-3}),
    ],
)
def test_another_training_does_not_resume(trained, tmp_path, one, other):
    saving = {"checkpoints": tmp_path, "checkpoint_steps": 3}
    with pytest.raises(KeyboardInterrupt):
        trained(**one, **saving, callbacks=[Watch(7)])
    assert trained(**other, **saving)[0].equal(trained(**other)[0])
