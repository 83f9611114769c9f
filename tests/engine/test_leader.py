"""What the first rank of a replica decides: chunks, a drain that is asked or due, and when to leave it at that."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import crafted
from tests.marks import needs_torch
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_claimed
from vllm_hpc.jobfolder.records import Claimed

pytestmark = needs_torch

LEAD_S = 120.0
GO, DRAIN, STOP = 0, 1, 2


class Claims:
    """Chunks 7, 8 and no more."""

    def __init__(self) -> None:
        self.chunks = [7, 8]

    def take(self, any_part: bool = True) -> int | None:
        return self.chunks.pop(0) if self.chunks else None


class Writer:
    error: OSError | None = None

    def check(self) -> None:
        if self.error:
            raise self.error


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    from vllm_hpc.engine.loop import drain_watch, leader

    found = Clock()
    monkeypatch.setattr(leader, "time", found)
    monkeypatch.setattr(drain_watch, "time", found)
    return found


@pytest.fixture
def store() -> JobStore:
    return JobStore(StoreServer(b"secret", "127.0.0.1").address, b"secret", 5)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return crafted.make_job(tmp_path / "job", 20, shape=crafted.layout(dp=2))


def appoint(folder: JobFolder, store: JobStore, replica: int = 0, attempt: int = 3) -> Any:
    from vllm_hpc.engine.loop.leader import Chief, ReplicaRun

    writer: Any = Writer()
    run = ReplicaRun(folder, replica, attempt, LEAD_S)
    return SimpleNamespace(it=Chief(run, Claims(), writer, store), writer=writer)


def order(chief: Any, clock: Clock, after: float = 1.0) -> int:
    clock.now += after
    return int(chief.it.decide(wants_chunk=False).order)


def test_a_chunk_is_on_record_before_it_is_begun(folder: JobFolder, store: JobStore) -> None:
    chief = appoint(folder, store)
    assert [chief.it.decide(wants).chunk for wants in (False, True, True, True)] == [-1, 7, 8, -1]
    chief.it.begin_trial([1, 2])
    assert read_claimed(folder.claimed(0, 3)) == [Claimed(chunk=7), Claimed(chunk=8), Claimed(trial=[1, 2])]


def test_a_drain_that_is_asked_for_has_no_deadline(folder: JobFolder, store: JobStore, clock: Clock) -> None:
    chief = appoint(folder, store)
    assert order(chief, clock) == GO
    folder.drain.touch()
    assert order(chief, clock) == DRAIN
    assert order(chief, clock, after=1e6) == DRAIN
    assert chief.it.decide(wants_chunk=True).chunk == -1
    assert read_claimed(folder.claimed(0, 3)) == []


def test_a_drain_of_the_walltime_ends_in_time_to_leave(folder: JobFolder, store: JobStore, clock: Clock) -> None:
    chief = appoint(folder, store)
    folder.drain_attempt(3).touch()
    assert order(chief, clock) == DRAIN
    kept = 30  # a quarter of the lead
    assert order(chief, clock, after=LEAD_S - kept - 1) == DRAIN
    assert order(chief, clock) == STOP
    assert order(chief, clock) == STOP


def test_the_walltime_overtakes_a_drain_that_was_asked_for(folder: JobFolder, store: JobStore, clock: Clock) -> None:
    """Else a long row in flight would be killed at the walltime, and the rank with it."""
    chief = appoint(folder, store)
    folder.drain.touch()
    assert order(chief, clock) == DRAIN
    folder.drain_attempt(3).touch()
    assert order(chief, clock) == DRAIN
    assert order(chief, clock, after=LEAD_S) == STOP


def test_the_file_of_another_attempt_is_not_ours(folder: JobFolder, store: JobStore, clock: Clock) -> None:
    chief = appoint(folder, store)
    folder.drain_attempt(2).touch()
    assert order(chief, clock) == GO


@pytest.mark.parametrize("is_walltime", [True, False])
def test_who_sees_the_file_tells_the_other_replicas(
    folder: JobFolder, tmp_path: Path, store: JobStore, clock: Clock, is_walltime: bool
) -> None:
    near = appoint(folder, store)
    far = appoint(crafted.make_job(tmp_path / "nfs-shows-it-later", 20), store, replica=1)
    (folder.drain_attempt(3) if is_walltime else folder.drain).touch()
    assert [order(far, clock), order(near, clock), order(far, clock)] == [GO, DRAIN, DRAIN]
    assert order(far, clock, after=LEAD_S) == (STOP if is_walltime else DRAIN)


def test_a_late_sight_of_the_request_does_not_lift_the_deadline(
    folder: JobFolder, tmp_path: Path, store: JobStore, clock: Clock
) -> None:
    """One sees both files, another only the request, after it: a third hears of the walltime all the same."""
    other = crafted.make_job(tmp_path / "sees-the-request", 20)
    blind = crafted.make_job(tmp_path / "sees-nothing", 20)
    first, second, third = (appoint(where, store, n) for n, where in enumerate((folder, other, blind)))
    folder.drain_attempt(3).touch()
    other.drain.touch()
    assert [order(first, clock), order(second, clock), order(third, clock)] == [DRAIN] * 3
    assert order(third, clock, after=LEAD_S) == STOP


def test_a_rank_looks_each_second_in_the_first_minute_and_then_a_node_every_ten(
    folder: JobFolder, store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many replicas the node has."""
    chiefs = [appoint(folder, store, replica) for replica in range(4)]
    looks: list[float] = []

    def absent(path: Path) -> bool:
        looks.append(clock.now)
        return False

    monkeypatch.setattr(Path, "exists", absent)
    for _ in range(6600):
        order(chiefs[0], clock, after=0.05)
        for chief in chiefs[1:]:
            order(chief, clock, after=0.0)
    early = [at for at in looks if at < 1060]
    assert 4 * 116 <= len(early) <= 4 * 122  # four replicas, two files, sixty seconds
    assert 50 <= len(looks) - len(early) <= 58  # 270 seconds


def test_a_folder_that_is_seldom_looked_at_moves_no_deadline(folder: JobFolder, store: JobStore, clock: Clock) -> None:
    """It counts from the look before, and all replicas leave by it, whoever saw the file."""
    near, far = appoint(folder, store), appoint(folder, store, replica=1)
    clock.now += 100
    assert order(near, clock) == GO
    began = clock.now
    folder.drain_attempt(3).touch()
    while order(near, clock) == GO:
        assert order(far, clock, after=0.0) == GO
    assert clock.now - began <= 10
    assert order(far, clock, after=0.0) == DRAIN
    clock.now = began + LEAD_S - 30 + 1
    assert [order(near, clock, after=0.0), order(far, clock, after=0.0)] == [2, 2]


def test_a_replica_that_has_finished_leaves_the_looks_to_the_others(
    folder: JobFolder, store: JobStore, clock: Clock
) -> None:
    first, second = appoint(folder, store), appoint(folder, store, replica=1)
    clock.now += 100
    assert [order(first, clock), order(second, clock)] == [GO, GO]
    folder.drain.touch()
    assert order(second, clock, after=10) == DRAIN


def test_the_scripts_own_node_sees_its_mark_at_once(
    folder: JobFolder, store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_HPC_JOB_ID", f"test-{os.getpid()}")
    chief = appoint(folder, store)
    clock.now += 105
    assert [order(chief, clock), order(chief, clock)] == [GO, GO]
    mark = Path(f"/tmp/vllm-hpc-drain-test-{os.getpid()}-3")
    mark.symlink_to("/")  # somebody else's trick
    try:
        assert order(chief, clock) == GO
        mark.unlink()
        mark.mkdir()
        assert order(chief, clock) == DRAIN
    finally:
        mark.rmdir()
    assert order(chief, clock, after=LEAD_S - 31) == DRAIN
    assert order(chief, clock) == STOP


def test_a_disk_that_is_full_ends_the_work_at_the_next_decision(folder: JobFolder, store: JobStore) -> None:
    chief = appoint(folder, store)
    chief.writer.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        chief.it.decide(wants_chunk=True)
    assert read_claimed(folder.claimed(0, 3)) == []
