"""Which errors of a rank are its own, which only echo another's end, and which rank is dead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import crafted
from vllm_hpc.engine.health.rank_record import RankReport, is_echo
from vllm_hpc.jobfolder.folder import SUBFOLDERS, JobFolder


class DistBackendError(RuntimeError):
    """As torch.distributed's, by name."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.2]:41"),
        RuntimeError("Connection reset by peer"),
        RuntimeError("Application timeout caused pair closure"),
        RuntimeError("NCCL communicator was aborted on rank 3."),
        RuntimeError("ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"),
        DistBackendError("anything"),
    ],
)
def test_the_end_of_a_peer_is_an_echo(error: Exception) -> None:
    assert is_echo(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device: '/scratch/peerreview/connection closed'"),
        ConnectionRefusedError("the Hub: connection refused"),
        RuntimeError("CUDA error: peer mapping resources exhausted"),
        RuntimeError("the ranks of replica 0 diverged"),
        ValueError("broken pipe"),
        AssertionError(),
    ],
)
def test_a_ranks_own_error_is_none(error: Exception) -> None:
    assert not is_echo(error)


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    for name in SUBFOLDERS:
        (tmp_path / name).mkdir()
    return JobFolder(tmp_path)


def beat(job: JobFolder, rank: int, at: float) -> None:
    if rank == 1:
        crafted.rank(job, rank, "running")
    job.heartbeat(rank).touch()
    os.utime(job.heartbeat(rank), (at, at))


@pytest.mark.parametrize(("neighbour", "late_s", "is_dead"), [(1, 61, True), (1, 59, False), (None, 61, False)])
def test_a_neighbour_whose_heartbeat_is_late_is_dead(
    job: JobFolder, neighbour: int | None, late_s: int, is_dead: bool
) -> None:
    report = RankReport(job, 0, 0, 1)
    report.neighbour = neighbour
    beat(job, 1, 1000)
    beat(job, 0, 1000)
    assert not report.has_silent_neighbour(60, 0.0)
    beat(job, 0, 1000 + late_s)
    assert report.has_silent_neighbour(60, late_s) is is_dead


def test_who_was_stopped_lets_its_neighbour_wake_too(job: JobFolder) -> None:
    """Our heartbeat is an hour later than its last one, and we ran for some seconds of that hour."""
    report = RankReport(job, 0, 0, 1)
    report.neighbour = 1
    beat(job, 1, 1000)
    beat(job, 0, 1000)
    assert not report.has_silent_neighbour(60, 5.0)
    beat(job, 0, 4600)
    assert not report.has_silent_neighbour(60, 6.0)
    assert not report.has_silent_neighbour(60, 64.0)
    assert report.has_silent_neighbour(60, 66.0)  # it did not wake
    beat(job, 1, 4599)
    assert not report.has_silent_neighbour(60, 67.0)


def test_a_disk_on_which_no_heartbeat_moves_says_nothing_of_the_neighbour(job: JobFolder) -> None:
    report = RankReport(job, 0, 0, 1)
    report.neighbour = 1
    beat(job, 1, 1000)
    beat(job, 0, 1001)
    assert not any(report.has_silent_neighbour(60, now) for now in (0.0, 100.0, 200.0))


@pytest.mark.parametrize(("outcome", "attempt", "is_dead"), [("ok", 2, False), ("ok", 1, True), ("running", 2, True)])
def test_a_neighbour_that_has_ended_well_is_not_dead(job: JobFolder, outcome: str, attempt: int, is_dead: bool) -> None:
    """A script's ranks do not wait for each other."""
    report = RankReport(job, 0, 0, 2)
    report.neighbour = 1
    beat(job, 1, 1000)
    beat(job, 0, 1000)
    crafted.rank(job, 1, "running", attempt=2)
    assert not report.has_silent_neighbour(60, 0.0)
    crafted.rank(job, 1, outcome, attempt=attempt)
    beat(job, 0, 1061)
    assert report.has_silent_neighbour(60, 61.0) is is_dead


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no file \udcff.txt"), "no file \\udcff.txt"),
        (SpeechlessError(), "SpeechlessError"),
        (ValueError(), "ValueError"),
        (ValueError("a" * 10**7 + "z"), "a" * 10_000 + "\n[9980001 characters are left out]\n" + "a" * 9_999 + "z"),
    ],
    ids=["not UTF-8", "raises", "no words", "huge"],
)
def test_whatever_an_error_says_it_is_on_record(job: JobFolder, error: Exception, said: str) -> None:
    RankReport(job, 0, 0, 1).failed(error)
    (record,) = job.records_of([0])
    assert record.error is not None
    assert record.error.message == said
    assert len(record.error.traceback) < 300_000
    assert job.failed(1).exists()


def test_an_error_in_the_users_code_has_its_line(job: JobFolder) -> None:
    report = RankReport(job, 0, 0, 1)
    report.locate = lambda error: "mine.py:3"
    report.failed(ValueError("bad shape"))
    (record,) = job.records_of([0])
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "bad shape (mine.py:3)")


def test_a_neighbour_that_has_no_heartbeat_yet_is_not_dead(job: JobFolder) -> None:
    report = RankReport(job, 0, 0, 1)
    report.neighbour = 1
    assert not report.has_silent_neighbour(60, 0.0)


def test_who_is_on_record_has_a_heartbeat(job: JobFolder) -> None:
    """It may be killed before the watch's first one."""
    report = RankReport(job, 0, 0, 1)
    report.neighbour = 1
    RankReport(job, 1, 0, 1)
    os.utime(job.heartbeat(1), (1000, 1000))
    assert not report.has_silent_neighbour(60, 0.0)
    assert report.has_silent_neighbour(60, 61.0)


def test_a_heartbeat_of_the_attempt_before_says_nothing(job: JobFolder) -> None:
    """The neighbour's node may join minutes after ours."""
    report = RankReport(job, 0, 0, 2)
    report.neighbour = 1
    beat(job, 1, 1000)
    for at in (1000, 2000, 3000):
        beat(job, 0, at)
        assert not report.has_silent_neighbour(60, at)
    crafted.rank(job, 1, "running", attempt=2)
    assert not report.has_silent_neighbour(60, 3001)
    assert report.has_silent_neighbour(60, 3062)
