"""A file is opened by way of links that are all told of."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import psutil
import pytest

from vllm_hpc.spec.links import open_noting_links


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file in a folder, and the working directory."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def links_of(path: str | Path) -> list[Path]:
    reached = open_noting_links(Path(path))
    with reached.file as file:
        assert file.read() == b"text"
    assert reached.path == Path(path).resolve()
    assert all(uid == os.geteuid() for _, uid in reached.links)
    return [link for link, _ in reached.links]


def test_without_links_there_are_none(place: Path) -> None:
    assert links_of("real/file") == links_of(place / "real" / "file") == links_of("real/../real/file") == []


def test_links_of_folders_and_of_links_count(place: Path) -> None:
    (place / "inner").symlink_to("real")
    (place / "outer").symlink_to(place / "inner" / "..")
    (place / "real" / "last").symlink_to("../real/file")
    assert links_of("outer/real/last") == [place / "outer", place / "inner", place / "real" / "last"]


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("real/none", errno.ENOENT), ("none/file", errno.ENOENT), ("real/file/x", errno.ENOTDIR), ("loop", errno.ELOOP),
        ("real", errno.EINVAL), ("real/..", errno.EISDIR), ("broken", errno.ENOENT), ("", errno.EISDIR),
    ],
)  # fmt: skip
def test_what_is_no_file_is_named(place: Path, path: str, number: int) -> None:
    (place / "loop").symlink_to("loop")
    (place / "broken").symlink_to("none")
    before = psutil.Process().num_fds()
    with pytest.raises(OSError) as refused:
        open_noting_links(Path(path))
    assert (refused.value.errno, refused.value.filename) == (number, str(Path(path)))
    assert psutil.Process().num_fds() == before
