"""What the job's store holds, and what each call does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_hpc.engine.store.messages import Call, Verb


class Values:
    """The values by key. A counter is a value, too: its digits."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._does: dict[Verb, Callable[[Call], list[bytes | None]]] = {
            "set": self._set, "add": self._add, "append": self._append, "compare": self._compare,
            "delete": self._delete, "count": self._count, "read": self._read, "wait": self._read,
        }  # fmt: skip

    def do(self, call: Call) -> list[bytes | None]:
        """Do what a call says at once, also where it would wait, and return the answer's values."""
        return self._does[call.verb](call)

    def has(self, keys: Sequence[str]) -> bool:
        """Whether all keys have values."""
        return all(key in self._values for key in keys)

    def _read(self, call: Call) -> list[bytes | None]:
        return [self._values.get(key) for key in call.keys]

    def _set(self, call: Call) -> list[bytes | None]:
        self._values.update(zip(call.keys, call.values, strict=True))
        return []

    def _add(self, call: Call) -> list[bytes | None]:
        for key in call.keys:
            self._values[key] = b"%d" % (int(self._values.get(key, b"0")) + int(call.amount))
        return self._read(call)

    def _append(self, call: Call) -> list[bytes | None]:
        for key, value in zip(call.keys, call.values, strict=True):
            self._values[key] = self._values.get(key, b"") + value
        return []

    def _compare(self, call: Call) -> list[bytes | None]:
        (key,), (expected, wanted) = call.keys, call.values
        if self._values.get(key, b"") == expected:
            self._values[key] = wanted
        return [self._values.get(key, expected)]

    def _delete(self, call: Call) -> list[bytes | None]:
        return [self._values.pop(key, None) for key in call.keys]

    def _count(self, call: Call) -> list[bytes | None]:
        return [b"%d" % len(self._values)]
