"""Run one notebook headless, and leave it executed, whole or not at all.

    execute("notebooks/05_transfer.ipynb", partial, out, {"preset": "tiny"})

While it runs, its cells so far are in a file of their own, which stays after an error, to be read.
"""

import os
from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError

from actlib.files import clear_errors
from actlib.study.locking import locked

GIVEN = ("ValueError", "Unwritable")
"""Errors of a cell that speak of something given, in one sentence."""


def execute(source: Path, partial: Path, out: Path, parameters: Mapping[str, str]) -> None:
    """Execute a notebook; another process that executes it too is waited for.

    Args:
        source: the notebook.
        partial: file of its cells while it runs.
        out: where it goes at the end.
        parameters: by name; those that it does not have, or has with this value, are left out.

    Raises:
        ValueError: a cell says that something given cannot be used.
        PapermillExecutionError: a cell failed otherwise.
    """
    own = {
        name: literal_eval(each["default"])
        for name, each in papermill.inspect_notebook(str(source)).items()
    }
    given = {n: value for n, value in parameters.items() if n in own and own[n] != value}
    if "figures" in parameters and "figures" not in own:
        os.environ["ACT_RESULTS"] = str(Path(parameters["figures"]).resolve())
    with locked(partial.with_name(f".{source.stem}.lock"), f"running notebook {source.stem}"):
        with clear_errors(partial):
            try:
                papermill.execute_notebook(str(source), str(partial), given, kernel_name="python3")
            except PapermillExecutionError as error:
                if error.ename not in GIVEN:
                    raise
                told = f"notebook {source.stem}, cell [{error.exec_count}]: {error.evalue}"
                raise ValueError(told) from error
        with clear_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(out)
