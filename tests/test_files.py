import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from actlib.files import atomic_file, atomic_folder, require_free, write_text
from actlib.masks import ChannelMask

STAY = """
import sys, time
from pathlib import Path
from actlib.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as unfinished:
    (unfinished / "part").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is in the middle of writing `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", STAY, str(tmp_path / "out")], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    yield process
    process.kill()
    process.wait()


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".out.")]


def test_a_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "new" / "out"
    with atomic_folder(out) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "file").write_text("whole")
        assert not out.exists()
    assert (out / "deep" / "file").read_text() == "whole"
    assert list((tmp_path / "new").iterdir()) == [out]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert out.stat().st_mode == plain.stat().st_mode  # As other folders, not private.


def test_a_link_in_place_of_the_output_is_followed(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "out") as unfinished:
        (unfinished / "file").write_text("whole")
    assert (tmp_path / "disk" / "file").read_text() == "whole" and (tmp_path / "out").is_symlink()


def test_a_file_replaces_another_at_the_end(tmp_path):
    out = tmp_path / "out"
    out.write_text("old")
    with atomic_file(out) as unfinished:
        unfinished.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("beside", [atomic_folder, atomic_file])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(tmp_path, beside, error):
    with pytest.raises(error), beside(tmp_path / "out"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_a_hidden_folder_that_the_next_writer_removes(writer, tmp_path):
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(hidden(tmp_path)) == 1 and not (tmp_path / "out").exists()
    with atomic_folder(tmp_path / "other"):
        assert len(hidden(tmp_path)) == 1  # It is of another output.
    with atomic_folder(tmp_path / "out"):
        assert len(hidden(tmp_path)) == 1  # The writer's own.
    assert not hidden(tmp_path)


def test_a_folder_in_use_is_left_alone(writer, tmp_path):
    (used,) = hidden(tmp_path)
    with atomic_folder(tmp_path / "out"):
        assert used in hidden(tmp_path)
    assert (used / "out" / "part").read_text() == "half"
    assert writer.poll() is None


def test_what_only_looks_alike_is_left_alone(tmp_path):
    alike = [tmp_path / name for name in (".out.mine.partial", ".outer.abcdefgh.partial")]
    for path in alike:
        path.mkdir()
    (tmp_path / ".out.abcdefgh.partial").symlink_to(tmp_path / "elsewhere")
    with atomic_folder(tmp_path / "out"):
        pass
    assert all(path.is_dir() for path in alike)


def test_a_taken_output_is_refused(tmp_path):
    require_free(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="exists and is not empty"):
            require_free(taken)


LIMIT = 1 << 20


@pytest.fixture
def short(tmp_path):
    """A folder whose files may have no more than a megabyte."""
    (tmp_path / "short").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield tmp_path / "short"
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_folder(out):
    with atomic_folder(out) as unfinished:
        (unfinished / "a").write_bytes(b"1" * 2 * LIMIT)


@pytest.mark.parametrize(
    "write",
    [
        write_folder,
        lambda out: write_text(out, "x" * 2 * LIMIT),
        lambda out: ChannelMask({"m": torch.ones(2 * LIMIT, dtype=torch.bool)}).save(out),
    ],
)
def test_what_has_no_room_is_an_error_that_names_it_and_leaves_nothing(short, write):
    with pytest.raises(OSError, match=r"short/(out|\.out\.).*"):
        write(short / "out")
    assert not list(short.iterdir())
