"""Snakemake in the background, as `make study` runs it, and the processes below it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import psutil

from actlib.study.presets import ROOT

MOST_SECONDS = 5400  # of any wait


@contextmanager
def started(store, *words, environment=os.environ):
    """Snakemake with a store and a process group of its own: its process, and its log."""
    log = store.with_suffix(".log")
    own = {"ACT_STORE": str(store), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("a") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *map(str, words)],
            cwd=ROOT,
            env={**environment, **own},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield run, log
    finally:
        with suppress(ProcessLookupError):  # with its jobs
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def first(look, run):
    """What `look` finds, as soon as it finds something, while the run goes on."""
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline and run.poll() is None:
        if found := look():
            return found
        time.sleep(0.05)
    return None


def processes(*parts):
    """Processes that have all these parts in their command lines, each as one argument."""
    every = psutil.process_iter(["cmdline"])
    return [each.pid for each in every if {*parts} <= {*(each.info["cmdline"] or [])}]
