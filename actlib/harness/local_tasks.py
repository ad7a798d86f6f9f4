"""Tasks of local files in lm-evaluation-harness's own YAML.

    names = write_tasks(["data", "path/to/mgsm", "path/to/exams"], "my_tasks")
    # lm_eval --include_path my_tasks --tasks act_fr_maths,mgsm_local_fr ...

| task | files | score |
| --- | --- | --- |
| `act_LANGUAGE_DOMAIN` | `test/*.jsonl`, shots of `train/*.jsonl` | number, written answer |
| `act_LANGUAGE_DOMAIN_answer` | the same | likelihood of the worked answer |
| `mgsm_local_LANGUAGE` | `mgsm_LANGUAGE.tsv`, MGSM | as `mgsm_direct_LANGUAGE` |
| `exams_local_LANGUAGE` | `*test.jsonl`, EXAMS | `acc`, `acc_norm` |

The number of a written answer is what counts for a reader, so `act_fr_maths` generates; it is there
where every answer has a number. The likelihood is graded, and `actlib.evaluate` measures by it too.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from actlib.harness.exams import read_exams
from actlib.questions import load_questions

if TYPE_CHECKING:
    from datasets import DatasetDict

TEMPLATES = Path(__file__).parent / "tasks"
SHIPPED = Path(__file__).resolve().parents[2] / "data"
Folders = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class LocalTask:
    """A task: the YAML files that it includes, its rows, and what it sets otherwise.

    Attributes:
        includes: paths; a later one wins.
        test: rows to evaluate on.
        train: rows for shots; shots are other test rows where there are none.
        settings: entries of the task's own YAML.
    """

    includes: list[Path]
    test: list[dict]
    train: list[dict] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


def require_harness() -> None:
    """Refuse to go on without lm-evaluation-harness.

    Raises:
        ValueError: it is not installed; the sentence says how to install it.
    """
    if find_spec("lm_eval") is None:
        raise ValueError(
            "evaluating tasks needs lm-evaluation-harness, which is not installed: "
            'pip install "actlib[harness]"'
        )


def local_tasks(data: Folders = None, *, chat: bool = False) -> dict[str, LocalTask]:
    """Tasks that the files of some folders allow, by name.

    Args:
        data: a folder or several; this study's data if None.
        chat: the prompts will go through a chat template. Questions of JSON lines are then asked
            without the words `Question:` and `Answer:`, as the study itself asks them.

    Raises:
        ValueError: a folder is absent or holds no file of the three kinds, two files give a task
            the same name, or a file is malformed.
    """
    if data is None:  # an installed package comes without the study's data
        data = [SHIPPED] if SHIPPED.is_dir() else []
    tasks: dict[str, LocalTask] = {}
    for folder in map(Path, [data] if isinstance(data, str | Path) else data):
        added = {**_question_tasks(folder, chat), **_mgsm_tasks(folder), **_exams_tasks(folder)}
        if not added:
            raise ValueError(
                f"expected files like test/en.jsonl, mgsm_en.tsv or science_test.jsonl in the "
                f"data folder {folder}, found none; name the folder that holds them"
            )
        twice = sorted(added.keys() & tasks.keys())
        if twice:
            raise ValueError(f"two data folders give the task {twice[0]}; evaluate in two calls")
        tasks |= added
    return tasks


def write_tasks(data: Folders, folder: str | Path, *, chat: bool = False) -> list[str]:
    """Write the local tasks, for `lm_eval --include_path FOLDER`; returns their names, sorted.

    Args:
        data: as `local_tasks`.
        folder: for `TASK.yaml` and the rows, `TASK.test.jsonl`; made if absent.
        chat: as `local_tasks`.

    Raises:
        ValueError: as `local_tasks`.
    """
    tasks = local_tasks(data, chat=chat)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        paths = {}
        for split, rows in {"test": task.test, "train": task.train}.items():
            if rows:
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                paths[split] = str(folder / f"{name}.{split}.jsonl")
                Path(paths[split]).write_text(lines, encoding="utf-8")
        shots: dict[str, str | None] = {"training_split": "train", "fewshot_split": "train"}
        if "train" not in paths:
            shots = {"training_split": None, "fewshot_split": "test"}
        content: dict[str, object] = {
            "include": [str(path) for path in task.includes],
            "task": name,
        }
        content |= {"dataset_kwargs": paths, **shots, **task.settings}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return sorted(tasks)


def read_rows(test: str, train: str | None = None, **_: object) -> "DatasetDict":
    """Rows that `write_tasks` wrote; the YAML names this as `custom_dataset`.

    Nothing is kept in the cache of `datasets`, so a changed file counts at once.
    """
    from datasets import Dataset, DatasetDict

    paths = {"test": test, **({"train": train} if train else {})}
    texts = {split: Path(path).read_text(encoding="utf-8") for split, path in paths.items()}
    rows = {split: list(map(json.loads, text.split("\n")[:-1])) for split, text in texts.items()}
    return DatasetDict({split: Dataset.from_list(each) for split, each in rows.items()})


def _question_tasks(folder: Path, chat: bool) -> dict[str, LocalTask]:
    """Two tasks of each language and domain in JSON lines; one where answers have no number."""
    tasks = {}
    train = _rows_by_name(folder / "train")
    question = {"doc_to_text": "question"} if chat else {}
    for name, rows in _rows_by_name(folder / "test").items():
        shots = train.get(name, [])
        if all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", row["value"]) for row in rows):
            tasks[name] = LocalTask([TEMPLATES / "act_value.yaml"], rows, shots, question)
        answer = {**question, "doc_to_target": "answer"} if chat else {}
        template = TEMPLATES / "act_answer.yaml"
        tasks[f"{name}_answer"] = LocalTask([template], rows, shots, answer)
    return tasks


def _rows_by_name(folder: Path) -> dict[str, list[dict]]:
    """Questions of a folder's JSON lines, by the name of their task."""
    by_name = defaultdict(list)
    for path in sorted(folder.glob("*.jsonl")):
        for row in load_questions(path):
            kept = {key: row[key] for key in ("id", "language", "question", "answer", "value")}
            by_name[_slug(f"act_{row['language']}_{row['domain']}")].append(kept)
    return dict(sorted(by_name.items()))


def _mgsm_tasks(folder: Path) -> dict[str, LocalTask]:
    """MGSM as its authors' files have it, in the columns of the Hub's copy."""
    tasks = {}
    for path in sorted(folder.glob("mgsm_*.tsv")):
        language = path.stem.removeprefix("mgsm_")
        rows = [
            {
                "id": row["id"],
                "question": row["question"],
                "answer": None,
                "answer_number": row["value"],
            }
            for row in load_questions(path, "mgsm")
        ]
        includes = [_path_in_harness(f"mgsm/direct/mgsm_direct_{language}.yaml")]
        includes.append(TEMPLATES / "mgsm.yaml")
        tasks[f"mgsm_local_{language}"] = LocalTask(includes, rows)
    return tasks


def _path_in_harness(name: str) -> Path:
    """Path of one of the harness's own YAML files; importing the harness would take seconds."""
    require_harness()
    spec = find_spec("lm_eval")
    folders = (spec.submodule_search_locations if spec else None) or []
    path = next((Path(folder) / "tasks" / name for folder in folders), Path(name))
    if not path.is_file():
        raise ValueError(f"the installed lm-evaluation-harness has no task {path.stem}")
    return path


def _exams_tasks(folder: Path) -> dict[str, LocalTask]:
    """EXAMS, a task for each language of a file."""
    tasks: dict[str, LocalTask] = {}
    for path in sorted(folder.glob("*test.jsonl")):
        train_path = path.with_name(path.name.replace("test.jsonl", "train.jsonl"))
        train = read_exams(train_path) if train_path.is_file() else {}
        for language, rows in sorted(read_exams(path).items()):
            name = _slug(f"exams_local_{language}")
            if name in tasks:
                raise ValueError(f"two files of {folder} hold EXAMS in {language}; keep one there")
            tasks[name] = LocalTask([TEMPLATES / "exams.yaml"], rows, train.get(language, []))
    return tasks


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().lower())
