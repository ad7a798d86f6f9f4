"""The short form of a preset: two models and a file of questions; everything else has a default.

    name: mine
    donor: path/to/donor        # folder, from the YAML's own folder, or a Hub id
    target: path/to/target
    questions: questions.jsonl  # {"question": ..., "answer": ..., "ability": "de-maths"} a line
    lost: [de-maths]
    retained: [en-maths]

``base`` and ``second_donor`` are optional models, and ``device_map: auto`` spreads models over
devices. A model may also be given as in the full form, with a ``revision``. Any section of the full
form, such as ``grids`` or ``evaluation``, may be given too, whole or in part.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from actlib.questions import abilities_of, load_questions, require_known

NEEDED = ("donor", "target", "questions", "lost", "retained")
MODELS = ("donor", "target", "base", "second_donor")
NOT_SECTIONS = (*NEEDED, *MODELS, "name", "device_map")
DEFAULTS = {
    "seeds": [0],
    "dtype": "bfloat16",
    "evaluation": {
        "validation_items": 8,  # per ability, as the next two
        "test_items": 16,
        "recording_items": 36,
        "batch_size": 8,
    },
    "grids": {
        "percents": [1, 5, 20, 50],
        "transfer_percents": [5, 20, 50],
        "scales": [0.4, 1.0],
        "random_draws": 2,
        "sft_steps": [0, 5, 10],
        "sft": {"steps": 10, "learning_rate": 1.0e-5, "batch_size": 8},
    },
}
"""What the short form leaves out; a section given in part keeps the rest of these."""


def read_content(raw: object, path: Path, root: Path, taken: list[str]) -> dict:
    """Content of a YAML in the full form; paths in it are absolute where they are there.

    What is not there, seen from the YAML's folder, stays: a Hub id, or a path of the project.

    Args:
        raw: content of the YAML.
        path: of the YAML.
        root: the project's folder, from which data are looked for first.
        taken: names that a pair of one's own may not have, since their tables are kept.

    Raises:
        ValueError: it holds no keys, or see `full_form`.
    """
    if not isinstance(raw, dict):
        raise ValueError("expected keys with values, such as `donor: path/to/donor`")
    if is_short(raw):
        return full_form(raw, path, taken)
    models, data = raw.get("models"), raw.get("data")
    for spec in models.values() if isinstance(models, dict) else []:
        if isinstance(spec, dict) and isinstance(spec.get("load"), str):
            spec["load"] = from_folder(spec["load"], path.parent)
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        if not (root / data["path"]).exists():
            data["path"] = from_folder(data["path"], path.parent)
    return raw


def is_short(raw: object) -> bool:
    """Whether a YAML's content is the short form: it lists no models, and names one of a pair."""
    return isinstance(raw, Mapping) and "models" not in raw and bool({*MODELS[:2]} & {*raw})


def full_form(raw: Mapping, path: Path, taken: list[str]) -> dict:
    """The full form of a preset, as `Preset` reads it, from the short one.

    Without a base the donor stands for it, and `Preset.left_out` names the notebook on merging.

    Args:
        raw: content of the YAML.
        path: of the YAML; its stem is the default name, and paths start from its folder.
        taken: names that a pair of one's own may not have, since their tables are kept.

    Raises:
        ValueError: something needed is missing, the name is taken or no name of a folder, or the
            questions cannot be read. Where abilities are missing, those of the questions are named.
    """
    name = str(raw.get("name") or path.stem)
    if not re.fullmatch(r"\w[\w.-]*", name) or name in taken:
        known = f", and none of {', '.join(taken)}" if name in taken else ""
        raise ValueError(f"name: expected letters, digits, '.', '_' or '-'{known}; got {name!r}")
    _require(raw, path.parent)
    shared = {"device_map": raw["device_map"]} if raw.get("device_map") else {}
    models = {role: shared | _model(raw[role], path.parent) for role in MODELS if raw.get(role)}
    roles = {role: role for role in models} | {"base": "base" if "base" in models else "donor"}
    places = " and ".join(f"{models[role].get('load')} as {role}" for role in MODELS[:2])
    full = {"name": name, "description": places, "models": models}
    full["roles"] = roles | {"specialists": ["donor", "target"]}
    full["data"] = {"path": str(_questions(raw, path.parent))}
    full |= {part: _listed(raw[part]) for part in ("lost", "retained")}
    given = {key: value for key, value in raw.items() if key not in NOT_SECTIONS}
    return full | _over(DEFAULTS, given)


def from_folder(place: str, folder: Path) -> str:
    """A path made absolute where it is there, seen from a folder; otherwise as it was."""
    try:
        found = folder / Path(place).expanduser()
    except RuntimeError:  # the home of a user who is not there
        return place
    return str(found.resolve()) if found.exists() else place


def given_by_hand(raw: dict, given: Mapping[str, str]) -> dict:
    """A preset's content with models or data given by hand in place of its own.

    A model given by hand keeps its role's place and loses what belonged to the preset's own.

    Args:
        raw: full form of a preset.
        given: ``donor``, ``target``, ``base`` or ``data`` with a place; empty ones are ignored.

    Raises:
        ValueError: something else is given.
    """
    given = {role: place for role, place in given.items() if place}
    if not given:
        return raw
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


def _require(raw: Mapping, folder: Path) -> None:
    missing = [key for key in NEEDED if not raw.get(key)]
    if not missing:
        return
    told = f"missing: {', '.join(missing)}; a pair of your own needs {', '.join(NEEDED)}"
    if raw.get("questions"):
        held = abilities_of(load_questions(_questions(raw, folder)))
        told += f"; the questions hold the abilities {', '.join(held)}"
    raise ValueError(told)


def _questions(raw: Mapping, folder: Path) -> Path:
    path = Path(from_folder(str(raw["questions"]), folder))
    if not path.exists():
        raise ValueError(f"questions: there is no file or folder {folder / path}")
    return path.resolve()


def _model(given: str | Mapping, folder: Path) -> dict:
    spec = dict(given) if isinstance(given, Mapping) else {"load": given}
    return spec | ({"load": from_folder(spec["load"], folder)} if _is_text(spec, "load") else {})


def _is_text(spec: Mapping, key: str) -> bool:
    return isinstance(spec.get(key), str)  # what is none is refused as the preset is checked


def _listed(given: str | list) -> list:
    return [given] if isinstance(given, str) else given


def _over(defaults: Mapping, given: Mapping) -> dict:
    """The defaults with what is given over them, section by section."""
    merged = {**defaults, **given}
    for key in {*defaults} & {*given}:
        if isinstance(defaults[key], Mapping) and isinstance(given[key], Mapping):
            merged[key] = _over(defaults[key], given[key])
    return merged
