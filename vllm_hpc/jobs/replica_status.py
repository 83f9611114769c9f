"""What each replica of a job does, or did last, as its first rank told it."""

from __future__ import annotations

import msgspec

from vllm_hpc.jobfolder.records import Attempt, Progress, Sample
from vllm_hpc.jobs.progress import speed_of
from vllm_hpc.spec.values import parse_walltime


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica in its last attempt.

    ``done`` and ``failed`` count its rows over all attempts. ``tokens_per_s`` is its speed over the last minutes,
    ``running`` how many rows are in its engine, of at most ``most_running``; ``kv`` the used share of its KV cache, 0
    to 1; ``watts`` of the GPUs that its first rank sees. None: not known. ``updated_at``: Unix seconds.
    """

    replica: int
    attempt: int
    done: int = 0
    failed: int = 0
    tokens_per_s: float | None = None
    running: int | None = None
    most_running: int | None = None
    kv: float | None = None
    watts: float | None = None
    updated_at: float = 0.0


def replica_statuses(progress: list[Progress], current: set[int]) -> tuple[ReplicaStatus, ...]:
    """The state of every replica that has started; only of those in the attempts ``current`` what it does now."""
    return tuple(_replica(one, one.attempt in current) for one in progress)


def _replica(progress: Progress, is_current: bool) -> ReplicaStatus:
    now = progress.now if is_current and progress.now is not None else None
    seen = now or Sample(at=0.0)
    return ReplicaStatus(
        replica=progress.replica,
        attempt=progress.attempt,
        done=progress.done,
        failed=progress.failed,
        tokens_per_s=speed_of(progress) if now else None,
        running=now.running if now else None,
        most_running=seen.most_running,
        kv=seen.kv,
        watts=seen.watts,
        updated_at=progress.updated_at,
    )


def generated_tokens(progress: list[Progress], current: set[int]) -> int | None:
    """Output tokens of all attempts, also of rows in flight in the attempts ``current``, which run.

    Of embeddings and the like, input tokens. None before any replica has started.
    """
    if not progress:
        return None
    finished = sum(one.completion_tokens for one in progress) or sum(one.prompt_tokens for one in progress if one.now)
    return finished + sum(one.now.in_flight for one in progress if one.now and one.attempt in current)


def walltime_end(walltime: str | None, attempts: list[Attempt], current: set[int]) -> float | None:
    """When the walltime of the last of these attempts ends (Unix seconds); None if that is not known."""
    begun = [one.started_at for one in attempts if one.attempt in current]
    if walltime is None or not begun:
        return None
    return max(begun) + parse_walltime(walltime)
