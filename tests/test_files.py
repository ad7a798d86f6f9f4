import resource

import pytest
import torch

from actlib.files import atomic_file, atomic_folder, require_free, write_text
from actlib.masks import ChannelMask


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
