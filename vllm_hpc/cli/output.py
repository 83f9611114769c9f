"""stdout: JSON and bytes for programs, a console for people. rich takes long to import, and only people need it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_hpc.jobs.submit import Prepared


def print_json(record: Any) -> None:
    """One value on stdout."""
    import msgspec

    print_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def print_bytes(content: bytes) -> None:
    """Bytes on stdout as they are, whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def stdout_console() -> Console:
    """stdout; where that is no terminal, wide enough that programs that read lines get whole ones."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def print_script(prepared: Prepared, as_json: bool) -> None:
    """The script, or the object that --json prints where nothing is submitted."""
    if as_json:
        print_json({"job": prepared.folder, "job_id": None, **json_of(prepared)})
    else:
        print_bytes(prepared.script.encode())


def json_of(prepared: Prepared) -> dict[str, Any]:
    """What --json prints of a job, submitted or not."""
    mark = {"rehearsal": True} if prepared.request.rehearse else {}
    return {"scheduler": prepared.scheduler, "script": prepared.script, "plan": prepared.plan.to_json(), **mark}
