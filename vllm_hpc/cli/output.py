"""stdout: JSON and bytes for programs, a console for people. rich is slow to import, so only the latter loads it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_hpc.jobs.submit import Prepared
    from vllm_hpc.spec.plan import Plan


def print_json(record: Any) -> None:
    """Print one value as JSON."""
    import msgspec

    print_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def print_bytes(content: bytes) -> None:
    """Print bytes unchanged, whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def stdout_console() -> Console:
    """A console on stdout; if that is not a terminal, it is wide enough that lines are not wrapped."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def print_script(prepared: Prepared, as_json: bool) -> None:
    """Print the script, or with --json the object for a job that is not submitted."""
    if as_json:
        print_json({"job": prepared.folder, "job_id": None, **json_of(prepared)})
    else:
        print_bytes(prepared.script.encode())
    print_refusals(prepared.plan)


def print_refusals(plan: Plan) -> None:
    """Print on stderr why submit would refuse what can be planned."""
    for said in filter(None, (plan.missing, plan.unready)):
        click.echo(f"Note: submit refuses this: {said}", err=True)


def json_of(prepared: Prepared) -> dict[str, Any]:
    """The keys that --json prints for any job, submitted or not."""
    mark = {"rehearsal": True} if prepared.request.rehearse else {}
    return {"scheduler": prepared.scheduler, "script": prepared.script, "plan": prepared.plan.to_json(), **mark}
