"""What is the user's alone, by its owner, its mode, its place, and what it is."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_hpc.spec import ownership, user_cache
from vllm_hpc.spec.ownership import NotMineError, is_mine_alone, is_writable_by_others, read_mine

OTHERS = 61_999


def test_an_own_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert read_mine(tmp_path / "file") == b"mine"


def _foreign(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a file of another user needs root")
    path.write_text("theirs")
    os.chown(path, OTHERS, OTHERS)


def _with_mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text("mine")
        if os.geteuid() == 0:
            os.chown(path, -1, OTHERS)  # not root's own group
        path.chmod(mode)

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(_with_mode(0o664), "others can write to", id="a group writes"),
        pytest.param(_with_mode(0o646), "others can write to", id="everybody writes"),
        pytest.param(_foreign, r"belongs to another user \(61999\)", id="another user's"),
        pytest.param(os.mkfifo, "must be a regular file", id="fifo"),
        pytest.param(os.mkdir, "must be a regular file", id="folder"),
    ],
)
def test_any_other_is_not(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tmp_path / "file")
    with pytest.raises(NotMineError, match=reason):
        read_mine(tmp_path / "file")


def test_neither_is_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(NotMineError, match="must be a regular file, not a link"):
        read_mine(tmp_path / "link")


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(NotMineError, match="at most 64 MiB"):
        read_mine(tmp_path / "sparse")


def test_a_group_of_the_user_alone_is_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where everyone has a group of their name, and the umask 002."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "file").chmod(0o664)
    os.chown(tmp_path / "file", -1, pwd.getpwuid(os.geteuid()).pw_gid)
    forget_groups()
    assert read_mine(tmp_path / "file") == b"mine"


def test_a_group_of_the_owner_alone_is_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted owner's file, as that owner's umask of 002 leaves it."""
    if os.geteuid() != 0:
        pytest.skip("a file of another user needs root")
    (tmp_path / "file").write_text("theirs")
    os.chown(tmp_path / "file", OTHERS, OTHERS)
    (tmp_path / "file").chmod(0o664)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: pwd.struct_passwd((f"u{uid}", "x", uid, uid, "", "/", "")))
    user = pwd.struct_passwd(("u7", "x", 7, OTHERS, "", "/", ""))
    for members, listed, others in (([], [], False), (["u7"], [], True), ([], [user], True)):
        monkeypatch.setattr("grp.getgrgid", lambda gid, also=members: grp.struct_group((f"u{gid}", "x", gid, also)))
        monkeypatch.setattr("pwd.getpwall", lambda listed=listed: listed)
        forget_groups()
        assert is_writable_by_others((tmp_path / "file").stat()) == others
    forget_groups()


def forget_groups() -> None:
    ownership._is_own_group.cache_clear()
    ownership._listed_members.cache_clear()


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that everybody can traverse, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-ownership-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def shared(common: Path) -> Path:
    """A folder that a group writes to."""
    folder = common / "shared"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, -1, OTHERS)
    folder.chmod(0o2770)
    return folder


def test_a_folder_is_private_where_nobody_else_can_replace_it(shared: Path) -> None:
    """In a folder that a group writes to, any of it can rename the user's own and put theirs in its place."""
    (shared / "cache").mkdir(mode=0o700)
    assert not is_mine_alone(shared)
    assert not is_mine_alone(shared / "cache")
    shared.chmod(0o3770)  # sticky
    assert is_mine_alone(shared / "cache")
    shared.chmod(0o700)
    assert is_mine_alone(shared)


def test_what_nobody_reaches_is_private(shared: Path) -> None:
    inner = shared / "closed" / "open" / "cache"
    inner.mkdir(parents=True)
    (shared / "closed").chmod(0o700)
    os.chown(inner.parent, -1, OTHERS if os.geteuid() == 0 else -1)
    inner.parent.chmod(0o2770)
    assert not is_mine_alone(inner)  # "closed" itself may be replaced
    shared.chmod(0o750)
    assert is_mine_alone(inner)


def test_an_own_link_is_private_where_both_its_ends_are(shared: Path, common: Path) -> None:
    (common / "disk").mkdir(mode=0o700)
    (common / "link").symlink_to("disk")
    (shared / "link").symlink_to(common / "disk")
    (common / "into").symlink_to(shared)
    assert [is_mine_alone(one) for one in (common / "link", shared / "link", common / "into")] == [True, False, False]


def test_a_cache_that_others_write_to_moves_to_a_private_folder(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    moved = user_cache.cache_folder()
    assert moved == tmp_path / "node" / f"vllm-hpc-{os.getuid()}" / "cache"
    (tmp_path / "node" / f"vllm-hpc-{os.getuid()}").chmod(0o777)
    another = user_cache.cache_folder()
    assert another.parent.match(f"vllm-hpc-{os.getuid()}-*")
    assert user_cache.cache_folder() == another
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    with pytest.raises(PermissionError, match="must be your own folder"):
        user_cache.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert user_cache.cache_folder() == tmp_path / "own" / "vllm-hpc"


def test_a_hidden_owner_is_root_where_only_the_owner_writes(
    shared: Path, common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner that a container shows for all whom it does not map; the group of that name is not that user alone."""
    if os.geteuid() != 0:
        pytest.skip("a folder of another user needs root")
    (shared / "cache").mkdir(mode=0o700)
    monkeypatch.setattr("vllm_hpc.spec.user_namespace._hidden_uid", lambda: OTHERS)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: pwd.struct_passwd((f"u{uid}", "x", uid, uid, "", "/", "")))
    monkeypatch.setattr("grp.getgrgid", lambda gid: grp.struct_group((f"u{gid}", "x", gid, [])))
    forget_groups()
    os.chown(shared, OTHERS, OTHERS)
    found = []
    for mode in (0o755, 0o775, 0o777, 0o1777):
        shared.chmod(mode)
        found.append(is_mine_alone(shared / "cache"))
    monkeypatch.setattr(ownership, "COMMON_FOLDERS", (shared,))
    assert [*found, is_mine_alone(shared / "cache")] == [True, False, False, False, True]
    forget_groups()
