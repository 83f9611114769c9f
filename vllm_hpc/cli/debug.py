"""debug: where the ranks of a job are, and who waits for whom."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import click

from vllm_hpc.cli.command import command
from vllm_hpc.cli.job_options import job_argument, json_option
from vllm_hpc.cli.output import print_json, say
from vllm_hpc.spec.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_hpc.jobfolder.debug_records import Frame, RankView
    from vllm_hpc.jobs.debug import Debugged

_LONGEST_S = 3600.0
_MOST_FRAMES, _MOST_GROUPS = 12, 24
# Where vllm-hpc calls the user's code: what called that tells a user nothing.
_CALLS_CODE = tuple(f"/vllm_hpc/engine/programs/{name}.py" for name in ("main_module", "drive", "rows"))
TIMEOUT_HELP = "Wait so long for the ranks' answers (15)."


@command("debug")
@job_argument
@click.option("--timeout", type=float, default=15.0, metavar="SECONDS", help=TIMEOUT_HELP)
@json_option
def debug_command(job: str, job_dir: str, timeout: float, as_json: bool) -> int:
    """Ask every rank where it is, and say who waits for whom, the odd one first.

    Of a job that has ended for a hang: what its ranks had found before. Nothing is stopped, and no rank is slowed down.
    """
    from vllm_hpc.jobs.debug import debug
    from vllm_hpc.jobs.find import find_job

    if not 0 < timeout <= _LONGEST_S:
        raise RequestError(f"--timeout must be a number of seconds above 0, at most {_LONGEST_S:g}, not {timeout:g}")
    found = debug(find_job(job, job_dir).folder, timeout)
    if as_json:
        print_json(found)
    else:
        _print(found)
    asked = [view for view in found.ranks if view.outcome == "running"]
    return 1 if asked and len(found.silent) == len(asked) else 0


def _print(found: Debugged) -> None:
    from vllm_hpc.jobs.debug import in_one_line

    say(f"{_time(found.found_at)}: {found.why or in_one_line(found)}")
    for line in found.lines:
        say(line)
    groups = defaultdict[object, list["RankView"]](list)
    for view in sorted(found.ranks, key=lambda one: (one.rank not in found.odd, one.rank)):
        groups[view.rank if view.rank in found.odd else (view.stack, view.phase)].append(view)
    for those in list(groups.values())[:_MOST_GROUPS]:
        _print_group(those)
    if len(groups) > _MOST_GROUPS:
        say(f"\n{len(groups) - _MOST_GROUPS} more groups of ranks: --json has them all")


def _time(at: float) -> str:
    """A time by the clock here; as it is, if a record says one that no clock has."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return f"{at:g} s"


def _print_group(views: list[RankView]) -> None:
    """One rank's state and stack, or those of several that are at the same place."""
    from vllm_hpc.jobfolder.judge_hang import ranks_in_words

    first = views[0]
    where = (
        f"{first.host}, pid {first.pid}" if len(views) == 1 else ", ".join(sorted({view.host for view in views})[:8])
    )
    say(f"\n{ranks_in_words(view.rank for view in views)} ({where}): {'; '.join(_facts(first)) or 'no answer'}")
    shown = _inner(first.stack)[:_MOST_FRAMES]
    for frame in shown:
        say(f"  {_line(frame)}")
    if len(first.stack) > len(shown):
        say(f"  ... {len(first.stack) - len(shown)} more: --json has them all")


def _inner(stack: Sequence[Frame]) -> Sequence[Frame]:
    """The frames inside vllm-hpc's call of the user's code, if they are in that; else all."""
    calls = (place for place, frame in enumerate(stack) if frame.file.endswith(_CALLS_CODE))
    return stack[: next(calls, 0) or len(stack)]


def _line(frame: Frame) -> str:
    return f"{frame.file}:{frame.line} in {frame.function}"


def _facts(view: RankView) -> list[str]:
    """What is known beside the stack."""
    sources = {"neighbour": "seen by another rank of its node", "agent": "seen by its node's torchrun"}
    facts = [sources[view.source]] if view.source in sources else []
    if view.seen_s:
        facts.append(f"stack of {view.seen_s:.0f} s ago")
    if view.phase:
        facts.append(f"'{view.phase}'" + (f" for {view.still_s:.0f} s" if view.still_s >= 1 else ""))
    facts += [f"{view.steps} steps"] if view.steps is not None else []
    facts += [f"last row {view.last_row}"] if view.last_row is not None else []
    facts += [f"process {view.process}" + (f" in {view.waits_in}" if view.waits_in else "")] if view.process else []
    facts += [f"{view.cpu_percent:.0f} % of a core"] if view.cpu_percent is not None else []
    facts += [f"GPU {view.gpu}"] if view.gpu else []
    facts += [f"flight recorder: {last.operation} {last.sequence} ({last.state})" for last in view.recorded[-1:]]
    facts += [f"does not reach {address}" for address in view.unreached]
    facts += [f"no sign of life for {view.silent_s:.0f} s"] if view.silent_s else []
    return facts
