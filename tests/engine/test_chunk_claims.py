"""Who gets which chunk: the counter of one world, and the leases of an array's tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import crafted
from vllm_hpc.engine.health.watchdog import DEAD_AFTER_S
from vllm_hpc.engine.loop import chunk_claims
from vllm_hpc.engine.loop.chunk_claims import Lease, LeaseClaims, StoreClaims
from vllm_hpc.engine.loop.suspect_rows import Prior
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.jobfolder.chunks import EvenChunks as Chunks
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Crash


class Known:
    """Rows that are known to be finished, and the shards that were asked for."""

    def __init__(self, total: int, done: range = range(0)) -> None:
        self.rows = bytearray(total)
        for row in done:
            self.rows[row] = 1
        self.learnt: list[str] = []

    def learn(self, shard: Path) -> None:
        self.learnt.append(shard.name)


@given(total=st.integers(0, 200_000), replicas=st.integers(1, 300), is_array=st.booleans())
def test_chunks_are_the_input_in_order(total: int, replicas: int, is_array: bool) -> None:
    chunks = Chunks.of(total, replicas, is_array)
    sizes = [len(chunks.rows(chunk)) for chunk in range(chunks.count)]
    assert sum(sizes) == total
    assert 0 not in sizes
    assert len(set(sizes[:-1])) <= 1
    assert not sizes or chunks.rows(chunks.count - 1).stop == total
    assert is_array or chunks.size <= 1024
    assert not is_array or chunks.count <= 32 * replicas


def test_a_replica_finds_many_chunks_also_of_a_small_input() -> None:
    assert Chunks.of(100, 2, is_array=False) == Chunks(100, 1)
    assert Chunks.of(10_000_000, 2, is_array=False).size == 1024
    assert Chunks.of(10_000_000, 2, is_array=True).count == 64


@given(total=st.integers(0, 100_000), replicas=st.integers(1, 300))
def test_every_chunk_is_in_one_part_and_parts_are_alike(total: int, replicas: int) -> None:
    chunks = Chunks.of(total, replicas, is_array=False)
    parts = [chunks.part(replica, replicas) for replica in range(replicas)]
    assert [chunk for part in parts for chunk in part] == list(range(chunks.count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_counter_of_a_real_store_gives_each_chunk_once() -> None:
    address = StoreServer(b"secret", "127.0.0.1").address
    chunks = Chunks(total=400, size=2)

    def drain(number: int) -> list[int]:
        client = JobStore(address, b"secret", 5)
        claims = StoreClaims(client, chunks, Known(400, done=range(100, 121)), number % 3, 3)
        return list(iter(claims.take, None))

    with ThreadPoolExecutor(8) as pool:
        taken = [chunk for part in pool.map(drain, range(8)) for chunk in part]
    # 100..119 are chunks 50..59; of chunk 60, row 120 is done and row 121 is not.
    assert sorted(taken) == [*range(50), *range(60, 200)]


def test_another_replicas_part_is_for_who_has_nothing_left_to_run() -> None:
    store = JobStore(StoreServer(b"secret", "127.0.0.1").address, b"secret", 5)
    one, other, third = (StoreClaims(store, Chunks(12, 1), Known(12), number, 3) for number in range(3))
    assert [one.take(any_part=False) for _ in range(5)] == [0, 1, 2, 3, None]
    assert [other.take(any_part=False), third.take()] == [4, 8]
    assert [other.take(), third.take()] == [5, 9]
    assert [other.take(), one.take(), one.take()] == [6, 10, 7]  # the fullest, and of two that are alike the first
    assert [other.take(any_part=False), other.take(), third.take(), one.take()] == [None, 11, None, None]


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """An array of two tasks: 64 chunks of 2 rows."""
    return crafted.make_array(tmp_path / "job", 2, 128)


CHUNKS = Chunks(total=128, size=2)


def task(folder: JobFolder, number: int, attempt: int, known: Known | Prior | None = None) -> LeaseClaims:
    """A task's claims; it lives: it has a heartbeat."""
    folder.heartbeat(number).touch()
    mine = Lease(attempt, number, number)
    return LeaseClaims(folder, CHUNKS, mine, 2, known or Known(128))


def take_all(claims: LeaseClaims) -> list[int]:
    return list(iter(claims.take, None))


def dies(folder: JobFolder, number: int) -> None:
    """Its heartbeat stops, as long ago as it takes."""
    beat = folder.heartbeat(number)
    long_ago = beat.stat().st_mtime - DEAD_AFTER_S - 1
    os.utime(beat, (long_ago, long_ago))


def test_tasks_begin_at_different_places_and_share_out_all(folder: JobFolder) -> None:
    first, second = task(folder, 0, 1), task(folder, 1, 2)
    assert [first.take(), second.take(), first.take(), second.take()] == [0, 32, 1, 33]
    rest = take_all(first)
    assert rest == [*range(2, 32), *range(34, 64)]
    assert second.take() is None
    assert not list(folder.claims.glob(".*"))


def test_a_task_reads_ahead_in_its_own_part_only(folder: JobFolder) -> None:
    first, second = task(folder, 0, 1), task(folder, 1, 2)
    assert list(iter(lambda: second.take(any_part=False), None)) == list(range(32, 64))
    assert [second.take(), first.take()] == [0, 1]


TAKER = """
import sys
from tests.engine.test_chunk_claims import take_all, task
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.jobfolder.folder import JobFolder
claims = task(JobFolder(sys.argv[1]), int(sys.argv[2]), int(sys.argv[2]) + 1)
print("ready", flush=True)
sys.stdin.readline()
print(*take_all(claims))
"""


def test_processes_that_take_at_once_never_get_the_same_chunk(folder: JobFolder) -> None:
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(folder.path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for number in (0, 1, 1, 0)
    ]
    for taker in takers:
        assert taker.stdout and taker.stdout.readline() == "ready\n"
    taken = [
        int(chunk) for out, _ in (taker.communicate("go\n", timeout=60) for taker in takers) for chunk in out.split()
    ]
    assert sorted(taken) == list(range(64))


def test_what_a_live_owner_holds_is_left_alone(folder: JobFolder) -> None:
    owner = task(folder, 0, 1)
    held = {owner.take(), owner.take()}
    assert set(take_all(task(folder, 1, 2))) == set(range(64)) - held


@pytest.mark.parametrize("death", ["exit record", "heartbeat stopped", "no heartbeat"])
def test_a_dead_owners_chunks_are_taken_over_and_its_rows_learnt(folder: JobFolder, death: str) -> None:
    owner = task(folder, 0, 1)
    assert [owner.take(), owner.take()] == [0, 1]
    crafted.write_lines(folder.shard(0, 1), [crafted.result(0), crafted.result(1), crafted.result(2)], torn='{"ind')
    if death == "exit record":
        crafted.end(folder, 143, "TERM", attempt=1)
    elif death == "heartbeat stopped":
        dies(folder, 0)
    else:
        folder.heartbeat(0).unlink()
    prior = Prior(folder, folder.job())
    prior.rows[:] = bytes(128)  # it began before those rows were there
    heir = task(folder, 1, 2, prior)
    taken = take_all(heir)
    assert (0 in taken, taken[-1], len(taken)) == (False, 1, 63)
    assert [row for row in range(4) if prior.rows[row]] == [0, 1, 2]
    assert take_all(heir) == []  # what it holds itself is not left behind


def test_rows_that_may_have_killed_an_engine_are_left_to_its_next_attempt(folder: JobFolder) -> None:
    """A poisonous row would else go through all tasks of the array, one after the other."""
    owner = task(folder, 0, 1)
    assert owner.take() == 0
    write_json(folder.crash(0, 1), Crash(0, "RuntimeError", "illegal address"))
    crafted.end(folder, 1, "requeue", attempt=1)
    dies(folder, 0)
    assert 0 not in take_all(task(folder, 1, 2))
    crafted.end(folder, 1, "exit", attempt=1)  # no next attempt follows
    assert 0 in take_all(task(folder, 1, 3))


def test_an_earlier_attempt_of_the_same_task_is_dead(folder: JobFolder) -> None:
    task(folder, 0, 1).take()
    known = Known(128)
    again = task(folder, 0, 2, known)
    assert again.take() == 1
    assert 0 in take_all(again)
    assert known.learnt == ["replica-0.1.jsonl"]


def test_two_heirs_do_not_both_take_over(folder: JobFolder) -> None:
    task(folder, 0, 1).take()
    dies(folder, 0)
    one, other = (LeaseClaims(folder, CHUNKS, Lease(n, n, n), 3, Known(128)) for n in (1, 2))
    for number in (1, 2):
        folder.heartbeat(number).touch()
    assert sorted(take_all(one) + take_all(other)) == list(range(64))


@pytest.mark.parametrize("content", [b"", b'{"attempt":1,"rep', b"null"])
def test_a_lease_that_a_power_cut_emptied_is_nobodys_when_it_is_old(folder: JobFolder, content: bytes) -> None:
    folder.claims.mkdir()
    lease = folder.claims / "5.1"
    lease.write_bytes(content)
    mine = task(folder, 0, 1)
    assert 5 not in take_all(mine)
    os.utime(lease, (0, 0))
    assert mine.take() == 5


def test_foreign_names_among_the_leases_are_passed_over(folder: JobFolder) -> None:
    folder.claims.mkdir()
    for name in (".nfs0001", ".3.1.abc", "notes.txt", "7", "8.x", "9."):
        (folder.claims / name).touch()
    assert len(take_all(task(folder, 0, 1))) == 64


def test_a_link_whose_answer_nfs_lost_is_ours(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client repeats the call, and hears that the name exists: it made it."""
    link = os.link

    def twice(*names: Path) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", twice)
    claims = task(folder, 0, 1)
    assert [claims.take(), claims.take()] == [0, 1]


def test_a_full_disk_leaves_no_draft(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, mode: int) -> BinaryIO:
        path.touch()
        return Path("/dev/full").open("wb")

    claims = task(folder, 0, 1)
    monkeypatch.setattr(chunk_claims, "open_new", full)
    with pytest.raises(OSError, match="No space"):
        claims.take()
    assert not list(folder.claims.iterdir())


def test_a_server_that_does_not_answer_kills_nobody(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    task(folder, 0, 1).take()
    heir = task(folder, 1, 2)
    stat = Path.stat

    def stale(path: Path, **how: bool) -> os.stat_result:
        if path == folder.heartbeat(0):
            raise OSError(116, "Stale file handle")
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", stale)
    assert 0 not in take_all(heir)
