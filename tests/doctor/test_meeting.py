"""The nodes' meeting, with two nodes that are threads: what each sees of the other, and a port that is taken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from tests.crafted import make_job
from vllm_hpc.engine.doctor import meeting
from vllm_hpc.engine.doctor.meeting import MeetingPoint, MeetingResult
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.secret import job_secret

pytestmark = pytest.mark.admins


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return make_job(tmp_path / "job")


def meet_both(head: MeetingPoint, other: MeetingPoint) -> list[MeetingResult]:
    found: dict[int, MeetingResult] = {}

    def run(point: MeetingPoint) -> None:
        found[point.node] = meeting.meet(point)

    threads = [threading.Thread(target=run, args=(point,)) for point in (head, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[0], found[1]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody waits for a minute."""
    monkeypatch.setattr(meeting, "_MEET_S", 2.0)
    monkeypatch.setattr(meeting, "_SEE_S", 0.6)
    monkeypatch.setattr(meeting, "_REPLACE_S", 0.2)
    yield


def places(job: JobFolder, other: JobFolder | None = None) -> tuple[MeetingPoint, MeetingPoint]:
    port = free_port()
    return MeetingPoint(job, 1, "127.0.0.1", port, 0, 2), MeetingPoint(other or job, 1, "127.0.0.1", port, 1, 2)


def test_two_nodes_meet(job: JobFolder) -> None:
    first, second = meet_both(*places(job))
    assert first == MeetingResult()
    assert second.skew_s is not None
    assert abs(second.skew_s) < 0.5
    assert second.sharing is not None
    assert second.sharing.visible_s is not None
    assert second.sharing.reads > 10
    assert second.sharing.torn == 0
    assert not job.doctor_shared(1).exists()


def test_files_that_are_not_replaced_in_one_step_are_seen(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_in_place(point: MeetingPoint, letter: bytes) -> None:
        point.job.doctor_shared(1).write_bytes(b"")
        point.job.doctor_shared(1).write_bytes(letter * meeting._SIZE)

    monkeypatch.setattr(meeting, "_write", write_in_place)
    _, second = meet_both(*places(job))
    assert second.sharing is not None
    assert second.sharing.torn > 0


def test_a_node_with_another_folder_of_that_name_does_not_see_the_heads_file(job: JobFolder, tmp_path: Path) -> None:
    other = make_job(tmp_path / "other")
    job_secret(job)
    other.secret.write_bytes(job.secret.read_bytes())
    other.secret.chmod(0o600)
    _, second = meet_both(*places(job, other))
    assert second.sharing is not None
    assert second.sharing.visible_s is None


def test_another_jobs_head_is_told_from_ones_own(job: JobFolder, tmp_path: Path) -> None:
    _, second = meet_both(*places(job, make_job(tmp_path / "other")))
    assert "does not know the job's secret" in second.head_error or "same secret" in second.head_error


def test_a_taken_port(job: JobFolder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        point = MeetingPoint(job, 1, "127.0.0.1", taken.getsockname()[1], 0, 1)
        assert "in use" in meeting.meet(point).port_error


def test_a_head_that_does_not_listen(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_MEET_S", 0.5)
    found = meeting.meet(MeetingPoint(job, 1, "127.0.0.1", free_port(), 1, 2))
    assert "does not answer" in found.head_error
