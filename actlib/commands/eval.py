"""The word `eval` of the command line: scores of a model by lm-evaluation-harness.

actlib eval MODEL --tasks 'act_fr_*'
actlib eval MODEL --tasks mgsm_local_fr exams_local_french --data mgsm/ exams/ --samples said/
actlib eval MODEL --tasks 'mgsm_direct_*' --backend vllm --out scores.csv
actlib eval --list --data mgsm/
"""

import argparse
from pathlib import Path

from actlib.commands.words import add_json, add_step, require_at_least, require_output
from actlib.files.records import record_beside
from actlib.files.writing import write_text


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the step `eval`."""
    example = __doc__.partition("\n\n")[2]
    step = add_step(steps, "eval", "score a model through lm-evaluation-harness", example)
    step.add_argument("model", nargs="?", help="model folder or Hub id")
    step.add_argument("--tasks", nargs="+", default=["act_*"], help="names or patterns")
    step.add_argument("--data", nargs="+", help="folders of local files; the study's if left out")
    step.add_argument("--list", action="store_true", help="name the tasks of the local files")
    step.add_argument("--limit", type=int, help="most items of each task")
    step.add_argument("--batch-size", help="items in a batch, or auto")
    step.add_argument("--shots", type=int, help="worked examples before each question")
    step.add_argument("--chat", action="store_true", help="ask through the chat template")
    step.add_argument("--backend", choices=("hf", "vllm"), default="hf")
    step.add_argument("--samples", help="folder for what was asked and said, absent or empty")
    step.add_argument("--out", help="file for the table, .csv or .json; printed if left out")
    add_json(step)
    step.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> None:
    """Judge, or list the local tasks.

    Raises:
        ValueError: as `actlib.harness.judging.judge`; no model is named; the ending of `--out`.
    """
    if given.list:
        from actlib.harness.local_tasks import local_tasks

        print("\n".join(local_tasks(given.data)))
        return
    if given.model is None:
        raise ValueError("eval needs a model folder or Hub id, or --list")
    if given.out and not given.out.endswith((".csv", ".json")):
        raise ValueError(f"--out must end in .csv or .json, got {given.out}")
    size = given.batch_size
    _require_options(given, size)
    from actlib.harness.judging import judge

    table = judge(
        given.model,
        tasks=given.tasks,
        data=given.data,
        limit=given.limit,
        batch_size=int(size) if size and size.isdigit() else size,
        samples=given.samples,
        backend=given.backend,
        num_fewshot=given.shots,
        apply_chat_template=given.chat,
    )
    if given.json:
        print(table.to_json(orient="records", indent=1))
    elif not given.out:
        print(table.to_string(index=False))
    if not given.out:
        return
    as_csv = given.out.endswith(".csv")
    text = table.to_csv(index=False) if as_csv else table.to_json(orient="records", indent=1)
    write_text(Path(given.out), text)
    inputs = {"model": given.model}
    inputs |= {f"data {number}": path for number, path in enumerate(_listed(given.data), 1)}
    record_beside(given.out, inputs, tasks=given.tasks, limit=given.limit, shots=given.shots)


def _listed(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or [])


def _require_options(given: argparse.Namespace, size: str | None) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    if given.out:
        require_output(given.out)
    if given.samples:
        require_output(given.samples, option="--samples", folder=True)
    require_at_least(0, given.shots, "--shots")
    if size and not (size.isdigit() and int(size)) and not size.startswith("auto"):
        raise ValueError(f"--batch-size must be a number of at least 1, or auto, got {size}")
