"""Bytecode that Python cannot keep beside a package is kept on the node, and in the user's cache."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_hpc.engine.startup import bytecode
from vllm_hpc.engine.startup.bytecode import Bytecode

pytestmark = pytest.mark.throughput
_NAME = "package_without_bytecode"


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package whose bytecode Python may not write; the cache is in tmp_path/cache."""
    package = tmp_path / "site" / _NAME
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("WORD = 'first'\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    yield package.parent
    sys.modules.pop(_NAME, None)


def start(monkeypatch: pytest.MonkeyPatch, *, publishes: bool = True) -> tuple[Bytecode, str]:
    """A rank's start in a Python that may write no bytecode: what it keeps, and the word of the package."""
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop(_NAME, None)
    kept = Bytecode(publishes, (_NAME,))
    kept.restore()
    word: str = __import__(_NAME).WORD
    kept.keep()
    return kept, word


def archives(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("bytecode-*/*.tar"))


def is_read(prefix: str | None) -> bool:
    """Whether a new Python takes the package's bytecode from there, as its own log of imports says."""
    assert prefix
    code = f"import sys; sys.pycache_prefix = {prefix!r}; import {_NAME}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-v", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return any(" matches " in line and prefix in line and _NAME in line for line in done.stderr.splitlines())


def test_the_next_start_reads_it_here_and_on_another_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(monkeypatch)[1] == "first"
    assert is_read(sys.pycache_prefix)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))
    fresh = Bytecode(False, (_NAME,))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    fresh.restore()
    assert Path(sys.pycache_prefix or "").is_relative_to(tmp_path / "other")
    assert is_read(sys.pycache_prefix)
    assert os.environ["PYTHONPYCACHEPREFIX"] == sys.pycache_prefix


def test_a_changed_source_is_compiled_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch)
    (site / _NAME / "__init__.py").write_text("WORD = 'changed'\n")
    assert start(monkeypatch)[1] == "changed"


@pytest.mark.parametrize("case", ["RECORD", "version", "of another name", "another package"])
def test_a_source_of_the_same_time_and_size_is_compiled_again(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """As in two images whose files were all given the same time, which a path names in turns."""
    home = site / _NAME / "__init__.py"
    info = site / (f"{_NAME}_cpu-1.0.dist-info" if case == "of another name" else f"{_NAME}-1.0.dist-info")
    info.mkdir()
    for word in ("first", "other", "first"):
        home.write_text(f"WORD = {word!r}\n")
        os.utime(home, (10**9, 10**9))
        if case in ("RECORD", "of another name"):
            (info / "RECORD").write_text(f"{_NAME}/__init__.py,sha256={word},15\n")
        elif case == "version":
            info = info.rename(site / f"{_NAME}-1.0+{word}.dist-info")
        else:
            (site / f"dependency-1.0+{word}.dist-info").mkdir()
        assert start(monkeypatch)[1] == word
        if case == "another package":
            (site / f"dependency-1.0+{word}.dist-info").rmdir()
    assert len(archives(tmp_path)) == 2


@pytest.mark.parametrize("case", ["no RECORD", "a folder", "no metadata"])
def test_metadata_that_cannot_be_read_end_no_job(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if case != "no metadata":
        (site / f"{_NAME}-1.0.dist-info" / ("RECORD" if case == "a folder" else "")).mkdir(parents=True)
    assert start(monkeypatch)[1] == "first"
    assert len(archives(tmp_path)) == 1


def test_only_what_is_new_is_packed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch)
    [archive] = archives(tmp_path)
    first = archive.stat().st_ino
    start(monkeypatch)
    assert archive.stat().st_ino == first
    (site / f"{_NAME}_2.py").write_text("")
    kept, _ = start(monkeypatch)
    __import__(f"{_NAME}_2")
    kept.keep()
    sys.modules.pop(f"{_NAME}_2")
    assert archive.stat().st_ino != first


def test_a_rank_that_unpacks_holds_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    is_held: list[bool] = []

    def unpack(archive: Path, folder: Path) -> None:
        with folder.with_name(f"{folder.name}.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_held.append(False)
            except BlockingIOError:
                is_held.append(True)
        folder.mkdir()

    monkeypatch.setattr(bytecode, "unpack", unpack)
    start(monkeypatch)
    start(monkeypatch)
    assert is_held == [True]


def test_only_installed_modules_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = start(monkeypatch)
    prefix = Path(sys.pycache_prefix or "")
    (prefix / "home/user").mkdir(parents=True)
    (prefix / "home/user/program.cpython.pyc").write_bytes(b"secret")
    kept.keep()
    [archive] = archives(tmp_path)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert any(_NAME in name for name in names)
    stdlib = (sysconfig.get_path("stdlib").strip("/"), str(tmp_path / "site").strip("/"))
    assert all(name.startswith(stdlib) for name in names)
    assert archive.parent.stat().st_mode & 0o022 == 0


def test_only_one_rank_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, publishes=False)
    assert archives(tmp_path) == []


@pytest.mark.parametrize("case", ["beside it", "may be written", "chosen by the user", "not installed"])
def test_nothing_changes_where_there_is_no_need(case: str, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "beside it":
        kept = site / _NAME / "__pycache__"
        kept.mkdir()
        (kept / f"__init__.{sys.implementation.cache_tag}.pyc").touch()
    elif case == "may be written":
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
    elif case == "chosen by the user":
        monkeypatch.setattr(sys, "pycache_prefix", "/chosen")
    before = sys.pycache_prefix, sys.dont_write_bytecode
    Bytecode(True, ("no_such_package_here",) if case == "not installed" else (_NAME,)).restore()
    assert (sys.pycache_prefix, sys.dont_write_bytecode) == before


@pytest.mark.parametrize("broken", ["garbage", "a folder", "no cache", "others write"])
def test_a_broken_cache_ends_no_job(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch)
    [archive] = archives(tmp_path)
    if broken == "garbage":
        archive.write_bytes(b"\0garbage" * 999)
    elif broken == "a folder":
        archive.unlink()
        archive.mkdir()
    elif broken == "no cache":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    else:
        archive.chmod(0o666)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))
    assert start(monkeypatch)[1] == "first"
