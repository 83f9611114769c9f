"""Records: the JSON files of a job folder as frozen values. ``record_files`` reads and writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.spec.bounds import RowCount
from vllm_hpc.spec.lora import Adapter
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.request import Request

# Version of job.json. 1 is vllm-hpc 0.1, whose file has no version and no origins. A larger number was written by a
# later vllm-hpc, in which the same keys may mean something else.
JOB_RECORD_VERSION = 2


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """job.json: what was asked and what was computed. ``model`` is passed to vLLM; times are Unix seconds.

    ``request`` is filled in from the profile; ``origins`` says where each value came from. ``uuid``: the job's own,
    which the records that are acted on have, too, so that another job's are not taken for them. ``script_sha256`` and
    ``chat_template_sha256`` are digests of the files in the job folder. ``passes_by_file``: the scheduler does not hand
    on the values of ``request.pass_env``, but state/passed does. vllm-hpc 0.1 has none of these.
    """

    version: int = 1
    request: Request
    origins: dict[str, str] = {}
    profile_files: tuple[str, ...] = ()
    queue: str | None = None
    plan: Plan
    scheduler: str
    model: str
    sampling: dict[str, Any]
    rows: RowCount
    created_at: float
    adapters: tuple[Adapter, ...] = ()
    versions: dict[str, str] = {}
    uuid: str = ""
    script_sha256: str = ""
    chat_template_sha256: str = ""
    passes_by_file: bool = False
    program: Program | None = None

    @property
    def has_rows(self) -> bool:
        """Whether an output row is expected for each row of the input: not if a program drives the engine itself."""
        return self.program is None or not self.program.drives_engine


class Version(msgspec.Struct, frozen=True):
    """The part of a job.json that every version can read."""

    version: int = 1


class Submitted(msgspec.Struct, frozen=True):
    """state/submitted.json: the scheduler took the job under this id.

    ``earlier``: previous ids, if the job's script submitted itself again (PBS); 'vllm-hpc resume' starts a new list.
    """

    scheduler: str
    job_id: str
    submitted_at: float
    earlier: tuple[str, ...] = ()
    uuid: str = ""


class Lost(msgspec.Struct, frozen=True):
    """state/lost.json: whoever submitted the job has ended without its id, so the scheduler may or may not have it.

    ``mark`` is the name of the mark that was made before (JobFolder.take), empty for the first submission; ``words``
    say what happened. ``is_by_hand``: the user submits it, from another machine.
    """

    mark: str
    words: str
    is_by_hand: bool = False


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """state/again.json: attempt k of this submission wants another one, and the scheduler has not taken it yet.

    ``reason``: why not. ``next_at``: when it is tried again (Unix seconds), by the script as long as that runs, and
    after that on a login node, by 'vllm-hpc status' and whoever waits for the job. ``is_lasting``: it is not tried
    again, for the scheduler would refuse the script whenever it is submitted.
    """

    job_id: str
    attempt: int
    reason: str = msgspec.field(name="said")
    next_at: float
    is_lasting: bool = False
    uuid: str = ""


class CannotSubmit(msgspec.Struct, frozen=True, kw_only=True):
    """state/cannot-submit.json: why the host of attempt k cannot submit the next one, found at the attempt's start."""

    attempt: int
    host: str
    reason: str = msgspec.field(name="said")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """attempts/<k>.json: the script started for the k-th time; ``task`` is the task of a job array."""

    attempt: int
    task: int = 0
    job_id: str
    host: str
    started_at: float


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """state/exit-<k>.json: how attempt k ended.

    ``cause``: exit, requeue (the script asked for another attempt), cancelled, timeout, or the name of a signal.
    """

    attempt: int
    exit_code: int
    cause: str
    ended_at: float


class Ending(msgspec.Struct, frozen=True):
    """state/ending-<k>.json: why the local scheduler is about to end attempt k: cancelled or timeout."""

    cause: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica did in one attempt: rows, tokens, and how its time was spent.

    ``seconds``: launch (from the script's start to the rank's), import, load, warm_up, generate, drain, and idle (the
    part of generate and drain with rows in flight but no step running). ``occupancy``: mean number of sequences in
    flight / max_num_seqs.
    """

    attempt: int
    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    occupancy: float = 0.0
    seconds: dict[str, float] = {}


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of state/samples-<replica>.<k>.jsonl: what a replica did at one moment of attempt k.

    ``at``: seconds since the epoch. ``tokens``: output tokens generated in this attempt so far, also of rows that are
    not finished; of embeddings and the like, input tokens computed. ``rows``: rows finished in this attempt.
    ``running`` and ``waiting``: rows in the engine, of which vLLM runs at most ``most_running``. ``in_flight``: output
    tokens of the rows in the engine so far. ``kv``: share of the KV cache in use, 0 to 1. ``watts``: of the node's GPUs
    that this replica's first rank sees, where NVML gives it.
    """

    at: float
    tokens: int = 0
    rows: int = 0
    running: int = 0
    waiting: int = 0
    most_running: int | None = None
    in_flight: int = 0
    kv: float | None = None
    watts: float | None = None


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What the time left of a replica's attempt follows from: its last ``seconds``, and how long its answers are.

    ``tokens`` were generated in them, by sequences that ran for ``slot_seconds`` in all. ``ended`` and ``begun`` are
    sequences that are complete, and those in flight, in groups of nearly equal length: how many, and their output
    tokens so far. Both are empty of embeddings and the like, and where vLLM's engine is in another process.
    """

    seconds: float
    tokens: int
    slot_seconds: float
    ended: tuple[tuple[int, int], ...] = ()
    begun: tuple[tuple[int, int], ...] = ()
    fixed: float = 0.5


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """state/progress-<replica>.json: what a replica's first rank has written, over all attempts.

    Each row counts once; times are those of the last attempt, the last of ``runs``. ``shard_bytes``: how much of that
    attempt's shard the counts cover, so that after a kill only the rest must be counted; None if unknown.
    """

    replica: int
    attempt: int
    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started_at: float = 0.0
    updated_at: float = 0.0
    shard_bytes: int | None = None
    runs: tuple[Run, ...] = ()
    now: Sample | None = None  # of the last attempt, as it was last told
    pace: Pace | None = None  # while it runs


class Crash(msgspec.Struct, frozen=True):
    """state/crash-<replica>.<k>.json: the error that an engine step raised in attempt k, or its fatal signal."""

    rank: int
    type: str
    message: str


class Claimed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of state/claimed-<replica>.<k>.jsonl: a chunk that was started, a group of rows on trial, or a probe."""

    chunk: int | None = None
    trial: list[int] | None = None
    probe: bool = False


class Retry(msgspec.Struct, frozen=True):
    """state/retry.json: run rows again whose error is from an attempt up to this one."""

    errors_up_to: int


# The type of a rank's error where torchrun, or what started that, was killed.
LAUNCHER_LOST = "LauncherLost"


class RankError(msgspec.Struct, frozen=True):
    """Why a rank died. ``is_echo``: only because another rank had died before."""

    type: str
    message: str
    traceback: str
    is_echo: bool = False


class RankRecord(msgspec.Struct, frozen=True, kw_only=True):
    """ranks/rank-<r>.json: where a rank ran and how it ended. Timings are in seconds.

    ``outcome``: running, ok, error, or terminated (by a signal). ``digest`` covers the token ids of all rows that the
    replica finished, and is equal on all its ranks. ``versions`` are those of vllm, torch and Python on the node.
    ``device_name`` is the driver's name for the GPU, ``device_gib`` its memory. ``patches``: for each by name "on", or
    "off: " and why (docs/vllm-versions.md).
    """

    rank: int
    replica: int
    attempt: int
    host: str
    pid: int
    device: str
    device_name: str = ""
    device_gib: float | None = None
    outcome: str
    updated_at: float
    digest: str | None = None
    rows: int = 0
    versions: dict[str, str] = {}
    timings: dict[str, float] = {}
    patches: dict[str, str] = {}
    error: RankError | None = None

    @property
    def has_raised(self) -> bool:
        """Whether it died of its own error, not because another rank died."""
        return self.outcome == "error" and self.error is not None and not self.error.is_echo
