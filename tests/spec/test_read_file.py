"""Only regular files of a bounded size are read, and nothing is waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_hpc.spec.read_file import UnfitFileError, open_in_folder, read_end, read_regular


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(os.mkfifo, "it must be a regular file", id="fifo"),
        pytest.param(os.mkdir, "it must be a regular file", id="folder"),
        pytest.param(_socket, "it must be a regular file", id="socket"),
        pytest.param(_link_to("/dev/zero"), "it must be a regular file", id="device"),
        pytest.param(_sparse, "it must be at most 1 MiB", id="sparse"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "one")
    with pytest.raises(UnfitFileError) as error:
        read_regular(tmp_path / "one", 1 << 20)
    assert (error.value.strerror, error.value.filename) == (said, str(tmp_path / "one"))


@pytest.mark.timeout(20)
def test_a_file_that_grows_is_not_read_without_end() -> None:
    """Its size is 0, and it has something to read all the same."""
    assert read_regular(Path("/proc/self/status"))
    with pytest.raises(UnfitFileError):
        read_regular(Path("/proc/self/status"), 10)


def test_a_link_is_followed_only_if_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("here")
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "other").symlink_to("folder")
    assert read_regular(tmp_path / "link") == b"here"
    with pytest.raises(UnfitFileError, match="not a link"):
        read_regular(tmp_path / "link", follow_links=False)
    with open_in_folder(tmp_path / "folder" / "file") as file:
        assert file.read() == b"here"
    with pytest.raises(OSError, match="other"):
        open_in_folder(tmp_path / "other" / "file")


def test_of_a_log_the_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("abc")
    assert read_end(tmp_path / "log", 2) == (b"bc", 1)
    assert read_end(tmp_path / "log", 3) == read_end(tmp_path / "log", 4) == (b"abc", 0)


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
