"""Reads the YAML that people write, completes a pair in ten lines, and says what is wrong with it.

content = complete_preset(read_yaml(path), path, root, taken=["tiny"])
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from actlib.questions import abilities_of, load_questions

NEEDED = ("donor", "target", "questions", "lost", "retained")
PAIR = ("donor", "target", "base", "second_donor")
SHARED = ("revision", "device_map")
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, where a key given twice is refused and not silently its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    problem = f"the key {key.value!r} is given twice; keep one of them"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        ValueError: it is not UTF-8 or not valid YAML, or gives a key twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"preset {path.name} is not UTF-8 ({error}); save it as UTF-8") from error
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a safe loader)
    # Values that a tag of YAML does not suit end in errors of Python's own.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        problem = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise ValueError(f"preset {path.name} is not valid YAML: {problem}") from error


def complete_preset(content: object, path: Path, root: Path, taken: Iterable[str]) -> dict:
    """A preset's content in full, with paths that are there made absolute.

    Args:
        content: of the YAML; a custom pair where it lists no models.
        path: of the YAML; its folder is where relative paths start, its name the default name.
        root: the project's folder, from which the data of a full preset are looked for first.
        taken: names that a custom pair may not have.

    Raises:
        ValueError: it holds no keys; or a pair lacks something, has a name that is taken, or
            questions that cannot be read.
    """
    if not isinstance(content, dict):
        raise ValueError("expected keys with values, such as `donor: path/to/donor`")
    if "models" not in content:
        content = _complete_pair(content, path, taken)
    models, data = content["models"], content.get("data")
    specs = models.values() if isinstance(models, dict) else []
    for section, key in [*((spec, "load") for spec in specs), (data, "path")]:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            if key == "load" or not (root / section[key]).exists():
                section[key] = _from_folder(section[key], path.parent)
    return content


def _complete_pair(content: Mapping, path: Path, taken: Iterable[str]) -> dict:
    content = {"name": path.stem, **content}
    _require_keys(content, path.parent)
    if content["name"] in taken:
        raise ValueError(f"name: expected none of {', '.join(taken)}; got {content['name']!r}")
    entries = {role: content.pop(role, None) for role in PAIR}
    shared = {key: content.pop(key) for key in SHARED if key in content}
    models = {
        role: {**shared, **(entry if isinstance(entry, dict) else {"load": entry})}
        for role, entry in entries.items()
        if entry is not None
    }
    roles = {role: role for role in models} | {"base": "base" if "base" in models else "donor"}
    content |= {"models": models, "roles": roles | {"specialists": ["donor", "target"]}}
    content["data"] = {"path": str(_questions(content.pop("questions"), path.parent))}
    pair = " and ".join(f"{models[role].get('load')} as {role}" for role in PAIR[:2])
    return {"description": pair, **content}


def _require_keys(content: Mapping, folder: Path) -> None:
    missing = [key for key in NEEDED if content.get(key) in (None, "", [])]
    if not missing:
        return
    problem = f"missing: {', '.join(missing)}; a pair needs {', '.join(NEEDED)}"
    if content.get("questions"):
        rows = load_questions(_questions(content["questions"], folder))
        problem += f"; the questions hold the abilities {', '.join(abilities_of(rows))}"
    raise ValueError(problem)


def _questions(source: object, folder: Path) -> Path:
    path = folder / _from_folder(str(source), folder)
    if not path.exists():
        raise ValueError(f"questions: there is no file or folder {path}")
    return path.resolve()


def _from_folder(source: str, folder: Path) -> str:
    """A path made absolute where it is there, seen from a folder; otherwise as it was."""
    try:
        path = folder / Path(source).expanduser()
    except RuntimeError:  # the home of a user who is not there
        return source
    return str(path.resolve()) if path.exists() else source


def explain(error: ValidationError) -> str:
    """What is wrong with a preset, in one sentence: the keys, what was expected and what came."""
    problems = []
    for problem in error.errors():
        parts, value = [*problem["loc"]], problem["input"]
        if parts[0:1] == ["models"]:
            del parts[2:3]  # which sort of model it was taken for
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "there is no such key"
        elif isinstance(value, str | int | float | None):
            message += f", got {value!r}"
            # such as `no`, which YAML reads as False
            message += "; quote it" * (problem["type"] == "string_type" and value is not None)
        problems.append(f"{'.'.join(map(str, parts)) or 'preset'}: {message}")
    return "; ".join(dict.fromkeys(problems))
