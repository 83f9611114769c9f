"""Finding: what one check of ``doctor``, ``profiles check`` or ``templates check`` found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from vllm_hpc.spec.errors import VllmHpcError

Result = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True):
    """One check's result. ``advice`` is what to do, empty where nothing is.

    ``where``: the node, profile or template that it is about, None for this machine.
    """

    check: str
    status: Result
    found: str
    advice: str = ""
    where: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints; without ``where`` if it is about this machine."""
        where = {} if self.where is None else {"where": self.where}
        return {"check": self.check, **where, "status": self.status, "found": self.found, "advice": self.advice}


def refused(check: str, error: VllmHpcError) -> Finding:
    """A failure in an error's words, which end in what to do."""
    found, _, advice = str(error).rpartition(": ")
    return Finding(check, "fail", found, advice) if found else Finding(check, "fail", advice)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any check failed."""
    return any(one.status == "fail" for one in findings)
