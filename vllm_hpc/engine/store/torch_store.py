"""The job's store in the form that torch's process groups (gloo, NCCL) and torchrun's agents use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Self

from torch._C._distributed_c10d import Store
from torch.distributed import DistStoreError

from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.messages import Call

Value = str | bytes
# torch's C++ side keeps its half of a store alive, but not this half: without it, a call from there fails.
_ALIVE: list[TorchStore] = []


class TorchStore(Store):
    """The job's store as a store of torch; ``connect`` makes connections to it.

    torch calls it from threads of its own, too (NCCL's), and one that waits must not hold up the others: so each call
    has a connection to itself. The methods' names are those by which torch's C++ side calls them (c10d/init.cpp,
    PythonStore). Raises DistStoreError when the time for a wait is over, and StoreLostError.
    """

    timeout: timedelta  # torch's; its stubs leave it out

    def __init__(self, connect: Callable[[], JobStore], timeout: timedelta) -> None:
        super().__init__()
        self.set_timeout(timeout)
        self._connect = connect
        self._free: list[JobStore] = []
        _ALIVE.append(self)

    def set(self, key: str, value: Value) -> None:
        """Store a value."""
        self._ask(Call("set", [key], [_bytes(value)]))

    def get(self, key: str) -> bytes:
        """A key's value; waits for it."""
        (value,) = self.multi_get([key])
        return value

    def add(self, key: str, value: int) -> int:
        """Add to a counter, and return what it is then."""
        return int(self._ask(Call("add", [key], amount=value))[0] or 0)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys have values."""
        return None not in self._ask(Call("read", list(keys)))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys have values; as long as the store's own timeout says, unless told otherwise."""
        self._wait(keys, self.timeout if timeout is None else timeout)

    def append(self, key: str, value: Value) -> None:
        """Append to a value."""
        self._ask(Call("append", [key], [_bytes(value)]))

    def compare_set(self, key: str, expected_value: Value, desired_value: Value) -> bytes:
        """Set a value that is as expected, and return what it is then."""
        (value,) = self._ask(Call("compare", [key], [_bytes(expected_value), _bytes(desired_value)]))
        return value or b""

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The keys' values; waits for them."""
        return self._wait(keys, self.timeout)

    def multi_set(self, keys: Sequence[str], values: Sequence[Value]) -> None:
        """Store several values at once."""
        self._ask(Call("set", list(keys), [_bytes(value) for value in values]))

    def deleteKey(self, key: str) -> bool:  # noqa: N802 - torch's name
        """Delete a key, and return whether it was there."""
        return self._ask(Call("delete", [key])) != [None]

    def getNumKeys(self) -> int:  # noqa: N802 - torch's name
        """How many keys there are."""
        return int(self._ask(Call("count"))[0] or 0)

    def has_extended_api(self) -> bool:
        """Whether it has append, multi_get and multi_set."""
        return True

    def clone(self) -> Self:
        """A store that does not wait for this one's calls: this one does not, either."""
        return self

    def close(self) -> None:
        """Close the connections that no call has."""
        while self._free:
            self._free.pop().close()

    def _wait(self, keys: Sequence[str], timeout: timedelta) -> list[bytes]:
        values = self._ask(Call("wait", list(keys), amount=timeout.total_seconds()))
        if missing := [key for key, value in zip(keys, values, strict=True) if value is None]:
            raise DistStoreError(f"the job's store has no {missing} after {timeout.total_seconds():g} s")
        return [value for value in values if value is not None]

    def _ask(self, call: Call) -> list[bytes | None]:
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._connect()
        values = connection.ask(call)
        self._free.append(connection)
        return values


def _bytes(value: Value) -> bytes:
    return value.encode() if isinstance(value, str) else value
