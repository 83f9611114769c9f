"""Rates of earlier jobs with the same model, GPU and layout, from the user's job folders."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_job, read_json
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.gpus import recognise
from vllm_hpc.spec.layout import Layout

# How many job folders are read, newest first: a plan must not read thousands.
MOST_FOLDERS = 50
# Shorter runs mostly measure their ramp-up.
LEAST_SECONDS = 10.0
# Of a summary, which has some thirty values.
_MOST_BYTES = 1 << 20
# Any that a float can hold: others' summaries are read, too.
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Measured(msgspec.Struct, frozen=True):
    """The median rate of earlier jobs: prompt plus output tokens per second and GPU."""

    tokens_per_s_per_gpu: float
    jobs: int


class _Summary(msgspec.Struct):
    """The fields read from summary.json."""

    state: str = ""
    rehearsal: bool = False
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    timings: dict[str, float] = {}


def measured_rate(
    job_dir: Path,
    model: str,
    gpu: str,
    layout: Layout,
    engine: Mapping[str, Any] = MappingProxyType({}),
    overlaps: bool = False,
) -> Measured | None:
    """The rate of completed jobs under ``job_dir`` with the same model, GPU, TP and PP; None if there are none.

    ``gpu`` is its name in the planner's table. Of ``engine``, what changes answers (fp8, speculation) must be the same:
    it changes the speed most. ``overlaps``: whether PP stages overlap, which must be the same, too. A folder that
    cannot be read is skipped.
    """
    rates = []
    for folder in _newest(job_dir):
        rate = _rate(JobFolder(folder), model, gpu, layout, engine, overlaps)
        if rate is not None:
            rates.append(rate)
    if not rates:
        return None
    from statistics import median

    return Measured(median(rates), len(rates))


def _newest(job_dir: Path) -> list[Path]:
    try:
        paths = list(job_dir.glob("*/summary.json"))
    except OSError:
        return []
    found = []
    for path in paths:
        with suppress(OSError):  # removed meanwhile
            found.append((path.lstat().st_mtime, path.parent))
    return [folder for _, folder in sorted(found, reverse=True)[:MOST_FOLDERS]]


def _rate(
    job: JobFolder, model: str, gpu: str, layout: Layout, engine: Mapping[str, Any], overlaps: bool
) -> float | None:
    speed = _speed(read_json(job.summary, _Summary, _MOST_BYTES) or _Summary())
    record = read_job(job.job_json) if speed else None
    if not speed or record is None or record.program is not None:  # a program's own work takes time, too
        return None
    ran, is_native = record.plan.layout, record.plan.is_native
    if (record.model, ran.tp, ran.pp, ran.attention_dp) != (model, layout.tp, layout.pp, layout.attention_dp):
        return None
    if ran.pp > 1 and is_native != overlaps:
        return None
    if any(record.plan.engine.get(name) != engine.get(name) for name in CHANGES_ANSWERS.values()):
        return None
    rank = read_json(job.rank_record(0), RankRecord)
    if rank is None or not rank.device_gib or recognise(rank.device_name, rank.device_gib).name != gpu:
        return None
    return speed / ran.all_ranks


def _speed(summary: _Summary) -> float | None:
    """Tokens per second of a job that says enough."""
    seconds = summary.timings.get("generate", 0.0)
    if summary.rehearsal or summary.state not in ("COMPLETED", "PARTIAL") or seconds < LEAST_SECONDS:
        return None
    return (summary.prompt_tokens + summary.completion_tokens) / seconds
