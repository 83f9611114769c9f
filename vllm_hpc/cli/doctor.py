"""doctor: what would go wrong with a job, found on this machine or in a real allocation."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.options import json_option, request_options
from vllm_hpc.cli.output import print_json, say

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_hpc.jobs.status import Status

# The options of submit that say where and how a job runs, not what it computes.
_OPTIONS = frozenset({
    "model", "nodes", "gpus_per_node", "gpu", "scheduler", "profile", "partition", "account", "qos", "time", "mem",
    "cpus_per_rank", "job_dir", "private", "engine", "env", "directive", "launcher", "template", "template_dir",
    "container",
})  # fmt: skip
ON_NODES_HELP = "Run a short rehearsal in a real allocation, and say what its nodes and ranks find."


@command("doctor")
@click.option("--on-nodes", is_flag=True, help=ON_NODES_HELP)
@json_option
def doctor_command(on_nodes: bool, as_json: bool, **options: Any) -> int:
    """Check this machine, or a real allocation, before GPU hours are spent.

    With MODEL also whether the model is there. Exit codes: 0 nothing failed, 1 a check failed, 2 an option is wrong.
    """
    from vllm_hpc.cli.print_findings import print_findings
    from vllm_hpc.doctor.doctor import examine
    from vllm_hpc.spec.finding import failed
    from vllm_hpc.tuning.signals import handled

    tell = (lambda findings: None) if as_json else print_findings
    with handled((signal.SIGTERM, signal.SIGHUP), _leave):  # as an interrupt: no job stays behind
        found = examine(on_nodes=on_nodes, begin=_begin, change=_change, tell=tell, **options)
    if as_json:
        print_json([one.to_json() for one in found])
    return 1 if failed(found) else 0


def _of_submit() -> list[click.Parameter]:
    """MODEL and submit's options that doctor takes, too."""

    @request_options
    def every() -> None:
        pass

    given: list[click.Parameter] = every.__click_params__  # type: ignore[attr-defined]
    return [one for one in reversed(given) if one.name in _OPTIONS]


doctor_command.params = [*_of_submit(), *doctor_command.params]


def _begin(folder: Path) -> None:
    say(f"waits for the nodes: {folder}", err=True)


def _change(status: Status) -> None:
    say(f"{status.state}{f': {status.reason}' if status.reason else ''}", err=True)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
