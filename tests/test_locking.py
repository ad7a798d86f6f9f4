"""One process at a time: the second waits or is refused, and a dead one holds nothing."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from actlib.study import locking
from actlib.study.locking import locked
from actlib.study.runs import execute, plan

pytestmark = pytest.mark.filterwarnings("ignore:flock not supported")
HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
from actlib.study.locking import locked
path, seconds, has_flock = sys.argv[1:]
if has_flock == "no":
    def refuse(*_arguments):
        raise OSError(errno.ENOSYS, "refused")
    fcntl.flock = refuse
with locked(Path(path), "building", wait=False):
    print("held", flush=True)
    time.sleep(float(seconds))
"""
ADD = """
import sys
from pathlib import Path
from actlib.study.provenance import write_provenance
for number in range(10):
    write_provenance(Path(sys.argv[1]), f"{sys.argv[2]}{number}", {})
"""


@pytest.fixture(params=["yes", "no"])
def has_flock(request, monkeypatch):
    """Whether the file system has `flock`, which Lustre may be mounted without."""
    if request.param == "no":

        def refuse(*_arguments):
            raise OSError(errno.ENOSYS, "refused")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


@pytest.fixture
def other(tmp_path):
    """`other(0.5)`: a process that has the lock of a folder, for so many seconds."""
    started = []

    def start(seconds, has_flock="yes", folder=tmp_path):
        command = [sys.executable, "-c", HOLD, str(folder / ".lock"), str(seconds), has_flock]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_waits_and_says_for_what(other, has_flock, tmp_path, capsys):
    process = other(1.0, has_flock)
    with locked(tmp_path / ".lock", "building"):
        assert process.wait(5) == 0
    expected = f"waiting: another process is building (lock {tmp_path / '.lock'})\n"
    assert capsys.readouterr().err == expected


def test_a_killed_process_holds_nothing(other, has_flock, tmp_path):
    process = other(60, has_flock)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(2):
        with locked(tmp_path / ".lock", "building", wait=False):
            pass


@pytest.mark.parametrize("has_flock", ["no"], indirect=True)
def test_what_another_machine_left_is_not_waited_for_forever(
    other, has_flock, tmp_path, monkeypatch
):
    monkeypatch.setattr(locking, "PATIENCE", 0.5)
    other(60, has_flock)
    path = tmp_path / ".lock"
    pid, _, *rest = path.read_text().splitlines()
    path.write_text("\n".join([pid, "another-machine", *rest]) + "\n")
    with pytest.raises(TimeoutError, match=f"{path}.* held by pid {pid} on another-machine"):
        locked(path, "building")


def test_a_second_run_is_refused_in_one_sentence(other, has_flock, tmp_path, monkeypatch):
    monkeypatch.setenv("ACT_STORE", str(tmp_path))
    run = plan("tiny")
    other(60, has_flock, folder=run.folder.parent)
    words = rf"is running tiny \(lock {run.folder.parent}/.lock\); wait until it has ended"
    with pytest.raises(ValueError, match=words):
        execute(run, 1)
    assert not run.log("snakemake").exists()


def test_two_processes_lose_no_entry_of_one_file(tmp_path):
    command = [sys.executable, "-c", ADD, str(tmp_path)]
    both = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    entries = json.loads((tmp_path / "provenance.json").read_text())
    assert set(entries) == {f"{name}{number}" for name in "ab" for number in range(10)}
