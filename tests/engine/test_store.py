"""The job's store: it counts for the job's ranks, and does nothing for anybody else."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from vllm_hpc.engine.health.rank_record import is_echo
from vllm_hpc.engine.store import server as server_module
from vllm_hpc.engine.store.client import ForeignStoreError, JobStore, StoreLostError
from vllm_hpc.engine.store.messages import Address, Numbers, nonce, proof
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.spec.errors import RequestError

SECRET = b"s" * 32


@pytest.fixture(scope="module")
def server() -> StoreServer:
    return StoreServer(SECRET, "127.0.0.1")


@pytest.fixture
def store(server: StoreServer, request: pytest.FixtureRequest) -> JobStore:
    return JobStore(server.address, SECRET, 5).under(f"{request.node.name}/")


@pytest.fixture
def stranger(server: StoreServer) -> Iterator[socket.socket]:
    """A connection of somebody who does not know the secret, and has read the store's number."""
    with socket.create_connection(server.address, 5) as connection:
        yield connection


def ended(connection: socket.socket) -> bool:
    """Whether the store has closed a connection, after whatever it has sent."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_values_and_counters(store: JobStore) -> None:
    assert store.read(["a", "n"]) == [None, None]
    store.set("a", "one\ntwo")
    assert [store.add("n", 2), store.add("n", -1), store.add("n", 0)] == [2, 1, 1]
    assert store.read(["a", "b", "n"]) == ["one\ntwo", None, "1"]


def test_a_counter_gives_each_number_once(server: StoreServer, store: JobStore) -> None:
    def count(_: int) -> list[int]:
        own = JobStore(server.address, SECRET, 5)
        return [own.add("each-once", 1) for _ in range(100)]

    with ThreadPoolExecutor(8) as pool:
        taken = [number for part in pool.map(count, range(8)) for number in part]
    assert sorted(taken) == list(range(1, 801))


def test_who_waits_hears_of_the_last_key(server: StoreServer, store: JobStore, request: pytest.FixtureRequest) -> None:
    other = JobStore(server.address, SECRET, 5).under(f"{request.node.name}/")

    def tell() -> None:
        other.set("a", "1")
        time.sleep(0.1)
        other.add("b", 1)

    threading.Timer(0.1, tell).start()
    assert store.wait(["a", "b"]) == ["1", "1"]
    assert store.get("a") == "1"


def test_who_waits_too_long_hears_what_is_missing(store: JobStore) -> None:
    store.set("a", "1")
    assert store.wait(["a", "b"], 0.1) == ["1", None]
    store.set("b", "2")
    assert store.wait(["a", "b"], 0.1) == ["1", "2"]


def test_another_secret_is_refused(server: StoreServer) -> None:
    with pytest.raises(ForeignStoreError, match="they do not have the same secret"):
        JobStore(server.address, b"t" * 32, 60)


@pytest.mark.parametrize(
    "said",
    [b"", b"\n", b'["add",["claimed/0"],"",100]\n', b"x" * 300, b"x" * 10_000_000, b"a b\n", b"\xff\xfe \x00\n"],
    ids=["nothing", "an empty line", "a call", "a long line", "a very long line", "no proof", "no text"],
)
def test_who_proves_nothing_moves_nothing(store: JobStore, stranger: socket.socket, said: bytes) -> None:
    try:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    assert ended(stranger)
    assert store.read(["claimed/0"]) == [None]


def test_a_proof_is_good_for_one_connection(server: StoreServer, stranger: socket.socket) -> None:
    """Nor is the store's for a rank's, or a rank's at another address."""
    theirs = stranger.recv(100).strip()
    ours = nonce()
    for numbers, role in (
        (Numbers(nonce(), server.address, ours), "rank"),
        (Numbers(theirs, server.address, ours), "store"),
        (Numbers(theirs, Address("127.0.0.1", 1), ours), "rank"),
    ):
        with socket.create_connection(server.address, 5) as connection:
            connection.recv(100)
            connection.sendall(b"%s %s\n" % (ours, proof(SECRET, role, numbers)))  # type: ignore[arg-type]
            assert connection.recv(100) == b"refused\n"
            assert ended(connection)


def test_who_stands_between_is_found_out(server: StoreServer) -> None:
    """Somebody lets ranks connect to an address of their own, and hands on what both say."""
    with socket.create_server(("127.0.0.1", 0)) as between:

        def hand_on() -> None:
            rank, _ = between.accept()
            with rank, socket.create_connection(server.address, 5) as real:
                rank.sendall(real.recv(200))
                real.sendall(rank.recv(200))
                rank.sendall(real.recv(200))

        threading.Thread(target=hand_on, daemon=True).start()
        with pytest.raises(ForeignStoreError):
            JobStore(Address(*between.getsockname()), SECRET, 5)


def test_a_store_without_the_secret_is_no_store() -> None:
    with socket.create_server(("127.0.0.1", 0)) as false:

        def answer() -> None:
            rank, _ = false.accept()
            with rank:
                rank.sendall(nonce() + b"\n")
                rank.recv(200)
                rank.sendall(nonce() + b"\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ForeignStoreError, match="does not know the job's secret"):
            JobStore(Address(*false.getsockname()), SECRET, 5)


def test_many_that_say_nothing_keep_no_rank_out(server: StoreServer) -> None:
    silent = [socket.create_connection(server.address, 5) for _ in range(300)]
    assert JobStore(server.address, SECRET, 5).add("many", 1) == 1
    assert len(server.unproved) <= 128
    for one in silent:
        one.close()


def test_who_says_nothing_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_PROOF_S", 0.1)
    server = StoreServer(SECRET, "127.0.0.1")
    with socket.create_connection(server.address, 5) as silent:
        rank = JobStore(server.address, SECRET, 5)
        assert ended(silent)
        assert rank.add("n", 1) == 1


def test_an_address_of_another_host_is_one_line() -> None:
    """As VLLM_HOST_IP behind NAT."""
    with pytest.raises(RequestError, match=r"^VLLM_HOST_IP must be an address of the host of rank 0, not 192\.0\.2\.1"):
        StoreServer(SECRET, "192.0.2.1")


def test_it_listens_at_the_address_that_is_used_alone(server: StoreServer) -> None:
    assert server.address.host == "127.0.0.1"
    if outside := [one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]:
        for host in {str(one) for one in outside} - {"127.0.0.1"}:
            with pytest.raises(OSError, match=r".") as caught:
                socket.create_connection((host, server.address.port), 5)
            assert isinstance(caught.value, OSError)


SERVER = """
import json, sys
from vllm_hpc.engine.store.server import StoreServer
print(json.dumps(StoreServer(b"s" * 32, "127.0.0.1").address), flush=True)
sys.stdin.readline()
"""


def test_the_loss_of_the_store_is_an_echo_of_rank_0s_end() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        address = Address(*json.loads(process.stdout.readline()))
        store = JobStore(address, SECRET, 5)
        assert store.add("n", 1) == 1
        process.kill()
        with pytest.raises(StoreLostError) as lost:
            store.wait(["never"])
        assert is_echo(lost.value)
        with pytest.raises(OSError, match="does not answer"):
            JobStore(address, SECRET, 0)
