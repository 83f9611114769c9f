"""A program beside the rank loop: setup before the first row, on_output for each that ends, teardown after the last.

Every rank of a replica calls on_output, on its main thread and in the same order, so that it may hold collectives.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.engine.health.shard_writer import MakeRow
from vllm_hpc.engine.loop.loop import Loop
from vllm_hpc.engine.programs.call import call_beside_rows
from vllm_hpc.engine.programs.context import Context
from vllm_hpc.engine.programs.load import UserProgram
from vllm_hpc.rows.row import Row

# What the job's own records are made of.
_KEPT = ("index", "id", "replica", "prompt_tokens", "completion_tokens", "rehearsal")
# Of an OpenAI batch: what collect writes instead of the row.
_LINE = "line"
# Half of what the reader of shards takes for a line (jobfolder/shards.py).
_MOST_BYTES = 256 << 20


class RowProgram:
    """A program on one rank."""

    def __init__(self, user: UserProgram, context: Context, report: RankReport) -> None:
        self._user, self._context, self._report = user, context, report

    @property
    def takes_rows(self) -> bool:
        """Whether it has on_output."""
        return self._user.on_output is not None

    def begin(self) -> None:
        """Run its setup."""
        self._user.call("setup", self._context, self._report)

    def end(self) -> None:
        """Run its teardown."""
        self._user.call("teardown", self._context, self._report)

    def take(self, row: Row) -> Row:
        """Have on_output take a row, and return the row that is to be written. Raises what on_output raises.

        A row with an error is none of its business: it has no answer.
        """
        if self._user.on_output is None or "error" in row:
            return row
        self._report.enter(Phase.PROGRAM, str(row["index"]))
        kept = {name: row[name] for name in (*_KEPT, _LINE) if name in row}
        returned = call_beside_rows("on_output", self._user.on_output, self._context, row)
        return _checked(row if returned is None else returned, kept) if self._context.is_leader else row


class ProgramLoop(Loop):
    """A loop whose rows a program takes before they are written; the rest is given to Loop."""

    def __init__(self, program: RowProgram, *given: Any) -> None:
        super().__init__(*given)
        self._program = program

    def _deliver(self, make: MakeRow) -> None:
        row = self._program.take(make())
        if self._writer:
            self._writer.put(lambda: row)

    def _rescue(self) -> None:
        """Rows that on_output has not taken run again: now other ranks may not call it."""


def _checked(row: Any, kept: dict[str, Any]) -> Row:
    """A copy of what on_output made of a row, as it will be written; later changes do not reach it."""
    if not isinstance(row, dict):
        raise TypeError(f"on_output must return a dict, or None for the row that it got, not {type(row).__name__}")
    try:
        content = msgspec.json.encode(row)
        found: Row = msgspec.json.decode(content)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(
            f"on_output must leave row {kept['id']!r} as JSON (numbers, text, lists, dicts with text as keys): {error}"
        ) from None
    if len(content) > _MOST_BYTES:
        size = f"{len(content) >> 20} MiB long, and must be at most {_MOST_BYTES >> 20} MiB"
        raise ValueError(f"row {kept['id']!r} is {size}: let on_output write what is large into ctx.artefacts")
    if changed := [name for name in _KEPT if name in kept and not _is_same(found.get(name), kept[name])]:
        raise ValueError(f"on_output must leave {' and '.join(changed)} of row {kept['id']!r} as it was")
    if added := [name for name in (*_KEPT, _LINE) if name in found and name not in kept]:
        raise ValueError(f"on_output must give row {kept['id']!r} no {added[0]!r}, which has a meaning: rename it")
    if _LINE in kept and not isinstance(found.get(_LINE), dict):
        raise ValueError(f"on_output must leave {_LINE} of row {kept['id']!r} a dict: it is what is written")
    if "error" in found and not _is_error(found["error"]):
        raise ValueError(f"an error of row {kept['id']!r} must be a dict with type and message, both text")
    return found


def _is_same(one: Any, other: Any) -> bool:
    """Also of the same type: 1.0 and true are no index."""
    return type(one) is type(other) and bool(one == other)


def _is_error(error: Any) -> bool:
    return isinstance(error, dict) and all(isinstance(error.get(name), str) for name in ("type", "message"))
