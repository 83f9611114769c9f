"""No error of the cache of compiled code ends a job: hostile and damaged archives, old Pythons, errors of any kind."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.test_compile_cache import another_node, archives, compile_something, node, start
from vllm_hpc.engine.startup import compile_cache

__all__ = ["node"]  # a fixture
pytestmark = pytest.mark.inputs

ERRORS = (TypeError("extractall() got an unexpected keyword argument 'filter'"), zlib.error("-3"), EOFError(),
          tarfile.ReadError("x"), MemoryError(), RecursionError(), RuntimeError("no home"), ValueError("NUL"),
          UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), OSError(28, "no space"), KeyError("\udcff"))  # fmt: skip


def add(tar: tarfile.TarFile, name: str, content: bytes = b"code", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), 1_700_000_000
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content) if member.isfile() else None)


def hostile(name: str, **fields: object) -> Callable[[tarfile.TarFile], None]:
    return lambda tar: add(tar, name, b"" if "type" in fields else b"code", **fields)


HOSTILE: dict[str, Callable[[tarfile.TarFile], None]] = {
    "a path": hostile("/tmp/evil"),
    "a path above": hostile("../../evil"),
    "a path above, in the middle": hostile("a/../../../evil"),
    "no name": hostile("."),
    "a link": hostile("link", type=tarfile.SYMTYPE, linkname="/etc"),
    "a link that stays inside": hostile("link", type=tarfile.SYMTYPE, linkname="a.so"),
    "a hard link": hostile("hard", type=tarfile.LNKTYPE, linkname="a.so"),
    "a device": hostile("device", type=tarfile.CHRTYPE),
    "a pipe": hostile("pipe", type=tarfile.FIFOTYPE),
    "a sparse file": hostile("sparse", type=tarfile.GNUTYPE_SPARSE),
    "a name twice": hostile("vllm/a.so"),
    "the same name in other words": hostile("./vllm//a.so"),
    "a file as a folder": hostile("vllm/a.so/b"),
    "a folder as a file": hostile("vllm"),
    "a time that is none": hostile("late", mtime=2**60),
    "a time before all times": hostile("early", mtime=-(2**60)),
    "a name too long": hostile("x" * 5000),
}


def after_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a job on another node that compiled a.so."""
    compiled, folder = start(tmp_path)
    compile_something(folder, "a.so")
    compiled.keep()
    another_node(tmp_path, monkeypatch)
    return archives(tmp_path)[0]


def works(tmp_path: Path, restored: list[str]) -> None:
    """A rank runs with these files, and what it compiles then is kept beside them."""
    compiled, folder = start(tmp_path)
    assert folder.is_relative_to(tmp_path / "other")
    assert [path.name for path in folder.rglob("*")] == restored
    compile_something(folder, "b.so")
    compiled.keep()
    with tarfile.open(archives(tmp_path)[0]) as tar:
        assert all(member.isfile() for member in tar)
        assert sorted(tar.getnames()) == sorted(f"vllm/{name}" for name in [*restored, "b.so"])


def test_code_is_restored_without_the_filters_of_newer_pythons(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TarFile.extractall has had ``filter`` since 3.11.4; Debian 12 has 3.11.2."""

    def extractall(*_: object, **__: object) -> None:
        raise TypeError("TarFile.extractall() got an unexpected keyword argument 'filter'")

    compiled, folder = start(tmp_path)
    compile_something(folder, "a/run.sh", "code")
    (folder / "a/run.sh").chmod(0o775)
    os.utime(folder / "a/run.sh", (1_700_000_000, 1_700_000_000))
    monkeypatch.setattr(compile_cache, "_UNUSED_S", 1e10)
    compiled.keep()
    another_node(tmp_path, monkeypatch)
    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)
    _, there = start(tmp_path)
    restored = there / "a/run.sh"
    assert restored.read_text() == "code"
    assert restored.stat().st_mtime == 1_700_000_000
    assert restored.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_only_plain_files_are_unpacked_and_packed_again(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: Callable[[tarfile.TarFile], None],
) -> None:  # fmt: skip
    monkeypatch.setattr(compile_cache, "_UNUSED_S", 1e10)
    archive = after_packing(tmp_path, monkeypatch)
    with tarfile.open(archive, "a") as tar:
        change(tar)
    works(tmp_path, ["a.so"])
    assert (tmp_path / "other").is_dir()
    assert not list(tmp_path.rglob("evil*"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"", lambda data: data[:700], lambda data: b"\x1f\x8b" + data, lambda data: os.urandom(2048),
        lambda data: data[:100] + b"\xff" * 100 + data[200:], lambda data: zlib.compress(data),
    ],
    ids=["empty", "cut", "gzip in name", "random", "overwritten", "compressed"],
)  # fmt: skip
def test_a_damaged_archive_is_made_again(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    archive = after_packing(tmp_path, monkeypatch)
    archive.write_bytes(damage(archive.read_bytes()))
    works(tmp_path, [])


def test_a_folder_in_the_place_of_the_archive_costs_nothing(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = after_packing(tmp_path, monkeypatch)
    archive.unlink()
    (archive / "inside").mkdir(parents=True)
    compiled, folder = start(tmp_path)
    compile_something(folder)
    compiled.keep()
    assert "compiled code is not kept: IsADirectoryError" in capsys.readouterr().out


STEPS = ("_key", "machine_folder", "unpack", "_extract", "names_in", "files_in", "pack", "_others", "remove_unused",
         "cache_folder", "replacing")  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_error_of_any_step_ends_a_job(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    after_packing(tmp_path, monkeypatch)
    for place, step in enumerate(STEPS):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / f"node-{place}"))
        (tmp_path / f"node-{place}").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(compile_cache, step, fails)
            compiled, folder = start(tmp_path)
            if folder.is_dir():
                compile_something(folder, f"{step}.so")
            compiled.keep()
        lines = capsys.readouterr().out.splitlines()
        assert lines, step
        assert all(line.startswith("vllm-hpc: ") and type(error).__name__ in line for line in lines), (step, lines)
