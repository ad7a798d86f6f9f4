"""One process at a time: the second waits or is refused, and a dead one holds nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from actlib.folders.locks import alone, held, take
from actlib.study.runs import plan

HOLD = """
import sys, time
from pathlib import Path
from actlib.folders.locks import held, take
if sys.argv[2] == "take":
    take(Path(sys.argv[1]), "a run of tiny")
    print("held", flush=True)
    time.sleep(60)
with held(Path(sys.argv[1]), "building"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def other(tmp_path):
    """`other("take")` or `other("0.5")`: a process that holds the lock, for so many seconds."""
    made = []

    def start(how):
        command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock"), how]
        made.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert made[-1].stdout.readline() == b"held\n"
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


def test_the_second_waits_and_says_for_whom(other, tmp_path, capsys):
    process, began = other("1.0"), time.monotonic()
    with held(tmp_path / ".lock", "building too"):
        assert time.monotonic() - began > 0.5
    assert f"waiting for building (process {process.pid})" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["take", "60"])
def test_a_killed_process_holds_nothing(other, tmp_path, how):
    process = other(how)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with held(tmp_path / ".lock", "building"):
        pass
    os.close(take(tmp_path / ".lock", "a run"))


def test_a_second_run_is_refused_in_one_sentence(other, tmp_path):
    process = other("take")
    told = rf"a run of tiny \(process {process.pid}\) works in {tmp_path}: wait until it has ended"
    with pytest.raises(ValueError, match=told):
        take(tmp_path / ".lock", "another run")


def test_a_run_of_the_command_line_is_refused_while_another_works(other, tmp_path, monkeypatch):
    monkeypatch.setenv("ACT_STORE", str(tmp_path))
    run = plan("tiny")
    run.folder.mkdir()
    (tmp_path / ".lock").symlink_to(run.folder / ".lock")
    other("take")
    with pytest.raises(ValueError, match="wait until it has ended"):
        run.execute(1)


def test_who_shares_a_lock_knows_whether_others_do(tmp_path):
    first, only = alone(tmp_path / "alive")
    second, also = alone(tmp_path / "alive")
    assert only and not also
    os.close(first)
    os.close(second)
    assert alone(tmp_path / "alive")[1]
