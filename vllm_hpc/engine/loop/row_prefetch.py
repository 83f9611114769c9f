"""The rows that wait to be admitted: read and tokenised on a separate thread, ahead of the engine's steps.

When a row is ready depends on the machine, but when it is admitted must not: ranks in lockstep take the same rows at
the same step, and wait for a row that is not ready yet.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from vllm_hpc.rows.row import Row, UnreadableRowError
from vllm_hpc.spec.errors import InputError

if TYPE_CHECKING:
    from vllm_hpc.engine.interface import Ready

    # A row that is ready, or one that cannot be made ready, with the reason.
    Item = Ready | tuple[Row, Exception]


class Reader(Protocol):
    """Reads rows of the input by their number."""

    def rows(self, first: int, count: int) -> list[Row]:
        """Rows ``first`` to ``first + count - 1``, or to the last. Raises InputError if the input has changed."""


class Feed:
    """Rows in the order of their ranges, at most ``ahead`` of them ready. Close it to end its thread."""

    def __init__(self, reader: Reader, make: Callable[[Row], Ready], ahead: int) -> None:
        self._reader, self._make = reader, make
        self._room, self._is_closed = threading.Semaphore(ahead), False
        self._ranges: queue.SimpleQueue[Sequence[int] | None] = queue.SimpleQueue()
        self._items: queue.SimpleQueue[Item | BaseException] = queue.SimpleQueue()
        self.backlog = 0
        threading.Thread(target=self._read_ahead, name="vllm-hpc-feed", daemon=True).start()

    def put(self, indices: Sequence[int]) -> None:
        """Request rows by index; ``backlog`` counts them until they are taken. Rising indices are read fastest."""
        self.backlog += len(indices)
        if indices:
            self._ranges.put(indices)

    def take(self) -> Item:
        """Wait for the next row. Raises InputError if the input has changed."""
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        self.backlog -= 1
        self._room.release()
        return item

    def close(self) -> None:
        """End the thread after its current row."""
        self._is_closed = True
        self._room.release()
        self._ranges.put(None)

    def _read_ahead(self) -> None:
        try:
            while (indices := self._ranges.get()) is not None:
                self._read(indices)
        except BaseException as error:  # noqa: BLE001 - take() raises it again
            self._items.put(error)

    def _read(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._room.acquire()
            if self._is_closed:
                return
            rows = self._reader.rows(index, 1)
            if not rows:  # take() would wait forever
                raise InputError(f"the input has no row {index}: was it cut short since the job was submitted?")
            self._items.put(self._prepare(rows[0]))

    def _prepare(self, row: Row) -> Item:
        if "error" in row:  # found when the job was submitted
            return row, UnreadableRowError(row["error"]["message"])
        try:
            return self._make(row)
        except Exception as error:  # noqa: BLE001 - whatever vLLM or a chat template raises belongs to that row
            return row, error
