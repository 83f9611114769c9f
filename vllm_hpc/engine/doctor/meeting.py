"""The nodes of a job meet before any rank starts: at the port of the rendezvous, and in the job folder.

The head listens where it will listen for the ranks, behind the job's secret. What fails here would fail there, later
and with less to say about it.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from typing import NamedTuple

from vllm_hpc.engine.startup import network
from vllm_hpc.engine.store.client import ForeignStoreError, JobStore, StoreLostError
from vllm_hpc.engine.store.messages import Address
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.node_report import Sharing
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.write_file import replacing

# Seconds: for all nodes to be there; for a file to be seen by another node (NFS caches a folder for up to 60 s); and
# in which the head replaces a file again and again.
_MEET_S, _SEE_S, _REPLACE_S = 60.0, 65.0, 0.6
_ANSWER_S = 0.004
_SIZE = 1 << 15
_TRIES = 5


class MeetingPoint(NamedTuple):
    """Where the nodes meet, and which of how many this one is."""

    job: JobFolder
    attempt: int
    head: str
    port: int
    node: int
    nodes: int


class MeetingResult(NamedTuple):
    """What came of it; the fields are those of NodeReport."""

    port_error: str = ""
    head_error: str = ""
    round_trip_s: float | None = None
    skew_s: float | None = None
    sharing: Sharing | None = None


def meet(point: MeetingPoint) -> MeetingResult:
    """Meet the other nodes, and try what they share. Raises OSError or RequestError if the job's secret cannot be read.

    Returns once the head has left the port, so that the ranks can have it.
    """
    secret = job_secret(point.job)
    return _lead(point, secret) if point.node == 0 else _follow(point, secret)


def _lead(point: MeetingPoint, secret: bytes) -> MeetingResult:
    try:
        server = StoreServer(secret, network.address_of_head(point.head), point.port)
    except (OSError, RequestError) as error:
        return MeetingResult(port_error=str(error))
    store = JobStore(server.address, secret, _MEET_S)
    others = _answer_clocks(store, point.nodes)
    if others:
        _write_for_others(store, point, others)
    store.close()
    server.wait_until_left(1.0)
    return MeetingResult()


def _answer_clocks(store: JobStore, nodes: int) -> list[int]:
    """Tell each other node the head's time as soon as it asks, and return those that have."""
    waiting, until = set(range(1, nodes)), time.monotonic() + _MEET_S
    while waiting and time.monotonic() < until:
        names = sorted(waiting)
        for node, asked in zip(names, store.read([f"ask/{node}" for node in names]), strict=True):
            if asked is not None:
                store.set(f"clock/{node}", repr(time.time()))
                waiting.discard(node)
        time.sleep(_ANSWER_S)
    return [node for node in range(1, nodes) if node not in waiting]


def _write_for_others(store: JobStore, point: MeetingPoint, others: list[int]) -> None:
    """Write a file that the others wait for, then replace it again and again while they read it."""
    file = point.job.doctor_shared(point.attempt)
    try:
        _write(point, b"0")
        store.set("written", "")
        store.wait([f"seen/{node}" for node in others], _SEE_S + 5)
        store.set("replacing", "")
        until, turn = time.monotonic() + _REPLACE_S, 0
        while time.monotonic() < until:
            turn += 1
            _write(point, b"%d" % (turn % 10))
        store.set("replaced", "")
        store.wait([f"done/{node}" for node in others], _SEE_S)
    finally:
        file.unlink(missing_ok=True)


def _write(point: MeetingPoint, letter: bytes) -> None:
    with replacing(point.job.doctor_shared(point.attempt)) as out:
        out.write(letter * _SIZE)


def _follow(point: MeetingPoint, secret: bytes) -> MeetingResult:
    try:
        store = JobStore(Address(point.head, point.port), secret, _MEET_S)
    except ForeignStoreError:
        return MeetingResult(head_error="another program listens there, which does not know the job's secret")
    except OSError as error:
        return MeetingResult(head_error=str(error))
    try:
        round_trip, skew = _ask_clock(store, point.node)
        sharing = _read_of_head(store, point)
        store.set(f"done/{point.node}", "")
    except StoreLostError as error:
        return MeetingResult(head_error=str(error))
    with suppress(StoreLostError):  # the head closes it when all are done, and leaves the port to the ranks
        store.wait(["never"], _SEE_S)
    return MeetingResult("", "", round_trip, skew, sharing)


def _ask_clock(store: JobStore, node: int) -> tuple[float, float | None]:
    """Seconds of a round trip to the head, and how far its clock is ahead."""
    began = time.perf_counter()
    store.read(["any"])
    round_trip = time.perf_counter() - began
    asked = time.time()
    store.set(f"ask/{node}", "")
    (said,) = store.wait([f"clock/{node}"], _MEET_S)
    answered = time.time()
    return round(round_trip, 6), None if said is None else round(float(said) - (asked + answered) / 2, 3)


def _read_of_head(store: JobStore, point: MeetingPoint) -> Sharing:
    store.wait(["written"], _MEET_S)
    began = time.monotonic()
    while _read(point) is None and time.monotonic() - began < _SEE_S:
        time.sleep(0.01)
    visible = None if _read(point) is None else round(time.monotonic() - began, 3)
    store.set(f"seen/{point.node}", "")
    store.wait(["replacing"], _SEE_S)
    if visible is None:
        return Sharing(None)
    reads = torn = 0
    until = time.monotonic() + _REPLACE_S
    while store.read(["replaced"]) == [None] and time.monotonic() < until:
        found = _read(point)
        reads += 1
        torn += found is None or len(found) != _SIZE or len(set(found)) != 1
    return Sharing(visible, reads, torn)


def _read(point: MeetingPoint) -> bytes | None:
    """The head's file; None if there is none."""
    for _ in range(_TRIES):
        try:
            return read_regular(point.job.doctor_shared(point.attempt), follow_links=False)
        except OSError as error:
            if error.errno != errno.ESTALE:  # opened before it was replaced, and read after: NFS says so
                return None
    return None
