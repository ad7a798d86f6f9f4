"""One process at a time: the second waits or is refused, and a dead one holds nothing."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import SoftFileLock

from actlib.study import locking
from actlib.study.locking import claim, locked
from actlib.study.runs import execute, plan

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
from actlib.study.locking import claim, locked
path, how, refused = sys.argv[1:]
if refused:
    def refuse(*_arguments):
        raise OSError(int(refused), "refused")
    fcntl.flock = refuse
if how == "claim":
    lock = claim(Path(path), "run of tiny")
    print("held", flush=True)
    time.sleep(60)
with locked(Path(path), "building"):
    print("held", flush=True)
    time.sleep(float(how))
"""
ADD = """
import sys
from pathlib import Path
from actlib.study.provenance import write_provenance
for number in range(10):
    write_provenance(Path(sys.argv[1]), f"{sys.argv[2]}{number}", {})
"""


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOSYS], ids=["flock", "ENOLCK", "ENOSYS"])
def refused(request, monkeypatch):
    """The error that the file system answers `flock` with, as NFS and Lustre may."""
    if request.param is not None:

        def refuse(*_arguments):
            raise OSError(request.param, "refused")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return str(request.param or "")


@pytest.fixture
def other(tmp_path):
    """`other("claim")` or `other("0.5")`: a process that holds the lock, for so many seconds."""
    started = []

    def start(how, refused=""):
        command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock"), how, refused]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_waits_and_says_for_what(other, refused, tmp_path, capsys):
    process = other("1.0", refused)
    with locked(tmp_path / ".lock", "building"):
        assert process.wait(5) == 0
    assert "waiting for another process, building (lock " in capsys.readouterr().err


@pytest.mark.parametrize("how", ["claim", "60"])
def test_a_killed_process_holds_nothing(other, refused, tmp_path, how):
    process = other(how, refused)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with locked(tmp_path / ".lock", "building"):
        pass
    claim(tmp_path / ".lock", "run").release()


def test_a_second_run_is_refused_in_one_sentence(other, refused, tmp_path):
    other("claim", refused)
    with pytest.raises(ValueError, match=rf"another run of tiny works in {tmp_path}: wait until"):
        claim(tmp_path / ".lock", "run of tiny")


def test_what_another_machine_left_is_not_waited_for_forever(tmp_path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locking, "PATIENCE", 1.0)
    with locked(tmp_path / ".lock", "building"):
        (marker,) = tmp_path.glob("*.marker")
        words = marker.read_text().splitlines()
    marker.write_text("\n".join([words[0], "another-machine", *words[2:]]) + "\n")
    began = time.monotonic()
    with pytest.raises(ValueError, match=f"building .* remove {marker}"):
        with locked(tmp_path / ".lock", "building"):
            pass
    assert time.monotonic() - began < 10
    with pytest.raises(ValueError, match=f"if none is alive, remove {marker}"):
        claim(tmp_path / ".lock", "run of tiny")
    SoftFileLock(marker).break_lock()
    claim(tmp_path / ".lock", "run of tiny").release()


def test_a_run_of_the_command_line_is_refused_while_another_works(other, tmp_path, monkeypatch):
    monkeypatch.setenv("ACT_STORE", str(tmp_path))
    run = plan("tiny")
    lock = run.folder.with_name(".lock")
    lock.parent.mkdir()
    lock.touch()
    os.link(lock, tmp_path / ".lock")
    other("claim")
    with pytest.raises(ValueError, match="wait until it has ended"):
        execute(run, 1)


def test_two_processes_lose_no_entry_of_one_file(tmp_path):
    command = [sys.executable, "-c", ADD, str(tmp_path)]
    both = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    entries = json.loads((tmp_path / "provenance.json").read_text())
    assert set(entries) == {f"{name}{number}" for name in "ab" for number in range(10)}
