"""A full disk and a folder that is read-only: one sentence with the remedy, nothing half-made."""

import os
import resource
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from actlib.cli import main
from actlib.files import Unwritable, atomic_file, atomic_folder, write_text
from actlib.masks import ChannelMask
from actlib.study.families import build
from actlib.study.presets import load_preset

SIZE = 1 << 20


def mounted(folder, *options):
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() or 'not allowed'}")


@pytest.fixture
def full(tmp_path):
    """A disk of one megabyte."""
    mounted(tmp_path / "disk", f"size={SIZE}")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.fixture
def closed(tmp_path):
    """A disk that is read-only."""
    mounted(tmp_path / "disk", "ro")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.fixture
def short():
    """Files may have no more than a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def a_text(folder):
    write_text(folder / "out.txt", "x" * 3 * SIZE)


def weights(folder):
    with atomic_file(folder / "out.safetensors") as unfinished:
        save_file({"w": torch.zeros(SIZE)}, unfinished)


def a_table(folder):
    frame = pd.DataFrame({"x": torch.rand(SIZE).numpy()})
    with atomic_file(folder / "out.parquet") as unfinished:
        frame.to_parquet(unfinished)


def a_mask(folder):
    ChannelMask({"m": torch.rand(3 * SIZE) > 0.5}).save(folder / "out.safetensors")


def a_folder(folder):
    with atomic_folder(folder / "out") as unfinished:
        (unfinished / "a").write_bytes(b"1" * 3 * SIZE)


WRITERS = [a_text, weights, a_table, a_mask, a_folder]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk(full, write):
    with pytest.raises(Unwritable, match=f"no space is left in {full} for .*out.*: free some"):
        write(full)
    # The pictures of a figure are files of their own, each whole.
    assert {path.suffix for path in full.iterdir()} <= {".pdf", ".png"}


@pytest.mark.parametrize("write", WRITERS)
def test_a_read_only_folder(closed, write):
    with pytest.raises(Unwritable, match=f"{closed} cannot be written, so .*out.* was not: make"):
        write(closed)


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_larger_than_allowed(short, tmp_path, write):
    with pytest.raises(Unwritable, match=f"is larger than files may be in {tmp_path}"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_without_room(full, small_preset):
    with (full / "taken").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE * 9 // 10)
    with pytest.raises(Unwritable, match="no space is left in .*models for base-seed0"):
        build(load_preset(small_preset), "base", 0, full, progress=False)
    left = [path for path in full.rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".lock"] == [full / "taken"]


def test_a_step_into_a_read_only_store_says_one_sentence(closed, small_preset, monkeypatch, capsys):
    monkeypatch.setenv("ACT_STORE", str(closed))
    assert main(["step", "build", "--preset", small_preset, "--model", "base"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and "cannot be written" in said
    assert str(Path(closed)) in said
