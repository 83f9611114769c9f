"""When a job drains ahead of its walltime, and how often it runs again."""

from __future__ import annotations

from vllm_hpc.spec.bounds import LEAST_LEAD_S
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import parse_walltime

# Attempts after the first (--max-requeues).
DEFAULT_MAX_REQUEUES = 10
# Seconds of --drain-lead where it is not given.
DEFAULT_LEAD_S = 120


def lead_s(drain_lead: int | None, time: str | None) -> int:
    """Seconds before the end of the walltime when a drain begins; by default 120, at most a fifth of it."""
    limit = parse_walltime(time) if time else float("inf")
    return drain_lead or int(min(DEFAULT_LEAD_S, limit / 5))


def check_lead(drain_lead: int | None, time: str | None) -> None:
    """Refuse a drain lead that uses up the walltime: the job would drain as soon as it starts. Raises RequestError."""
    if drain_lead is None or time is None:
        return
    limit = parse_walltime(time)
    if drain_lead >= limit:
        nearest = f"use {limit - 1} or less" if limit > LEAST_LEAD_S else "leave it out"
        raise RequestError(f"--drain-lead {drain_lead} leaves nothing of --time {time} ({limit} s): {nearest}")
