"""The store itself: a thread that answers those who know the job's secret.

It is in torchrun's agent on the head, or in the first rank where no torchrun starts the ranks.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from vllm_hpc.engine.store.messages import LONGEST_PROOF, REFUSED, Address, Answer, Call, Numbers, is_same, nonce, proof
from vllm_hpc.engine.store.values import Values
from vllm_hpc.spec.errors import RequestError

# Seconds in which a connection must have proved the secret, and how many may stand without proof: beyond that the
# oldest is closed, for a rank needs no more than a moment.
_PROOF_S, _UNPROVED = 10.0, 128
_LOOK_S = 0.02


class _Waiting(NamedTuple):
    keys: list[str]
    answer: Callable[[], None]


class StoreServer:
    """Holds the values, on a thread that ends with this process. Raises OSError if it cannot listen on ``host``.

    ``port`` 0: a free one.
    """

    def __init__(self, secret: bytes, host: str, port: int = 0) -> None:
        self.secret = secret
        # The connections that have proved the secret; and those that have not, oldest first.
        self.proved: set[_Session] = set()
        self.unproved: dict[_Session, None] = {}
        self._values = Values()
        self._waiting: list[_Waiting] = []
        self.loop = asyncio.SelectorEventLoop()
        listen = self.loop.create_server(lambda: _Session(self), host, port, backlog=1024)
        try:
            server = self.loop.run_until_complete(listen)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # Behind NAT, say: the others know the host by an address that it does not have.
            raise RequestError(f"VLLM_HOST_IP must be an address of the host of rank 0, not {host}") from None
        self.address = Address(*server.sockets[0].getsockname()[:2])
        threading.Thread(target=self.loop.run_forever, name="vllm-hpc-store", daemon=True).start()

    def call(self, call: Call, answer: Callable[[Answer], None]) -> None:
        """Do what a rank asks for, and answer at once or, if it waits for keys, when they are there."""
        if call.verb == "wait" and not self._values.has(call.keys):
            return self._wait(call, answer)
        answer(Answer(self._values.do(call)))
        if call.verb in ("set", "add", "append", "compare"):
            self._wake()
        return None

    def wait_until_left(self, limit_s: float) -> bool:
        """Wait until all who have proved the secret have closed their connections; at most for these seconds.

        Returns whether they have.
        """
        until = time.monotonic() + limit_s
        while self.proved and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return not self.proved

    def _wait(self, call: Call, answer: Callable[[Answer], None]) -> None:
        def end() -> None:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                answer(Answer(self._values.do(call)))

        waiting = _Waiting(call.keys, end)
        self._waiting.append(waiting)
        if call.amount:
            self.loop.call_later(call.amount, end)

    def _wake(self) -> None:
        for waiting in [one for one in self._waiting if self._values.has(one.keys)]:
            waiting.answer()


class _Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: StoreServer) -> None:
        self._server, self._nonce, self._buffer = server, nonce(), bytearray()
        self._decoder, self._encoder = msgspec.json.Decoder(Call), msgspec.json.Encoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, unproved = transport, self._server.unproved
        # Where the rank has reached it.
        self._reached = Address(*transport.get_extra_info("sockname")[:2])
        unproved[self] = None
        self._deadline = self._server.loop.call_later(_PROOF_S, transport.abort)
        if len(unproved) > _UNPROVED:
            next(iter(unproved)).drop()
        self._send(self._nonce)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.unproved.pop(self, None)
        self._server.proved.discard(self)
        self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            self._take(bytes(line))
        if self in self._server.unproved and len(rest) > LONGEST_PROOF:
            self.drop()

    def drop(self) -> None:
        """Close the connection of somebody who has proved nothing."""
        self._server.unproved.pop(self, None)
        self._transport.abort()

    def _take(self, line: bytes) -> None:
        if self._transport.is_closing():
            return
        if self in self._server.unproved:
            self._check(line)
        else:
            self._server.call(self._decoder.decode(line), lambda answer: self._send(self._encoder.encode(answer)))

    def _check(self, line: bytes) -> None:
        theirs, _, said = line.partition(b" ")
        numbers = Numbers(self._nonce, self._reached, theirs)
        if not is_same(said, proof(self._server.secret, "rank", numbers)):
            self._send(REFUSED)
            self._transport.close()
            return
        del self._server.unproved[self]
        self._server.proved.add(self)
        self._deadline.cancel()
        self._send(proof(self._server.secret, "store", numbers))

    def _send(self, line: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(line + b"\n")
