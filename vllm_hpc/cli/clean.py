"""clean: removes what jobs that have ended need no more, for quotas and limits of inodes."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_dir_option, jobs_argument, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.jobs.disk_use import NOTHING, DiskUse
from vllm_hpc.spec.errors import RequestError, VllmHpcError
from vllm_hpc.spec.words import counted, in_bytes

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
OLDER_HELP = "Only jobs that ended longer ago: 30d, 12h, 2w. Needed without JOB."
KEEP_HELP = (
    "outputs: also remove the ranks' own logs and records. For jobs with rows. The logs and records that explain a "
    "FAILED job are kept."
)
DRY_RUN_HELP = "Remove nothing: say what would be freed."


class _Cleaned(NamedTuple):
    job: Job
    freed: DiskUse
    kept: str = ""
    is_refused: bool = False
    shards_stay: bool = False


@command("clean")
@jobs_argument(required=False)
@job_dir_option
@click.option("--older", metavar="AGE", help=OLDER_HELP)
@click.option("--keep", type=click.Choice(["outputs"]), help=KEEP_HELP)
@click.option("--dry-run", is_flag=True, help=DRY_RUN_HELP)
@json_option
def clean_command(
    jobs: tuple[str, ...], job_dir: str, older: str | None, keep: str | None, dry_run: bool, as_json: bool
) -> int:
    """Remove what ended jobs need no more: ranks' traces; of COMPLETED ones the shards. Without JOB, of all older ones.

    outputs.jsonl, summary.json, the input, the script and the logs stay, and so does what status, list, show and
    results read. A COMPLETED job is collected first. One that has ended otherwise keeps its shards, which resume and
    collect read. One that has not ended, or is another user's, keeps everything. JOB may be a quoted pattern. Exit code
    1 if a JOB cannot be cleaned.
    """
    from vllm_hpc.jobs.find import find_jobs, list_jobs

    longest = _seconds(older)
    if not jobs and longest is None:
        raise RequestError("clean needs JOB, or --older AGE for all under --job-dir that ended longer ago: --older 30d")
    named = list({job.path: job for given in jobs for job in find_jobs(given, job_dir)}.values())
    chosen = named if jobs else [job for job in list_jobs(job_dir) if job.folder.is_mine]
    found = [_clean(job, longest, keep is not None, dry_run) for job in chosen]
    if as_json:
        print_json([_as_json(one) for one in found])
    else:
        _print(found, bool(jobs), dry_run)
    return int(bool(jobs) and any(one.is_refused for one in found))


def _seconds(age: str | None) -> float | None:
    if age is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", age.strip())
    if found is None:
        raise RequestError(f"--older must be a number and m, h, d or w, such as 30d, not {age!r}")
    return float(int(found[1]) * _UNITS[found[2]])


def _clean(job: Job, longest: float | None, only_outputs: bool, dry_run: bool) -> _Cleaned:
    from vllm_hpc.jobs.clean import clean, ended_at

    try:
        if longest is not None and time.time() - ended_at(job.folder) < longest:
            return _Cleaned(job, NOTHING, "not that old")
        freed = clean(job.folder, only_outputs, dry_run)
        return _Cleaned(job, freed.use, shards_stay=freed.shards_stay)
    except VllmHpcError as error:
        return _Cleaned(job, NOTHING, str(error), is_refused=True)
    except OSError as error:
        return _Cleaned(job, NOTHING, f"{error.filename or job.path}: {error.strerror}", is_refused=True)


def _as_json(one: _Cleaned) -> dict[str, object]:
    found = {"job": str(one.job.path), "bytes": one.freed.bytes, "files": one.freed.files, "kept": one.kept or None}
    return {**found, "shards_stay": one.shards_stay}


def _print(found: Sequence[_Cleaned], is_named: bool, dry_run: bool) -> None:
    """A line for each job that is freed of anything, and the sum; what is kept, and why, in a line or one for each."""
    verb = "would free" if dry_run else "freed"
    cleaned = [one for one in found if one.freed.files]
    for one in cleaned:
        say(f"{one.job.path.name}: {verb} {_words(one.freed)}{_of_shards(one)}")
    for one in found:
        if one.kept and is_named:
            say(f"{'Error: ' if one.is_refused else ''}{one.job.path.name}: {one.kept}", err=True)
        elif is_named and not one.freed.files:
            say(f"{one.job.path.name}: nothing to remove{_of_shards(one)}")
    if len(cleaned) != 1 and not is_named:
        total = sum((one.freed for one in cleaned), NOTHING)
        say(f"{counted(len(cleaned), 'job')}: {verb} {_words(total)}")
    if not is_named:
        kept = Counter(one.kept.partition(": ")[0] for one in found if one.is_refused)
        for why, count in kept.most_common(5):
            say(f"Kept {counted(count, 'job')}: {why}", err=True)


def _of_shards(one: _Cleaned) -> str:
    return "; its shards stay, which 'vllm-hpc resume' and 'collect' read" if one.shards_stay else ""


def _words(use: DiskUse) -> str:
    return f"{in_bytes(use.bytes)} in {counted(use.files, 'file')}"
