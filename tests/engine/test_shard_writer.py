"""The writer of finished rows: whole lines whatever happens, counts beside them, and an error that says what to do."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from vllm_hpc.engine.health import shard_writer
from vllm_hpc.engine.health.disk_reserve import RESERVE_BYTES
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Progress, Run
from vllm_hpc.jobfolder.shards import Tally

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return crafted.make_job(tmp_path / "job", 50)


def describe(rows: int, prompt_tokens: int, completion_tokens: int) -> Run:
    return Run(attempt=2, rows=rows, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)


def open_writer(folder: JobFolder, before: Tally | None = None, sync_s: float = 5.0, attempt: int = 2) -> ShardWriter:
    return ShardWriter(folder, 0, attempt, before or Tally(), describe, sync_s)


def counts(folder: JobFolder) -> Progress:
    found = read_json(folder.progress(0), Progress)
    assert found is not None
    return found


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Let files grow so far and no further: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_and_counts(folder: JobFolder) -> None:
    writer = open_writer(folder, Tally(10, 1, 100, 1000))
    for row in range(3):
        writer.put(lambda row=row: crafted.result(row))  # type: ignore[misc]
    writer.put(lambda: {"index": 3, "id": "3", "error": {"type": "X", "message": ""}})
    writer.close()
    assert [row["index"] for row in crafted.read_lines(folder.shard(0, 2))] == [0, 1, 2, 3]
    progress = counts(folder)
    assert (progress.done, progress.failed, progress.prompt_tokens, progress.completion_tokens) == (13, 2, 106, 1009)
    assert progress.shard_bytes == folder.shard(0, 2).stat().st_size
    assert progress.runs == (Run(attempt=2, rows=4, prompt_tokens=6, completion_tokens=9),)


def test_the_runs_of_earlier_attempts_stay(folder: JobFolder) -> None:
    open_writer(folder).close()
    open_writer(folder, attempt=3).close()
    assert len(counts(folder).runs) == 2


def test_a_full_disk_leaves_whole_rows_and_says_what_to_do(folder: JobFolder, limit: Callable[[int], None]) -> None:
    line = len(crafted_line(0))
    writer = open_writer(folder)
    limit(line * 3 + line // 2)
    for _ in range(5):
        writer.put(lambda: crafted.result(0))
    with pytest.raises(
        OSError, match=r"File too large: every row finished so far is safe; free some space, then run 'vllm-hpc"
    ):
        writer.close()
    limit(resource.RLIM_INFINITY)
    assert folder.shard(0, 2).read_bytes() == crafted_line(0) * 3
    with pytest.raises(OSError, match="free some space"):
        writer.put(lambda: crafted.result(1))
    with pytest.raises(OSError, match="free some space"):
        writer.check()


def crafted_line(row: int) -> bytes:
    return msgspec.json.encode(crafted.result(row)) + b"\n"


def test_a_quota_that_nfs_names_only_at_fsync_is_explained(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def over_quota(_: int) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", over_quota)
    writer = open_writer(folder)
    writer.put(lambda: crafted.result(0))
    with pytest.raises(OSError, match="Disk quota exceeded: every row finished so far is safe; free some space"):
        writer.close()


def test_an_error_of_another_kind_is_passed_on_as_it_is(folder: JobFolder) -> None:
    writer = open_writer(folder)
    writer.put(lambda: {"index": int("none")})
    with pytest.raises(ValueError, match="invalid literal"):
        writer.close()


@pytest.mark.parametrize(("sync_s", "least", "most"), [(0.0, 20, 22), (1e6, 1, 1)])
def test_rows_are_made_durable_as_often_as_asked(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, sync_s: float, least: int, most: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer = open_writer(folder, sync_s=sync_s)
    for _ in range(20):
        writer.put(lambda: crafted.result(0))
    writer.close()
    assert least <= len(synced) <= most


def hang(writer: ShardWriter) -> threading.Event:
    """Let the writer's thread hang, as in a file system's hands, until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def make() -> Any:
        begun.set()
        release.wait(50)
        return crafted.result(0)

    writer.put(make)
    assert begun.wait(30)
    return release


def test_a_file_system_that_hangs_is_not_waited_for_for_ever(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where as many rows wait as may: who was told to leave has five seconds."""
    monkeypatch.setattr(shard_writer, "_MOST_WAITING", 2)
    writer = open_writer(folder)
    release = hang(writer)
    for row in (1, 2):
        writer.put(lambda row=row: crafted.result(row))  # type: ignore[misc]
    with pytest.raises(TimeoutError, match="could not be written in time"):
        writer.close(0.1)
    release.set()
    writer.close(30)
    assert [row["index"] for row in crafted.read_lines(folder.shard(0, 2))] == [0, 1, 2]


def test_who_waits_for_room_meets_the_error(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "_MOST_WAITING", 1)
    writer = open_writer(folder)
    release = hang(writer)

    def fail() -> Any:
        raise OSError(5, "Input/output error")

    writer.put(fail)
    threading.Timer(0.1, release.set).start()
    with pytest.raises(OSError, match="Input/output"):
        for _ in range(100):
            writer.put(lambda: crafted.result(0))


KILLED = """
import sys
from tests.engine.test_shard_writer import open_writer
from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
writer = open_writer(JobFolder(sys.argv[1]), sync_s=0.0)
for number in range(10**9):
    writer.put(lambda: crafted.result(0, "x" * 1000))
"""


def test_sigkill_in_the_midst_tears_the_last_line_at_most(folder: JobFolder) -> None:
    root = Path(__file__).parents[2]
    writing = subprocess.Popen([sys.executable, "-c", KILLED, str(folder.path)], cwd=root)
    shard = folder.shard(0, 2)
    while not (shard.exists() and shard.stat().st_size > 200_000):
        assert writing.poll() is None
    writing.send_signal(signal.SIGKILL)
    writing.wait(30)
    *whole, _ = shard.read_bytes().split(b"\n")
    assert len([msgspec.json.decode(line) for line in whole]) >= 150
    assert (counts(folder).shard_bytes or 0) <= shard.stat().st_size
    assert folder.reserve(0).stat().st_size == RESERVE_BYTES
    open_writer(folder, attempt=3).close()
    assert not folder.reserve(0).exists()
