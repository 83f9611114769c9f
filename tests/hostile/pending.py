"""Cases that are known to fail, and why: (surface or case, kind of complaint) -> what is to be mended."""

from __future__ import annotations

PENDING: dict[tuple[str, str], str] = {}
