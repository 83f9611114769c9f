"""stdout and stderr: JSON and bytes for programs, text for people, which has nothing that a terminal obeys.

rich is slow to import, so only the console for people loads it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from vllm_hpc.cli.visible import visible, visible_json, visible_log

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_hpc.jobs.submit import Prepared
    from vllm_hpc.spec.plan import Plan


def say(text: str, err: bool = False) -> None:
    """Print a line for people, or with ``err`` on stderr. Nothing else prints text that is not a constant."""
    click.echo(visible(text), err=err)


def say_state(before: str, state: str, colour: str) -> None:
    """Print a state after its label, on a terminal in its colour unless NO_COLOR is set."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    click.echo(visible(before) + (visible(state) if plain else click.style(visible(state), fg=colour)))


def print_json(record: Any) -> None:
    """Print one value as JSON."""
    import msgspec

    try:
        content = msgspec.json.format(msgspec.json.encode(record), indent=2)
    except UnicodeEncodeError:  # the name of a folder that is not UTF-8, which ASCII can escape
        import json

        content = json.dumps(msgspec.to_builtins(record), indent=2).encode()
    print_bytes(visible_json(content) + b"\n")


def print_bytes(content: bytes) -> None:
    """Print bytes unchanged, whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def print_raw(text: str) -> None:
    """Print a file's text: as it is into a pipe or a file, and on a terminal without what it would obey."""
    print_bytes((visible_log(text) if sys.stdout.isatty() else text).encode(errors="replace"))


def stdout_console() -> Console:
    """A console on stdout; if that is not a terminal, it is wide enough that lines are not wrapped."""
    from vllm_hpc.cli.console import make_console

    return make_console(width=None if sys.stdout.isatty() else 240)


def print_script(prepared: Prepared, as_json: bool) -> None:
    """Print the script, or with --json the object for a job that is not submitted."""
    if as_json:
        print_json({"job": prepared.folder, "job_id": None, **json_of(prepared)})
    else:
        print_raw(prepared.script)
    for said in prepared.template_notes:
        say(f"Note: {said}", err=True)
    print_refusals(prepared.plan)


def print_refusals(plan: Plan) -> None:
    """Print on stderr why submit would refuse what can be planned."""
    for said in filter(None, (plan.missing, plan.unready)):
        say(f"Note: submit refuses this: {said}", err=True)


def json_of(prepared: Prepared) -> dict[str, Any]:
    """The keys that --json prints for any job, submitted or not."""
    mark = {"rehearsal": True} if prepared.request.rehearse else {}
    return {"scheduler": prepared.scheduler, "script": prepared.script, "plan": prepared.plan.to_json(), **mark}
