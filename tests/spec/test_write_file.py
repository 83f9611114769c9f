"""Files are written where they are named, and nowhere else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_hpc.spec.read_file import UnfitFileError
from vllm_hpc.spec.write_file import make_folder, make_mark, open_append, open_new, replacing

Make = Callable[[Path], object]


def _link(path: Path) -> None:
    (path.parent / "target").write_text("text")
    path.symlink_to("target")


def _other_name(path: Path) -> None:
    (path.parent / "target").write_text("text")
    path.hardlink_to(path.parent / "target")


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_link, "it must be a regular file, not a link"),
        (_other_name, "it must have no other name (a hard link): remove it"),
        (os.mkfifo, "it must be a regular file"),
        (_socket, "it must be a regular file"),
    ],
)
def test_nothing_is_appended_to_what_is_no_file_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make, said: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    make(Path("one"))
    with pytest.raises(UnfitFileError) as error:
        open_append(Path("one"))
    assert (error.value.strerror, error.value.filename) == (said, "one")


def test_appending_makes_a_file_and_goes_on_with_it(tmp_path: Path) -> None:
    for text in (b"first ", b"second"):
        descriptor = open_append(tmp_path / "one")
        assert os.get_blocking(descriptor)
        os.write(descriptor, text)
        os.close(descriptor)
    assert (tmp_path / "one").read_bytes() == b"first second"
    with pytest.raises(FileNotFoundError):
        open_append(tmp_path / "other", makes=False)


@pytest.mark.parametrize("make", [_link, _other_name, os.mkfifo, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_new_file_takes_the_place_of_whatever_has_its_name(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "one")
    with pytest.raises(FileExistsError):
        open_new(tmp_path / "one")
    with replacing(tmp_path / "one") as file:
        file.write(b"new")
    assert (tmp_path / "one").read_bytes() == b"new"
    assert {file.name for file in tmp_path.iterdir()} <= {"one", "target"}
    assert all(file.read_text() == "text" for file in tmp_path.glob("target"))


def test_an_error_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "one") as file:
        file.write(b"half")
        1 / 0  # noqa: B018 - raises
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_mark_that_is_made_again_has_a_new_time(tmp_path: Path) -> None:
    make_mark(tmp_path / "mark")
    os.utime(tmp_path / "mark", (1, 1))
    make_mark(tmp_path / "mark")
    assert (tmp_path / "mark").stat().st_mtime > 1


def test_a_folder_is_its_owners_to_write_in_and_no_link(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = os.umask(0)
    request.addfinalizer(lambda: os.umask(before))
    for _ in range(2):
        make_folder(tmp_path / "folder")
    assert oct((tmp_path / "folder").stat().st_mode & 0o777) == "0o755"
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(UnfitFileError, match="it must be a folder, not a link"):
        make_folder(tmp_path / "link")
