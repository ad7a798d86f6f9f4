import resource

import pytest
import torch

from actlib.files import atomic_file, atomic_folder, write_text
from actlib.masks import ChannelMask

LIMIT = 1 << 20


def test_a_folder_appears_at_the_end_also_behind_a_link(tmp_path):
    out = tmp_path / "new" / "out"
    with atomic_folder(out) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "file").write_text("whole")
        assert not out.exists()
    assert (out / "deep" / "file").read_text() == "whole"
    assert list((tmp_path / "new").iterdir()) == [out]
    (tmp_path / "disk").mkdir()
    assert out.stat().st_mode == (tmp_path / "disk").stat().st_mode  # not private
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "link") as unfinished:
        (unfinished / "file").write_text("whole")
    assert (tmp_path / "disk" / "file").read_text() == "whole" and (tmp_path / "link").is_symlink()


def test_a_file_or_a_folder_replaces_another_at_the_end(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    folder.mkdir()
    for path in (file, folder / "a"):
        path.write_text("old")
    with atomic_file(file) as unfinished, atomic_folder(folder, replace=True) as beside:
        unfinished.write_text("new")
        (beside / "b").write_text("new")
        assert file.read_text() == (folder / "a").read_text() == "old"
    assert file.read_text() == "new" and [path.name for path in folder.iterdir()] == ["b"]
    assert {*tmp_path.iterdir()} == {file, folder}


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
def test_what_has_no_room_is_an_error_that_names_it_and_leaves_nothing(tmp_path, write):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        with pytest.raises(OSError, match=r"/(out|\.out\.).*"):
            write(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
