"""Rates of earlier jobs with the same model, GPU and layout, from the user's job folders."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord, RankRecord
from vllm_hpc.spec.gpus import recognise
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.read_file import read_regular

# How many job folders are read, newest first: a plan must not read thousands.
MOST_FOLDERS = 50
# Shorter runs mostly measure their ramp-up.
LEAST_SECONDS = 10.0


class Measured(msgspec.Struct, frozen=True):
    """The median rate of earlier jobs: prompt plus output tokens per second and GPU."""

    tokens_per_s_per_gpu: float
    jobs: int


class _Summary(msgspec.Struct):
    """The fields read from summary.json."""

    state: str = ""
    rehearsal: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    timings: dict[str, float] = {}


def measured_rate(job_dir: Path, model: str, gpu: str, layout: Layout) -> Measured | None:
    """The rate of completed jobs under ``job_dir`` with the same model, GPU, TP and PP; None if there are none.

    ``gpu`` is its name in the planner's table. A folder that cannot be read is skipped.
    """
    rates = []
    for folder in _newest(job_dir):
        rate = _rate(JobFolder(folder), model, gpu, layout)
        if rate is not None:
            rates.append(rate)
    if not rates:
        return None
    from statistics import median

    return Measured(median(rates), len(rates))


def _newest(job_dir: Path) -> list[Path]:
    try:
        summaries = [(path.stat().st_mtime, path.parent) for path in job_dir.glob("*/summary.json")]
    except OSError:
        return []
    return [folder for _, folder in sorted(summaries, reverse=True)[:MOST_FOLDERS]]


def _rate(job: JobFolder, model: str, gpu: str, layout: Layout) -> float | None:
    try:
        summary = msgspec.json.decode(read_regular(job.summary, follow_links=False), type=_Summary)
        seconds = summary.timings.get("generate", 0.0)
        if summary.rehearsal or summary.state not in ("COMPLETED", "PARTIAL") or seconds < LEAST_SECONDS:
            return None
        record = msgspec.json.decode(read_regular(job.job_json, follow_links=False), type=JobRecord)
        ran = record.plan.layout
        if (record.model, ran.tp, ran.pp) != (model, layout.tp, layout.pp):
            return None
        rank = msgspec.json.decode(read_regular(job.rank_record(0), follow_links=False), type=RankRecord)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None
    if not rank.device_gib or recognise(rank.device_name, rank.device_gib).name != gpu:
        return None
    return (summary.prompt_tokens + summary.completion_tokens) / seconds / ran.all_ranks
