"""list: the jobs of a folder, or of a user, the newest first."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.complete import complete_state
from vllm_hpc.cli.job_options import job_dir_option, json_option
from vllm_hpc.spec.errors import RequestError

if TYPE_CHECKING:
    from vllm_hpc.cli.print_list import ListedJob
    from vllm_hpc.jobs.status import Status

STATE_HELP = "Only jobs in these states: RUNNING,FAILED."
LAST_HELP = "Only the newest N, of those that are listed."
ALL_HELP = "Also your jobs in other folders, of those that this version submitted."
SIZE_HELP = "Also the size of each job's folder, and how many files it has: slow on a busy file system."


@command("list")
@job_dir_option
@click.option("--state", metavar="STATE,...", shell_complete=complete_state, help=STATE_HELP)
@click.option("--last", "-n", type=click.IntRange(min=1), metavar="N", help=LAST_HELP)
@click.option("--all", "everywhere", is_flag=True, help=ALL_HELP)
@click.option("--size", is_flag=True, help=SIZE_HELP)
@json_option
def list_command(job_dir: str, state: str | None, last: int | None, everywhere: bool, size: bool, as_json: bool) -> int:
    """List the jobs under --job-dir, the newest first; as JSON the oldest first."""
    from vllm_hpc.cli.print_list import print_listed
    from vllm_hpc.jobs.find import list_statuses

    states = _states(state)
    found = list_statuses(job_dir, None if states else last, everywhere)
    statuses = [status for status in found if not states or status.state in states]
    statuses.sort(key=lambda status: status.created_at or 0.0)  # as the ages are: a resume writes job.json anew
    if last is not None:
        statuses = statuses[max(0, len(statuses) - last) :]
    where = f"{job_dir!r}, and no others of yours" if everywhere else repr(job_dir)
    which = f" in state {' or '.join(sorted(states))}" if states else ""
    print_listed(_listed(statuses, job_dir, size), as_json, f"No jobs{which} under {where}.")
    return 0


def _states(given: str | None) -> set[str]:
    from vllm_hpc.jobs.task_states import State

    names = {word.strip().upper() for word in given.split(",")} if given is not None else set()
    if wrong := names - {*get_args(State)}:
        raise RequestError(f"--state must be of {', '.join(get_args(State))}, not {sorted(wrong)[0]!r}")
    return names


def _listed(statuses: list[Status], job_dir: str, size: bool) -> list[ListedJob]:
    """Each with what finds it: its name, or its folder where that is another, or another job has the name."""
    from vllm_hpc.cli.print_list import ListedJob
    from vllm_hpc.jobs.disk_use import disk_use

    parent = os.path.abspath(Path(job_dir).expanduser())  # noqa: PTH100 - links stay as the user wrote them
    times = Counter(Path(status.job).name for status in statuses)
    found = []
    for status in statuses:
        path = Path(status.job)
        is_clear = str(path.parent) == parent or times[path.name] == 1
        found.append(ListedJob(path.name if is_clear else str(path), status, disk_use(path) if size else None))
    return found
