"""What ``vllm-hpc doctor --on-nodes`` finds on a node and in a rank: written there, judged where it was asked.

A node or a rank only gathers. What is wrong with it, and what to do, is decided by ``vllm_hpc/doctor``.
"""

from __future__ import annotations

import msgspec

from vllm_hpc.spec.environment_variables import DOCTOR
from vllm_hpc.spec.host_path import HostPath

# Set in a job of doctor, for its nodes and ranks: what they look at (Subject), as JSON.
VARIABLE = DOCTOR
# Begins the line that a node prints where it cannot write its report into the job folder.
MARK = "vllm-hpc doctor: "
MIB = 1 << 20


class Subject(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node looks for: the model (a folder or a Hub id), the container's image and what runs it.

    ``revision`` is that of a Hub id, empty for main.
    """

    model: str = ""
    image: str = ""
    runtime: str = ""
    revision: str = ""


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs as the driver's ``tool`` lists them; ``memory_gib`` is that of the smallest."""

    tool: str
    count: int
    name: str = ""
    memory_gib: float | None = None
    driver: str = ""


class Writes(msgspec.Struct, frozen=True):
    """Seconds in which a small file is written, synced and renamed: the median of some, and the longest."""

    median_s: float
    worst_s: float


class Sharing(msgspec.Struct, frozen=True):
    """What a node sees of the files that the head writes.

    ``visible_s``: how long until the head's new file was there, None if it never was. Then the head replaced it again
    and again: of ``reads``, ``torn`` found no file, or a part of one.
    """

    visible_s: float | None
    reads: int = 0
    torn: int = 0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """state/doctor-node-<k>-<n>.json: what a node found in attempt k; an ``*_error`` says why something was not found.

    Written twice: before the nodes meet, and after (``has_met``). ``port_error``: why the head cannot listen at the
    port of the rendezvous; ``head_error``: why this node does not reach it. ``skew_s``: how far the head's clock is
    ahead of this one's. ``wrong_interfaces``: variables that name a network interface which this node does not have.
    """

    node: int
    host: str
    has_met: bool = False
    versions: dict[str, str] = {}
    gpus: Gpus | None = None
    gpus_error: str = ""
    address: str = ""
    interface: str = ""
    interfaces: tuple[str, ...] = ()
    network_error: str = ""
    wrong_interfaces: dict[str, str] = {}
    head: str = ""
    port: int = 0
    port_error: str = ""
    head_error: str = ""
    round_trip_s: float | None = None
    skew_s: float | None = None
    writes: Writes | None = None
    folder_error: str = ""
    free_gib: float | None = None
    sharing: Sharing | None = None
    memory_gib: float | None = None
    model: HostPath | None = None
    image: HostPath | None = None
    runtime: str = ""


class Sum(msgspec.Struct, frozen=True):
    """An all-reduce of so many bytes on each rank, and its seconds on the slowest."""

    size: int
    seconds: float


class RankFacts(msgspec.Struct, frozen=True, kw_only=True):
    """state/doctor-rank-<r>.json: what the first rank of each node found, in the container if there is one."""

    rank: int
    host: str
    ranks: int = 1
    versions: dict[str, str] = {}
    gpus: int = 0
    gpu_name: str = ""
    gpu_gib: float | None = None
    backend: str = ""
    sums: tuple[Sum, ...] = ()
    error: str = ""
