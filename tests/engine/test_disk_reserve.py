"""A full disk: what the replica's reserve is for. Where it can, on a small file system that is really full."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import crafted
from tests.engine.test_shard_writer import open_writer
from vllm_hpc.engine.health.disk_reserve import RESERVE_BYTES, Reserve
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.jobs.collect import collect

pytestmark = pytest.mark.timeout(60)
FULL = r"No space left on device: every row finished so far is safe; free some space, then run 'vllm-hpc resume'"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return crafted.make_job(tmp_path / "job", 50)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[JobFolder]:
    """A job on a disk of one MiB."""
    if os.geteuid() != 0:
        pytest.skip("to mount a tmpfs takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield crafted.make_job(disk / "job", 50)
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # the writer's shard is still open


def fill(folder: JobFolder, but: int = 0) -> Path:
    """Let somebody else take the disk's room, but so many bytes."""
    room = os.statvfs(folder.path)
    other = folder.path.parent / "other"
    other.write_bytes(b"x" * (room.f_bavail * room.f_frsize - but))
    return other


def write_on(writer: ShardWriter) -> None:
    for _ in range(10_000):
        writer.put(lambda: crafted.result(0, "x" * 1000))
    writer.close()


def test_a_rank_says_on_a_full_disk_that_it_is_full(small: JobFolder) -> None:
    report = RankReport(small, 0, 0, 2)
    writer = open_writer(small)
    assert small.reserve(0).stat().st_size == RESERVE_BYTES
    fill(small, but=100_000)
    with pytest.raises(OSError, match=FULL) as caught:
        write_on(writer)
    assert not small.reserve(0).exists()
    report.failed(caught.value)
    record = read_json(small.rank_record(0), RankRecord)
    assert record is not None
    assert record.error is not None
    assert (record.outcome, record.error.message) == ("error", str(caught.value))
    assert small.failed(2).exists()
    rows = crafted.read_lines(small.shard(0, 2))
    assert 80 < len(rows) < 100
    assert small.shard(0, 2).read_bytes().endswith(b"\n")


def test_a_disk_that_is_full_at_the_start(small: JobFolder) -> None:
    """What little room there was is left to the record."""
    report = RankReport(small, 0, 0, 2)
    other = fill(small, but=RESERVE_BYTES // 2)
    with pytest.raises(OSError, match=FULL) as caught:
        open_writer(small)
    assert not small.reserve(0).exists()
    report.failed(caught.value)
    assert small.failed(2).exists()
    other.unlink()
    open_writer(small, attempt=3).close()


def test_a_reserve_that_was_left_is_room_where_the_disk_has_filled_since(small: JobFolder) -> None:
    report = RankReport(small, 0, 0, 3)
    Reserve(small.reserve(0)).take()  # of an attempt that was killed
    fill(small)
    with pytest.raises(OSError, match=FULL) as caught:
        write_on(open_writer(small, attempt=3))
    report.failed(caught.value)
    assert small.failed(3).exists()


def test_it_takes_up_room_while_rows_are_written_and_no_longer(folder: JobFolder) -> None:
    writer = open_writer(folder)
    found = folder.reserve(0).stat()
    assert found.st_size == RESERVE_BYTES
    assert found.st_blocks * 512 >= RESERVE_BYTES
    writer.close()
    assert not folder.reserve(0).exists()


def test_what_a_killed_attempt_left_is_used_again(folder: JobFolder) -> None:
    reserve = Reserve(folder.reserve(0))
    reserve.take()
    before = folder.reserve(0).stat()
    reserve.take()
    assert folder.reserve(0).stat().st_mtime_ns == before.st_mtime_ns
    os.truncate(folder.reserve(0), 1000)  # killed while it was made
    reserve.take()
    assert folder.reserve(0).stat().st_size == RESERVE_BYTES


def test_a_reserve_that_was_left_is_no_shard_and_no_record(folder: JobFolder) -> None:
    writer = open_writer(folder, attempt=1)
    writer.put(lambda: crafted.result(0))
    writer.close()
    before = folder.shard_files(), collect(folder).rows
    Reserve(folder.reserve(0)).take()
    assert (folder.shard_files(), collect(folder).rows) == before
    assert [file.name for file in folder.path.rglob("*reserve*")] == [".reserve-0"]


def test_a_limit_on_the_size_of_one_file_is_no_full_disk(folder: JobFolder) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        writer = open_writer(folder)
        assert not folder.reserve(0).exists()
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_shard_that_cannot_be_opened_gives_the_room_back(folder: JobFolder) -> None:
    folder.shard(0, 2).mkdir()
    with pytest.raises(IsADirectoryError):
        open_writer(folder)
    assert not folder.reserve(0).exists()
