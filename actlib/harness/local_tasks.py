"""Tasks of local files in lm-evaluation-harness's own YAML.

    names = write_tasks(["data/questions", "path/to/mgsm", "path/to/exams"], "my_tasks")
    # lm_eval --include_path my_tasks --tasks act_fr_maths,mgsm_local_fr ...

| task | files | score |
| --- | --- | --- |
| `act_LANGUAGE_DOMAIN` | `test/*.jsonl`, shots of `train/*.jsonl` | number, written answer |
| `act_LANGUAGE_DOMAIN_answer` | the same | likelihood of the worked answer |
| `mgsm_local_LANGUAGE` | `mgsm_LANGUAGE.tsv`, MGSM | as `mgsm_direct_LANGUAGE` |
| `exams_local_LANGUAGE` | `*test.jsonl`, EXAMS | `acc`, `acc_norm` |

`act_LANGUAGE_DOMAIN` is there where every answer has a number.
"""

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from actlib.numerals import find_numbers
from actlib.question_files import json_lines
from actlib.questions import load_questions, read_exams

TEMPLATES = Path(__file__).parent / "tasks"
SHIPPED = Path(__file__).resolve().parents[2] / "data" / "questions"
Folders = str | Path | Sequence[str | Path] | None


class LocalTask(NamedTuple):
    """A task: the YAML files that it includes (a later one wins), its rows, and its own entries.

    Shots are drawn from `train`, or where that is empty from other test rows.
    """

    includes: list[Path]
    test: list[dict]
    train: Sequence[dict] = ()
    settings: Mapping[str, str] = {}


def require_harness() -> Path:
    """Folder of lm-evaluation-harness, which takes seconds to import.

    Raises:
        ValueError: it is not installed; the sentence says how to install it.
    """
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise ValueError(
            "evaluating tasks needs lm-evaluation-harness, which is not installed: "
            'pip install "actlib[harness]"'
        )
    return Path(spec.origin).parent


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
    """Write `TASK.yaml` and `TASK.test.jsonl` of the local tasks; returns their names, sorted.

    The folder is for `lm_eval --include_path FOLDER`, and made if absent; else as `local_tasks`.
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
        content = {
            "include": [str(path) for path in task.includes],
            "task": name,
            "dataset_kwargs": paths,
            "test_split": "test",
            "training_split": "train" if task.train else None,
            "fewshot_split": "train" if task.train else "test",
            **task.settings,
        }
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return sorted(tasks)


def read_rows(**paths: str) -> Any:
    """Rows that `write_tasks` wrote, by split; the YAML names this as `custom_dataset`.

    The loader of JSON in `datasets` would take dates for times, and keep changed files in a cache.
    """
    from datasets import Dataset, DatasetDict

    splits = {split: paths[split] for split in ("test", "train") if split in paths}
    rows = {split: [*json_lines(Path(path)).values()] for split, path in splits.items()}
    return DatasetDict({split: Dataset.from_list(each) for split, each in rows.items()})


def answer_scores(
    row: Mapping[str, str], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Scores of a worked answer from its log-likelihood.

    Args:
        row: has `answer`.
        results: one pair: log-likelihood of the answer in nats, and whether greedy decoding would
            write it.

    Returns:
        `nll_per_byte`: nats per UTF-8 byte of the answer, which models with different tokenizers
        share (lower is better); `exact`: 1.0 where greedy decoding writes the answer, whatever
        follows (`actlib.evaluate` wants the end of the turn too).
    """
    ((likelihood, greedy),) = results
    return {
        "nll_per_byte": -likelihood / len(row["answer"].encode("utf-8")),
        "exact": float(greedy),
    }


def number_scores(row: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Whether a written answer has the right number, read as the row's language writes numbers.

    Args:
        row: has `value`, the right number in plain digits such as `1200` or `-3.5`, and `language`.
        results: one text, in which numbers may be written in digits of any script.

    Returns:
        `number_after_equals`: 1.0 where the first number after the first equals sign is the right
        one, as in this study's answers; `last_number`: 1.0 where the text's last number is.
    """
    (text,) = results
    right, language = float(row["value"]), row["language"]
    _, equals, answer = text.replace("\uff1d", "=").partition("=")
    after = find_numbers(equals + answer, language)[:1]
    last = find_numbers(text, language)[-1:]
    return {
        "number_after_equals": float(after == [right]),
        "last_number": float(last == [right]),
    }


def _question_tasks(folder: Path, chat: bool) -> dict[str, LocalTask]:
    """Two tasks of each language and domain in JSON lines; one where answers have no number."""
    tasks = {}
    train = _rows_by_name(folder / "train")
    question = {"doc_to_text": "question"} if chat else {}
    for name, rows in _rows_by_name(folder / "test").items():
        shots = train.get(name, [])
        numbers = sum(bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", row["value"])) for row in rows)
        if numbers == len(rows):
            tasks[name] = LocalTask([TEMPLATES / "act_value.yaml"], rows, shots, question)
        elif numbers:
            without = f"{len(rows) - numbers} of {len(rows)} questions of {name} have no number"
            warnings.warn(
                f"{without} as their `value`, so only {name}_answer is there", stacklevel=2
            )
        answer = {**question, "doc_to_target": "answer"} if chat else {}
        tasks[f"{name}_answer"] = LocalTask([TEMPLATES / "act_answer.yaml"], rows, shots, answer)
    return tasks


def _rows_by_name(folder: Path) -> dict[str, list[dict]]:
    """Questions of a folder's JSON lines, by the name of their task."""
    by_name, domains = defaultdict(list), dict[str, str]()
    for path in sorted(folder.glob("*.jsonl")):
        for row in load_questions(path):
            columns = {key: row[key] for key in ("id", "language", "question", "answer", "value")}
            name = _slug(f"act_{row['language']}_{row['domain']}")
            domain = domains.setdefault(name, row["domain"])
            if domain != row["domain"]:
                raise ValueError(f"{domain} and {row['domain']} would both be the task {name}")
            by_name[name].append(columns)
    return dict(sorted(by_name.items()))


def _mgsm_tasks(folder: Path) -> dict[str, LocalTask]:
    """MGSM as its authors' files have it, in the columns of the Hub's copy."""
    tasks = {}
    for path in sorted(folder.glob("mgsm_*.tsv")):
        language = path.stem.removeprefix("mgsm_")
        prompt = require_harness() / f"tasks/mgsm/direct/mgsm_direct_{language}.yaml"
        if not prompt.is_file():
            raise ValueError(f"the installed lm-evaluation-harness has no task {prompt.stem}")
        rows = [
            {"id": row["id"], "question": row["question"], "answer": None}
            | {"answer_number": row["value"]}
            for row in load_questions(path)
        ]
        tasks[f"mgsm_local_{language}"] = LocalTask([prompt, TEMPLATES / "mgsm.yaml"], rows)
    return tasks


def _exams_tasks(folder: Path) -> dict[str, LocalTask]:
    """EXAMS, a task for each language of a file."""
    tasks: dict[str, LocalTask] = {}
    for path in sorted(folder.glob("*test.jsonl")):
        train_path = path.with_name(path.name.replace("test.jsonl", "train.jsonl"))
        train = _exams_by_language(train_path) if train_path.is_file() else {}
        for language, rows in sorted(_exams_by_language(path).items()):
            name = _slug(f"exams_local_{language}")
            if name in tasks:
                raise ValueError(f"two files of {folder} hold EXAMS in {language}; keep one there")
            tasks[name] = LocalTask([TEMPLATES / "exams.yaml"], rows, train.get(language, []))
    return tasks


def _exams_by_language(path: Path) -> Mapping[str, list[dict]]:
    """Rows of multiple choice by language; canceled ones, without a right choice, are left out."""
    lines, by_language = json_lines(path), defaultdict(list)
    for where, line in lines.items():
        exam = read_exams(where, line)
        choices, key = exam["choices"], exam["answer"]
        if key in choices:
            row = {"id": str(line.get("id", "")), "subject": exam["subject"]}
            row |= {"question": exam["question"].strip(), "target": list(choices).index(key)}
            row |= {"choices": [text.strip() for text in choices.values()]}
            by_language[exam["language"]].append(row)
    left_out = len(lines) - sum(map(len, by_language.values()))
    if left_out:
        warnings.warn(
            f"{left_out} of {len(lines)} questions of {path} have no right choice and are left out",
            stacklevel=2,
        )
    return by_language


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.strip().lower())
