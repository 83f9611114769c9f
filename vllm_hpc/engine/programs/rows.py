"""A program beside the rank loop: setup before the first row, on_output for each that ends, teardown after the last.

Every rank of a replica calls on_output, on its main thread and in the same order, so that it may hold collectives.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.engine.health.shard_writer import MakeRow
from vllm_hpc.engine.loop.loop import Loop
from vllm_hpc.engine.programs.context import Context
from vllm_hpc.engine.programs.load import UserProgram
from vllm_hpc.rows.row import Row

# What the job's own records are made of.
_KEPT = ("index", "id", "replica", "prompt_tokens", "completion_tokens")


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
        kept = {name: row.get(name) for name in _KEPT}
        try:
            returned = self._user.on_output(self._context, row)
        except SystemExit as error:
            # Of a rank that ends with 0, another attempt gets the rows that are left; it would end there, too.
            said = f"on_output called sys.exit({error.code!r}), and rows are left: return, or raise an error"
            raise RuntimeError(said).with_traceback(error.__traceback__) from None
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
    if changed := [name for name, value in kept.items() if row.get(name) != value]:
        raise ValueError(f"on_output must leave {' and '.join(changed)} of row {kept['id']!r} as it was")
    try:
        found: Row = msgspec.json.decode(msgspec.json.encode(row))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(
            f"on_output must leave row {kept['id']!r} as JSON (numbers, text, lists, dicts with text as keys): {error}"
        ) from None
    if "error" in found and not _is_error(found["error"]):
        raise ValueError(f"an error of row {kept['id']!r} must be a dict with type and message, both text")
    return found


def _is_error(error: Any) -> bool:
    return isinstance(error, dict) and all(isinstance(error.get(name), str) for name in ("type", "message"))
