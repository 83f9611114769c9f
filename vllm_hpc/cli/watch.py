"""watch, wait: jobs that somebody follows until they end, on a terminal, in a pipe, or not at all."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_argument, job_dir_option, jobs_argument, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.errors import FailedError, RequestError, StillRunning

if TYPE_CHECKING:
    from vllm_hpc.api.live import Shown
    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.status import Status

# Seconds between two looks at the folder while somebody looks, and between two at all jobs of a folder.
_LOOK_S, _TABLE_S = 2.0, 5.0
TIMEOUT_HELP = "Wait at most so many seconds; the job continues, and the exit code is 130."


@command("watch")
@job_argument
def watch_command(job: str, job_dir: str) -> int:
    """Show a job live until it ends: its place in the queue, rows, speed, replicas, and what is wrong.

    On a terminal a picture, in a pipe a line for each change. Exit codes are those of wait; an interrupt leaves the
    job as it is.
    """
    return watch_job(job, job_dir)


def watch_job(job: str, job_dir: str) -> int:
    """Show a job live; returns the exit code."""
    from vllm_hpc.api.live import is_live
    from vllm_hpc.cli.print_status import exit_code_of, print_failure
    from vllm_hpc.jobs.find import find_job

    found, is_drawn = find_job(job, job_dir), is_live(sys.stdout)
    status = follow(found, _picture() if is_drawn else _lines(err=False), look_s=_LOOK_S)
    if not is_drawn:
        say(_ended(status))
    if exit_code_of(status) == 1:
        print_failure(found, status.state, status.reason)
    return exit_code_of(status)


@command("wait")
@jobs_argument(required=True)
@job_dir_option
@click.option("--timeout", type=float, metavar="SECONDS", help=TIMEOUT_HELP)
@json_option
def wait_command(jobs: tuple[str, ...], job_dir: str, timeout: float | None, as_json: bool) -> int:
    """Wait until every JOB has ended, and say how.

    JOB may be a quoted pattern, such as 'sweep-*', of your jobs under --job-dir.

    Exit code 0 if every row has a result, 3 if some are missing or have errors, 1 if a job failed, 130 if the wait was
    interrupted: the jobs continue.
    """
    from vllm_hpc.cli.print_status import exit_code_of, print_failure
    from vllm_hpc.jobs.find import find_jobs

    if timeout is not None and not timeout >= 0:
        raise RequestError(f"--timeout must be a number of seconds from 0 on, not {timeout:g}")
    found = list({one.path: one for job in jobs for one in find_jobs(job, job_dir, acts=False)}.values())
    if len(found) == 1:
        ended = [follow(found[0], None if as_json else shown_on_stderr(), timeout)]
    else:
        ended = _wait_for_all(found, timeout)
    if as_json:
        print_json(ended[0] if len(ended) == 1 else ended)
    for one, status in zip(found, ended, strict=True):
        if not as_json:
            say(_ended(status))
        if exit_code_of(status) == 1:
            print_failure(one, status.state, status.reason)
    codes = {exit_code_of(status) for status in ended}
    return next(code for code in (1, 3, 0) if code in codes)


def follow(job: Job, shown: Shown | None, timeout: float | None = None, look_s: float | None = None) -> Status:
    """Show a job until it ends; an interrupt leaves it running.

    Raises StillRunning, and FailedError for a job that the user submits elsewhere: nobody knows when.
    """
    from vllm_hpc.api.live import Nowhere, goes_on
    from vllm_hpc.api.live import follow as follow_views
    from vllm_hpc.jobs.doubt import left_to_user

    if left_to_user(job.folder):
        raise FailedError(f"{job.path.name} is not submitted, so nothing is waited for")
    try:
        return follow_views(job, shown or Nowhere(), timeout, look_s)
    except KeyboardInterrupt:
        raise StillRunning(goes_on(job, python="")) from None
    except TimeoutError:
        raise StillRunning(f"no end after {timeout:g} s; {goes_on(job, python='')}") from None


def watch_table(job_dir: str) -> int:
    """Print the list of jobs again and again, in a pipe if it has changed, until every one has ended: 0."""
    from vllm_hpc.cli.print_list import print_list
    from vllm_hpc.jobs.find import list_statuses

    said: object = None
    try:
        while True:
            statuses = list_statuses(job_dir)
            changed = [(status.job, status.state, status.rows) for status in statuses]
            if sys.stdout.isatty() or changed != said:
                click.clear()  # nothing where stdout is no terminal
                print_list([*statuses], job_dir, as_json=False)
            said = changed
            if all(status.is_final for status in statuses):
                return 0
            time.sleep(_TABLE_S)
    except KeyboardInterrupt:
        raise StillRunning("the jobs continue") from None


def _wait_for_all(jobs: list[Job], timeout: float | None) -> list[Status]:
    """The last status of each. All are looked at in turn: one may want another attempt while another still runs."""
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    looks = [job.statuses() for job in jobs]
    ended: dict[int, Status] = {}
    try:
        while True:
            seen = {number: next(look) for number, look in enumerate(looks) if number not in ended}
            ended |= {number: status for number, (status, _) in seen.items() if status.is_final}
            if len(ended) == len(jobs):
                return [ended[number] for number in range(len(jobs))]
            left = deadline - time.monotonic()
            if left <= 0:
                raise StillRunning(
                    f"no end of {len(jobs) - len(ended)} of {len(jobs)} jobs after {timeout:g} s: they continue"
                )
            time.sleep(min(left, *(pause for status, pause in seen.values() if not status.is_final)))
    except KeyboardInterrupt:
        raise StillRunning("the jobs continue") from None


def _picture() -> Shown:
    from vllm_hpc.api.terminal import Screen, picture
    from vllm_hpc.cli.output import stdout_console

    return Screen(stdout_console(), picture, is_kept=True)


def shown_on_stderr() -> Shown:
    """A bar on a terminal, lines elsewhere; stdout is for results."""
    from vllm_hpc.api.live import is_live
    from vllm_hpc.api.terminal import Screen, bar
    from vllm_hpc.cli.console import make_console
    from vllm_hpc.cli.visible import VisibleStream

    if not is_live(sys.stderr):
        return _lines(err=True)
    return Screen(make_console(file=sys.stderr.stream if isinstance(sys.stderr, VisibleStream) else sys.stderr), bar)


def _lines(err: bool) -> Shown:
    from vllm_hpc.api.live import Printed

    return Printed(lambda line: say(line, err=err))


def _ended(status: Status) -> str:
    """One line about a job that has ended."""
    from vllm_hpc.jobs.in_words import describe_status

    return describe_status(status)
