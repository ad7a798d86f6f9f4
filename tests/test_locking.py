"""One process at a time: the second waits or is refused."""

import subprocess
import sys

import pytest

from actlib.study.locking import locked
from actlib.study.runs import execute, plan

HOLD = """
import sys, time
from pathlib import Path
from actlib.study.locking import locked
with locked(Path(sys.argv[1]) / ".lock", "building", wait=False):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def other():
    """`other(folder, 0.5)`: a process that has the lock of a folder, for so many seconds."""
    started = []

    def start(folder, seconds):
        command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_waits_and_says_for_what(other, tmp_path, capsys):
    process = other(tmp_path, 1.0)
    with locked(tmp_path / ".lock", "building"):
        assert process.wait(5) == 0
    expected = f"waiting: another process is building (lock {tmp_path / '.lock'})\n"
    assert capsys.readouterr().err == expected


def test_a_second_run_is_refused(other, tmp_path, monkeypatch):
    monkeypatch.setenv("ACT_STORE", str(tmp_path))
    run = plan("tiny")
    folder = run.folder.parent
    other(folder, 60)
    words = rf"is running tiny \(lock {folder}/.lock\); wait until it has ended"
    with pytest.raises(ValueError, match=words):
        execute(run, 1)
    assert not run.log("snakemake").exists()
