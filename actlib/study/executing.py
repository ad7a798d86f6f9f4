"""Run one notebook headless, and leave it executed, whole or not at all.

    execute("notebooks/05_transfer.ipynb", partial, out, {"preset": "tiny"})

While it runs, its cells so far are in a file of their own, which stays after an error, to be read.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

from actlib.files import clear_errors
from actlib.folders.locks import held
from actlib.folders.records import read_json, write_record

GIVEN = ("ValueError", "Unwritable")
"""Errors of a cell that speak of something given, in one sentence."""


def execute(source: Path, partial: Path, out: Path, parameters: Mapping[str, str]) -> None:
    """Execute a notebook; another process that executes it too is waited for.

    Args:
        source: the notebook.
        partial: file of its cells while it runs.
        out: where it goes at the end.
        parameters: that differ from its own.

    Raises:
        ValueError: a cell says that something given cannot be used.
        PapermillExecutionError: a cell failed otherwise.
    """
    with held(partial.with_name(f".{source.stem}.lock"), f"running notebook {source.stem}"):
        started = time.time()
        with clear_errors(partial):
            try:
                papermill.execute_notebook(
                    str(source), str(partial), dict(parameters), kernel_name="python3"
                )
            except PapermillExecutionError as error:
                if error.ename not in GIVEN:
                    raise
                told = f"notebook {source.stem}, cell [{error.exec_count}]: {error.evalue}"
                raise ValueError(told) from error
        with clear_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(out)
        _note(source, out, parameters, started)


def _note(source: Path, out: Path, parameters: Mapping[str, str], started: float) -> None:
    # What the notebook read is known to the records of the tables that it left.
    figures = Path(parameters.get("figures") or Path("figures") / parameters.get("preset", "smol"))
    path = figures / f"notebook{source.stem[:2]}.record.json"
    inputs: dict[str, Path] = {"notebook": source}
    if path.is_file() and path.stat().st_mtime >= started - 1:
        told = read_json(path)["inputs"]
        inputs |= {each["role"]: path.parent / each["path"] for each in told}
    write_record(
        out.with_name(f"{out.name}.record.json"),
        [out],
        inputs,
        seconds=time.time() - started,
        parameters=dict(parameters),
    )
