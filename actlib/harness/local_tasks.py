"""Tasks of local files in lm-evaluation-harness's own YAML.

    names = write_tasks(["data", "path/to/mgsm", "path/to/exams"], "my_tasks")
    # lm_eval --include_path my_tasks --tasks act_fr_maths,mgsm_local_fr ...

| task | files | score |
| --- | --- | --- |
| `act_LANGUAGE_DOMAIN` | `SPLIT/LANGUAGE.jsonl`, this study's data | number, written answer |
| `act_LANGUAGE_DOMAIN_answer` | the same | likelihood of the worked answer |
| `mgsm_local_LANGUAGE` | `mgsm_LANGUAGE.tsv`, MGSM | as `mgsm_direct_LANGUAGE` |
| `exams_local_LANGUAGE` | `*test.jsonl`, EXAMS | `acc`, `acc_norm` |

Why two tasks for this study's data: its answers write a computation down, in a fixed wording. What
counts for a reader is the number, which only writing shows, so `act_fr_maths` generates. A model
that is far from every number scores 0 there whatever it half knows; the likelihood of the answer is
graded, and is what the study itself judges by, so `act_fr_maths_answer` gives it. Choices would
have to be invented.
"""

import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from actlib.harness.rows import exams_row, json_lines

SHIPPED = Path(__file__).resolve().parents[2] / "data"
TEMPLATES = Path(__file__).parent / "tasks"
Task = dict[str, object]


def require_harness() -> None:
    """Refuse to go on without lm-evaluation-harness.

    Raises:
        ValueError: it is not installed; the sentence says how to install it.
    """
    if find_spec("lm_eval") is None:
        raise ValueError(
            "judging needs lm-evaluation-harness, which is not installed: "
            'pip install "actlib[harness]"'
        )


def local_tasks(
    data: str | Path | Sequence[str | Path] | None = None, *, chat: bool = False
) -> dict[str, Task]:
    """Tasks that the files of some folders allow, by name; each is the content of a YAML file.

    Args:
        data: a folder or several; this study's data if None.
        chat: the prompts will go through a chat template. This study's questions are then asked
            without the words `Question:` and `Answer:`, as the study itself asks them.

    Raises:
        ValueError: a folder is absent or holds no file of the three kinds, two folders give a task
            the same name, or a file is malformed.
    """
    folders: Sequence[str | Path]
    if data is None:  # an installed package comes without the study's data
        folders = [SHIPPED] if SHIPPED.is_dir() else []
    else:
        folders = [data] if isinstance(data, str | Path) else data
    tasks: dict[str, Task] = {}
    for folder in map(Path, folders):
        found = {**_study(folder, chat), **_mgsm(folder), **_exams(folder)}
        if not found:
            raise ValueError(
                f"expected files like test/en.jsonl, mgsm_en.tsv or science_test.jsonl in the "
                f"data folder {folder}, found none; name the folder that holds them"
            )
        twice = sorted(found.keys() & tasks.keys())
        if twice:
            raise ValueError(f"two data folders give the task {twice[0]}; judge them in two calls")
        tasks |= found
    return tasks


def write_tasks(
    data: str | Path | Sequence[str | Path] | None, folder: str | Path, *, chat: bool = False
) -> list[str]:
    """Write the local tasks as YAML files, for `lm_eval --include_path FOLDER`; returns the names.

    Args:
        data: as `local_tasks`.
        folder: where they go; made if absent.
        chat: as `local_tasks`.

    Raises:
        ValueError: as `local_tasks`.
    """
    tasks = local_tasks(data, chat=chat)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True)
        Path(folder, f"{name}.yaml").write_text(text, encoding="utf-8")
    return sorted(tasks)


def _task(name: str, *includes: Path, **settings: object) -> dict[str, Task]:
    include = [str(path) for path in includes]
    return {name: {"include": include, "task": name, **settings}}


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().lower())


def _study(folder: Path, chat: bool) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for path in sorted((folder / "test").glob("*.jsonl")):
        rows = json_lines(path)
        cells = {(row.get("language", ""), row.get("domain", "")) for row in rows}
        if not all(map(all, cells)):
            raise ValueError(f"{path} has a row without language or domain, which a task needs")
        for language, domain in sorted(cells):
            source: Task = {"path": str(folder.resolve()), "language": language, "domain": domain}
            shared: dict[str, object] = {"dataset_kwargs": source}
            if not (folder / "train" / path.name).is_file():
                shared |= {"training_split": None, "fewshot_split": "test"}
            shared |= {"doc_to_text": "question"} if chat else {}
            name = _slug(f"act_{language}_{domain}")
            if all(row.get("value") for row in rows if row["domain"] == domain):
                tasks |= _task(name, TEMPLATES / "act_value.yaml", **shared)
            shared |= {"doc_to_target": "answer"} if chat else {}
            tasks |= _task(f"{name}_answer", TEMPLATES / "act_answer.yaml", **shared)
    return tasks


def _mgsm(folder: Path) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for path in sorted(folder.glob("mgsm_*.tsv")):
        language = path.stem.removeprefix("mgsm_")
        theirs = _of_the_harness(f"mgsm/direct/mgsm_direct_{language}.yaml")
        source = {"dataset_kwargs": {"path": str(path.resolve())}}
        tasks |= _task(f"mgsm_local_{language}", theirs, TEMPLATES / "mgsm.yaml", **source)
    return tasks


def _of_the_harness(name: str) -> Path:
    """Path of one of the harness's own YAML files; importing the harness would take seconds."""
    require_harness()
    spec = find_spec("lm_eval")
    places = (spec.submodule_search_locations if spec else None) or []
    path = next((Path(place) / "tasks" / name for place in places), Path(name))
    if not path.is_file():
        raise ValueError(f"the installed lm-evaluation-harness has no task {path.stem}")
    return path


def _exams(folder: Path) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for path in sorted(folder.glob("*test.jsonl")):
        train = path.with_name(path.name.replace("test.jsonl", "train.jsonl"))
        trained = set(_languages(train)) if train.is_file() else set()
        for language in sorted(set(_languages(path))):
            source: Task = {"test": str(path.resolve()), "language": language}
            shots = {"fewshot_split": "test"}
            if language in trained:
                source["train"] = str(train.resolve())
                shots = {"training_split": "train", "fewshot_split": "train"}
            name = _slug(f"exams_local_{language}")
            if name in tasks:
                raise ValueError(f"two files of {folder} hold EXAMS in {language}; keep one there")
            tasks |= _task(name, TEMPLATES / "exams.yaml", dataset_kwargs=source, **shots)
    return tasks


def _languages(path: Path) -> Iterator[str]:
    return (exams_row(row)["language"] for row in json_lines(path))
