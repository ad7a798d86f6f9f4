"""Settings of presets that notebooks of the first study read; each goes with the last of these."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from actlib.questions import require_known

Percent = Annotated[float, Field(gt=0, le=100)]
Scale = Annotated[float, Field(gt=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Training(_Strict):
    steps: int = Field(default=10, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=8, gt=0)


class Grids(_Strict):
    """Values that the notebooks sweep."""

    percents: list[Percent] = [1, 5, 20, 50]
    transfer_percents: list[Percent] = [5, 20, 50]
    scales: list[Scale] = [0.4, 1.0]
    random_draws: int = Field(default=2, gt=0)
    sft_steps: list[int] = [0, 5, 10]
    sft: _Training = _Training()


class TunedArms(_Training):
    """Light fine-tuning in the sweep: the arms differ in where they start, and in nothing else."""

    judged: list[Annotated[int, Field(ge=0)]] = [0, 2, 5, 10, 20, 40]
    percent: Percent = 20
    scale: Scale = 1.0
    interpolation: Scale = 0.5
    lora: bool = True
    lora_learning_rate: float = Field(default=1e-3, gt=0)


class OldSweep(_Strict):
    """Grids and items of the first study's sweep."""

    percents: list[Percent] = [1, 5, 20, 50]
    scales: list[Scale] = [0.5, 1.0]
    merging_percents: list[Percent] = [5, 20, 50]
    causal_percents: list[Percent] = [5, 20]
    random_draws: int = Field(default=5, gt=0)
    validation_items: int = Field(default=4, gt=0)
    test_items: int = Field(default=8, gt=0)
    sft: TunedArms = TunedArms()


def given_by_hand(raw: dict, given: Mapping[str, str]) -> dict:
    """A preset's content with models or data given by hand in place of its own.

    Raises:
        ValueError: something else is given.
    """
    given = {role: place for role, place in given.items() if place}
    require_known("override", given, ["donor", "target", "base", "data"])
    raw = {**raw, "models": dict(raw["models"]), "roles": dict(raw["roles"])}
    roles, data = raw["roles"], given.pop("data", None)
    for role, place in given.items():
        raw["models"][f"own_{role}"] = {"load": place}
        roles["specialists"] = [
            f"own_{role}" if name == roles[role] else name for name in roles["specialists"]
        ]
        roles[role] = f"own_{role}"
    if given:
        roles.pop("second_donor", None)
        roles.pop("three_specialists", None)
    if data:  # the family stays trained on what it was trained on
        raw["training_data"] = raw.get("training_data") or raw.get("data", {})
        raw["data"] = {"path": data}
    raw["family"] = raw.get("family") or raw["name"]
    stems = [re.sub(r"[^\w.-]", "-", Path(p).stem) for p in [*given.values(), data] if p]
    raw["name"] = "-".join([raw["name"], *stems])
    return raw
