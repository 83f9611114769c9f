"""Finding: what one check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Result = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True):
    """One check's result, on ``node`` if it is about one. ``advice`` is what to do, empty where nothing is."""

    check: str
    status: Result
    found: str
    advice: str = ""
    node: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``doctor --json`` prints; without ``node`` where it is about none."""
        node = {} if self.node is None else {"node": self.node}
        return {"check": self.check, **node, "status": self.status, "found": self.found, "advice": self.advice}


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any check failed."""
    return any(one.status == "fail" for one in findings)
