"""A rank's connection to the job's store."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from copy import copy
from typing import Self

import msgspec

from vllm_hpc.engine.store.messages import REFUSED, Address, Answer, Call, Numbers, is_same, nonce, proof

# Seconds: the store answers within milliseconds, but its process may be stopped for a while.
_ANSWER_S = 600.0
# Sockets take no longer time than 2^63 ns.
_LONGEST_S = 9e9
_CONNECT_S, _RETRY_S = 10.0, 0.2
# What tells, on a connection that is silent, that the other node is dead: after 2 minutes.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 6}


class StoreLostError(ConnectionError):
    """The store's process, on the head, is gone: its end is the cause."""


class ForeignStoreError(ConnectionError):
    """Who answers, or who asks, does not know the job's secret."""


class JobStore:
    """Values and counters that this world's ranks share. Safe to use from several threads, which wait for each other.

    Raises ForeignStoreError if it is another job's, or somebody's who wants to be taken for it; OSError if nobody
    listens there within ``limit_s``. All methods raise StoreLostError.
    """

    def __init__(self, address: Address, secret: bytes, limit_s: float) -> None:
        self._lock = threading.Lock()
        self._encoder, self._decoder = msgspec.json.Encoder(), msgspec.json.Decoder(Answer)
        self._socket = _connect(address, secret, time.monotonic() + limit_s)
        self._lines, self._prefix = self._socket.makefile("rb"), ""

    def under(self, prefix: str) -> Self:
        """The same store, where all keys begin with ``prefix``."""
        found = copy(self)
        found._prefix += prefix
        return found

    def set(self, key: str, value: str) -> None:
        """Store a value."""
        self.ask(Call("set", [key], [value.encode()]))

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which begins at 0, and return what it is then."""
        (value,) = self.ask(Call("add", [key], amount=amount))
        return int(value or 0)

    def read(self, keys: Sequence[str]) -> list[str | None]:
        """The values of these keys; None for those that have none."""
        return _texts(self.ask(Call("read", list(keys))))

    def wait(self, keys: Sequence[str], limit_s: float = 0) -> list[str | None]:
        """The same, when all of them have values or the time is over; 0: wait for ever."""
        return _texts(self.ask(Call("wait", list(keys), amount=limit_s)))

    def get(self, key: str) -> str:
        """A key's value; waits for it."""
        (value,) = self.wait([key])
        assert value is not None
        return value

    def ask(self, call: Call) -> list[bytes | None]:
        """The store's answer to a call, in bytes."""
        if self._prefix:
            call = msgspec.structs.replace(call, keys=[self._prefix + key for key in call.keys])
        with self._lock:
            try:
                self._socket.settimeout(_limit_s(call))
                self._socket.sendall(self._encoder.encode(call) + b"\n")
                line = self._lines.readline()
            except OSError as error:
                raise StoreLostError(f"the job's store was lost: {error}") from None
        if not line:
            raise StoreLostError("the job's store was lost: it closed the connection")
        return self._decoder.decode(line).values

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()


def _limit_s(call: Call) -> float | None:
    """How long the answer may take; None: for ever."""
    if call.verb != "wait":
        return _ANSWER_S
    return min(_ANSWER_S + call.amount, _LONGEST_S) if call.amount else None


def _texts(values: list[bytes | None]) -> list[str | None]:
    return [None if value is None else value.decode() for value in values]


def _connect(address: Address, secret: bytes, until: float) -> socket.socket:
    while True:
        try:
            return _try_to_connect(address, secret)
        except ForeignStoreError:
            raise
        except OSError as error:
            if time.monotonic() > until:
                raise OSError(
                    f"the job's store at {address.host} port {address.port} does not answer: {error}"
                ) from None
        time.sleep(_RETRY_S)


def _try_to_connect(address: Address, secret: bytes) -> socket.socket:
    """Connect, and prove the secret to each other."""
    found = socket.create_connection(address, _CONNECT_S)
    try:
        # Where this connection ends, whatever the name of the host stands for here.
        address = Address(*found.getpeername()[:2])
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            found.setsockopt(socket.IPPROTO_TCP, option, value)
        _prove(found, address, secret)
    except BaseException:
        found.close()
        raise
    return found


def _prove(connection: socket.socket, address: Address, secret: bytes) -> None:
    numbers = Numbers(_line(connection), address, nonce())
    connection.sendall(b"%s %s\n" % (numbers.ranks, proof(secret, "rank", numbers)))
    said = _line(connection)
    if said == REFUSED:
        raise ForeignStoreError("the job's store refused this rank: they do not have the same secret")
    if not is_same(said, proof(secret, "store", numbers)):
        raise ForeignStoreError("who answers in the place of the job's store does not know the job's secret")


def _line(connection: socket.socket) -> bytes:
    """A line of the exchange of proofs; nothing follows it before the next one is sent."""
    found = b""
    while not found.endswith(b"\n"):
        more = connection.recv(256)
        if not more or len(found) > 256:
            raise ConnectionError("the connection was closed before the secret was proved")
        found += more
    return found[:-1]
