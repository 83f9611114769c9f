"""Facts: what a report shows of a job, as frozen values. ``report --json`` prints them; times are Unix seconds."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.layout import Layout


class Part(msgspec.Struct, frozen=True):
    """What an attempt did from one moment to another, in seconds since the job was made."""

    name: str
    start: float
    end: float


class AttemptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt: ``cause`` and ``exit_code`` of its end are None while it runs, or if it left no record."""

    attempt: int
    task: int
    job_id: str
    host: str
    cause: str | None
    exit_code: int | None
    parts: tuple[Part, ...]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica did over time, a value for each bin; None: not known.

    ``tokens_per_s``: output tokens; ``running`` and ``waiting``: rows; ``occupancy``: running / most that vLLM runs;
    ``kv``: share of the KV cache; ``watts``: of the GPUs.
    """

    replica: int
    tokens_per_s: tuple[float | None, ...]
    running: tuple[float | None, ...]
    waiting: tuple[float | None, ...]
    occupancy: tuple[float | None, ...]
    kv: tuple[float | None, ...]
    watts: tuple[float | None, ...]


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """The replicas' samples in bins. ``starts``: of each bin, in seconds since the job was made; ``widths`` in seconds.

    ``cuts``: bins before which time was left out, in which no attempt ran. ``unreadable``: files that were no samples.
    """

    starts: tuple[float, ...]
    widths: tuple[float, ...]
    cuts: tuple[int, ...]
    replicas: tuple[Series, ...]
    unreadable: int = 0


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """What the GPUs took that the replicas' first ranks see: from ``seconds`` of samples of ``replicas`` replicas."""

    kwh: float
    joules_per_token: float | None
    replicas: int
    seconds: float


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows have how many tokens: ``counts[i]`` of ``i * width`` and more. Quantiles to three digits."""

    width: int
    counts: tuple[int, ...]
    mean: float
    median: int
    p90: int
    most: int


class ErrorGroup(msgspec.Struct, frozen=True):
    """Errors of one type with one message, numbers aside; ``first_id``: that of the first row that has it."""

    type: str
    message: str
    count: int
    first_id: str


class RowFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that are there. ``finish``: why answers ended, by reason."""

    done: int = 0
    failed: int = 0
    missing: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt: Histogram | None = None
    completion: Histogram | None = None
    finish: dict[str, int] = {}
    errors: tuple[ErrorGroup, ...] = ()
    unreadable: str = ""


class HostFacts(msgspec.Struct, frozen=True):
    """A node: its ranks, and its devices with their number."""

    host: str
    ranks: tuple[int, ...]
    devices: dict[str, int]
    outcomes: dict[str, int]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report shows. ``speeds``: as in summary.json, and what the status says."""

    name: str
    status: Status
    model: str
    layout: Layout
    made_at: float
    found_at: float
    queue: str | None
    settings: dict[str, Any]
    speeds: dict[str, float | int | None]
    attempts: tuple[AttemptFacts, ...]
    samples: Samples | None
    energy: Energy | None
    rows: RowFacts | None
    hosts: tuple[HostFacts, ...]
    versions: dict[str, str]
    patches: dict[str, str]
    notes: tuple[str, ...]
    first_error: tuple[str, str] | None
    script_name: str
    script: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Two jobs: ``settings`` that differ; ``equal`` of ``compared`` rows, None where the outputs were not read."""

    settings: dict[str, tuple[Any, Any]]
    compared: int | None = None
    equal: int | None = None
    note: str = ""
