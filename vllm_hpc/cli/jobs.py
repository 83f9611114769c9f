"""status, logs, collect, resume: the commands for existing jobs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.complete import complete_job
from vllm_hpc.cli.job_options import job_argument, job_dir_option, json_option
from vllm_hpc.cli.output import print_json, print_raw, say
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.words import counted

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.summary import Summary

NOT_SUBMITTED_HELP = (
    "You have checked that the scheduler does not have the job, although its submission was interrupted, or its state "
    "is UNKNOWN."
)
OUTPUT_HELP = "Write both into this folder instead of the job's, as another user's job needs."


@command("status")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--watch", is_flag=True, help="Show it again and again until the end; a JOB as the command watch does.")
@job_dir_option
@json_option
def status_command(job: str | None, job_dir: str, watch: bool, as_json: bool) -> int:
    """Show state, rows and speed of a job; without JOB, of all under --job-dir."""
    if watch and as_json:
        raise RequestError("--watch is for people: leave --json out, or use 'vllm-hpc wait JOB --json'")
    if watch:
        from vllm_hpc.cli.watch import watch_job, watch_table

        return watch_table(job_dir) if job is None else watch_job(job, job_dir)
    from vllm_hpc.cli import print_status
    from vllm_hpc.jobs.find import find_job, list_statuses

    if job is None:
        from vllm_hpc.cli.print_list import print_list

        print_list(list_statuses(job_dir), job_dir, as_json)
        return 0
    status = find_job(job, job_dir).status()
    if as_json:
        print_json(status)
    else:
        print_status.print_status(status)
    return 0


@command("logs")
@job_argument
@click.option("--rank", type=int, help="One rank's own log instead of the scheduler's.")
@click.option("--follow", is_flag=True, help="Keep printing until the job ends; on a terminal with its progress below.")
def logs_command(job: str, job_dir: str, rank: int | None, follow: bool) -> int:
    """Print the scheduler's log, or one rank's; and the first real error, if there was one.

    On a terminal without colours and escape sequences, into a file or a pipe as it is.
    """
    from vllm_hpc.cli.follow_log import print_log
    from vllm_hpc.jobs.find import find_job
    from vllm_hpc.jobs.log_of_scheduler import log_of_scheduler
    from vllm_hpc.jobs.status import read_status

    found = find_job(job, job_dir)
    path = found.log_file(rank)
    print_log(path, found, follow)
    if not path.exists():
        print_raw(log_of_scheduler(found.folder) if rank is None else "")
        status = read_status(found.folder)
        say(f"No log yet: the job is {status.state}{f' ({status.reason})' if status.reason else ''}.", err=True)
    error = found.first_error() if rank is None and read_status(found.folder).is_final else None
    if error:
        line, trace = error
        say(f"\n{trace.rstrip()}\nFirst error: {line}".lstrip("\n"))
    return 0


@command("collect")
@job_argument
@click.option("--output", metavar="DIR", help=OUTPUT_HELP)
@json_option
def collect_command(job: str, job_dir: str, output: str | None, as_json: bool) -> int:
    """Merge finished rows into outputs.jsonl and summary.json.

    Of a script, and of a program with run, only a summary.json, with how its ranks ended and what they have left.
    --output DIR gets copies of ranks/ and artefacts/, too.

    Exit code 1 if the job FAILED, whatever rows it has; else 3 if rows are missing or have errors.
    """
    from vllm_hpc.cli import print_status
    from vllm_hpc.jobs.find import find_job

    found = find_job(job, job_dir)
    summary = found.collect(output)
    if as_json:
        print_json(summary)
    else:
        print_status.print_summary(summary)
    if not found.folder.job().has_rows:
        return _code_of_ranks(found, summary)
    if summary.state == "FAILED":
        print_status.print_failure(found, summary.state, summary.reason)
        return 1
    return 0 if summary.rows["done"] == summary.rows["total"] else 3


def _code_of_ranks(job: Job, summary: Summary) -> int:
    """The exit code of collect for a job that runs no rows: 3 while it has not ended."""
    if summary.state in ("COMPLETED", "PENDING", "RUNNING"):
        return 0 if summary.state == "COMPLETED" else 3
    from vllm_hpc.cli import print_status

    print_status.print_failure(job, summary.state, summary.reason)
    return 1


@command("resume")
@job_argument
@click.option("--retry-errors", is_flag=True, help="Also run the rows with an error again.")
@click.option("--not-submitted", is_flag=True, help=NOT_SUBMITTED_HELP)
@click.option("--time", metavar="LIMIT", help="Another walltime.")
@click.option("--account", help="Another account.")
@click.option("--partition", "--queue", "partition", help="Another partition or queue.")
@click.option("--wait", is_flag=True, help="Wait for the end, collect, and show some answers.")
@json_option
def resume_command(
    job: str, job_dir: str, retry_errors: bool, not_submitted: bool, wait: bool, as_json: bool, **changes: str | None
) -> int:
    """Submit a job again for the rows that are missing; a script that has not ended well starts anew.

    Its script is rendered anew with today's profile, unless it was edited. Layout, engine and sampling stay.
    """
    from vllm_hpc.cli import print_status
    from vllm_hpc.jobs.doubt import left_to_user
    from vllm_hpc.jobs.failure import DIVERGED, has_diverged
    from vllm_hpc.jobs.find import find_job

    found = find_job(job, job_dir)
    diverged = has_diverged(found.folder)  # read first: the next attempt writes new records
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        left = found.resume(retry_errors, not_submitted, **changes)
    for note in notes:
        say(f"Note: {note.message}", err=True)
    if diverged:
        say(f"Note: {DIVERGED}", err=True)
    if not left:
        failed = found.status().rows.failed
        have = "has an error" if failed == 1 else "have errors"
        hint = f": {counted(failed, 'row')} {have}, which --retry-errors runs again" if failed else ""
        say(f"Nothing to resume: no row is missing{' or in error' if retry_errors else hint}.", err=True)
    elif not as_json and not left_to_user(found.folder):
        record = found.folder.job()
        starts_anew = None if record.has_rows or not record.program else f"the {record.program.title} starts anew"
        why = starts_anew or f"for {counted(left, 'row')}"
        say(f"Submitted {found.path.name} again as {found.job_id}, {why}", err=wait)
    if wait and left:
        if not as_json:
            return print_status.wait_and_show(found)
        print_status.wait_quietly(found)
    if as_json:
        print_json(found.status())
    return print_status.exit_code(found) if wait else 0
