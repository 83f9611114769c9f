"""cancel: one job, several, or all that a pattern fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_dir_option, jobs_argument, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.errors import RequestError, VllmHpcError

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.status import Status

JOB_ID_HELP = "The scheduler's id of the job, if its submission was interrupted and its id is not known."


@command("cancel")
@jobs_argument(required=True)
@job_dir_option
@click.option("--job-id", metavar="ID", help=JOB_ID_HELP)
@json_option
def cancel_command(jobs: tuple[str, ...], job_dir: str, job_id: str | None, as_json: bool) -> int:
    """Cancel jobs in their scheduler; finished rows can still be collected.

    JOB may be a quoted pattern, such as 'sweep-*', of your jobs under --job-dir. Of several, each is one line, and the
    exit code is 1 if one of them cannot be cancelled.
    """
    from vllm_hpc.jobs.find import find_jobs

    found = list({job.path: job for given in jobs for job in find_jobs(given, job_dir)}.values())
    if len(found) == 1 and not set("".join(jobs)) & set("*?["):
        _cancel_one(found[0], job_id, as_json)
        return 0
    if job_id is not None:
        raise RequestError(f"--job-id is the id of one job, but there are {len(found)}: name one")
    return _cancel_all(found, as_json)


def _cancel_one(job: Job, job_id: str | None, as_json: bool) -> None:
    from vllm_hpc.cli import print_status

    if job_id is None and _has_ended(job):
        say("Nothing to cancel: the job has ended.", err=True)
    status = job.cancel(job_id)
    if as_json:
        print_json(status)
    else:
        print_status.print_status(status)
    if not status.is_final:
        say("The job is being cancelled: check its status in a few seconds.", err=True)


def _cancel_all(jobs: list[Job], as_json: bool) -> int:
    """Go on after one that cannot be cancelled. Returns the exit code."""
    statuses: list[Status] = []
    failed = False
    for job in jobs:
        try:
            had_ended = _has_ended(job)
            status = job.cancel()
        except (VllmHpcError, OSError) as error:
            failed = True
            say(f"Error: {job.path.name}: {' '.join(str(error).split())}", err=True)
            continue
        statuses.append(status)
        if not as_json:
            said = "had ended" if had_ended else "cancelled" if status.is_final else "is being cancelled"
            say(f"{job.path.name}: {said} ({status.state})")
    if as_json:
        print_json(statuses)
    return int(failed)


def _has_ended(job: Job) -> bool:
    from vllm_hpc.jobs.cancel import folder_to_cancel
    from vllm_hpc.jobs.status import read_status

    return read_status(folder_to_cancel(job.folder)).is_final
