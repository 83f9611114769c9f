"""state/env-<rank>.json: what a rank saw as it began. No value of a secret is ever in it (engine/startup/seen.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json

# A record has a few hundred variables of at most some kilobytes.
_MOST_BYTES = 4 * 2**20
# A limit that the kernel cannot count to is none, and a record that has one is none.
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RankEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank saw in its last attempt, before torch or vLLM was imported.

    ``variables``: environment variables that matter to ranks, and those of --env K=V, with their values; ``hidden``:
    names of those whose value is not written, because it is or may be a secret. ``address`` and ``interface``: by which
    the other ranks reach this one. ``cores``: those that it may use, as "0-3,8". ``memory``: limits in bytes, by name.
    """

    rank: int
    attempt: int
    host: str
    pid: int
    cwd: str
    executable: str
    variables: dict[str, str] = {}
    hidden: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    address: str = ""
    interface: str = ""
    cores: str = ""
    memory: dict[str, Bytes] = {}


def read_environments(folder: JobFolder, ranks: Iterable[int]) -> list[RankEnvironment]:
    """The records of these ranks, without those that have none that can be read."""
    found = (read_json(folder.environment(rank), RankEnvironment, _MOST_BYTES) for rank in ranks)
    return [one for one in found if one is not None]
