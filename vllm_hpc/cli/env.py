"""env: what each rank of a job saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_argument, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.words import counted

if TYPE_CHECKING:
    from vllm_hpc.jobs.compare_env import Compared, JobEnvironment

# Of one value that several ranks saw, and characters of a value without --all.
_MOST_RANKS, _MOST_CHARACTERS = 8, 100


@command("env")
@job_argument
@click.option("--all", "every", is_flag=True, help="Also what seldom matters and is alike: SLURM_*, PATH and others.")
@json_option
def env_command(job: str, job_dir: str, every: bool, as_json: bool) -> int:
    """Show what each rank of a job saw as it began: variables, versions, network, cores, memory.

    A line that begins with ! differs between ranks that should see the same. Secrets are never recorded.
    """
    from vllm_hpc.jobs.compare_env import read_job_environment
    from vllm_hpc.jobs.find import find_job
    from vllm_hpc.jobs.status import read_status

    folder = find_job(job, job_dir).folder
    found = read_job_environment(folder)
    if as_json:
        differences = {one.name: one.values for one in found.differences}
        print_json(
            {"job": str(folder.path), "ranks": found.ranks, "missing": found.missing, "differences": differences}
        )
        return 0
    if not found.ranks:
        status = read_status(folder)
        whose = "" if folder.is_mine else ": only its owner can read it"
        say(f"No rank has told what it saw: the job is {status.state}{whose}.", err=True)
        return 0
    _print(found, every)
    return 0


def _print(found: JobEnvironment, every: bool) -> None:
    nodes = len({one.host for one in found.ranks})
    say(f"{counted(len(found.ranks), 'rank')} on {counted(nodes, 'node')}{_missing(found.missing)}")
    shown = [one for one in found.compared if every or one.differs or not one.is_seldom]
    width = max((len(one.name) for one in shown), default=0)
    for one in shown:
        say(f"{'!' if one.differs else ' '} {one.name:{width}}  {_values(one, every)}")
    differ = ", ".join(one.name for one in found.differences)
    say(f"Ranks differ in: {differ}" if differ else "No rank differs from the others in what all should see.")


def _missing(ranks: tuple[int, ...]) -> str:
    return f"; not yet told: rank {_named(ranks)}" if ranks else ""


def _values(one: Compared, every: bool) -> str:
    """One value, or the ranks' own in order, or each with its ranks."""
    values = [(_cut(value.value, every), value.ranks) for value in one.values]
    if len(values) == 1:
        return values[0][0]
    if one.is_own and all(len(ranks) == 1 for _, ranks in values):
        more = f" and {len(values) - _MOST_RANKS} more" if len(values) > _MOST_RANKS and not every else ""
        return ", ".join(value for value, _ in (values if every else values[:_MOST_RANKS])) + more
    return "; ".join(f"{value} (rank {_named(ranks)})" for value, ranks in values)


def _cut(text: str, every: bool) -> str:
    text = " ".join(text.splitlines())
    return text if every or len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _named(ranks: tuple[int, ...]) -> str:
    more = len(ranks) - _MOST_RANKS
    return ", ".join(map(str, ranks[:_MOST_RANKS])) + (f" and {more} more" if more > 0 else "")
