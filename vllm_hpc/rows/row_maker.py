"""Makes the normalised rows of one file, from its lines or from the rows of a table."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.rows import notes
from vllm_hpc.rows.answers import ends_with_answer, without_answer
from vllm_hpc.rows.decode import LooseError, Settled, decode_line, parse, settle
from vllm_hpc.rows.fields import FieldReader
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.openai_batch import batch_row
from vllm_hpc.rows.plain import plain_row
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, RowError, UnreadableRowError, error_row

# What the lines of a file are. "rows" is the input.jsonl of a job folder, already normalised.
KINDS = ("jsonl", "openai", "txt", "rows")
# Fields that others read beside the prompt, and that are only copied here.
_SYSTEM = ("system", "system_prompt")
_SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "max_new_tokens", "stop"}
    | {"presence_penalty", "frequency_penalty", "repetition_penalty", "response_format", "guided_json", "logit_bias"}
)


class RowMaker:
    """Makes rows, and adds to ``found`` what is to be said of them.

    ``kind`` is one of KINDS, or a table's; ``aliases`` are those of a table's header. Raises RowError, to which the
    caller adds the place.
    """

    def __init__(self, kind: str, reading: Reading, found: Notes, aliases: dict[str, str] | None = None) -> None:
        self._kind, self._reading, self._notes = kind, reading, found
        self._fields = FieldReader(reading, found, aliases, empty="" if kind == "csv" else None)

    def of_line(self, raw: bytes, index: int, number: int) -> Row | None:
        """The row of a line; None if it is blank."""
        if self._kind == "rows":
            return _own_row(raw)
        if self._kind == "txt":
            text = decode_line(raw).rstrip("\r\n")
            return self.of_fields({"prompt": text}, index, number) if text.strip() else None
        if not raw or raw.isspace():
            return None
        try:
            return self.of_fields(parse(raw), index, number)
        except LooseError as error:
            if isinstance(error.value, dict):
                return self.of_loose_fields(error.value, index, number)
            raise

    def of_fields(self, fields: Any, index: int, number: int, is_renamed: bool = False) -> Row:
        """The row with these fields, from a line or a table."""
        if self._kind == "openai":
            row = batch_row(fields, index)
        elif not isinstance(fields, dict):
            raise RowError("a row must be a JSON object with 'prompt' or 'messages'")
        else:
            row = plain_row(self._fields(fields if is_renamed else self._fields.rename(fields), number), index)
            self._note_copied(row, number)
        if ends_with_answer(row):
            if self._reading.drop_last_answer:
                row = without_answer(row)
                self._notes.add(notes.DROPPED, number)
            else:
                self._notes.add(notes.BATCH_ANSWERED if self._kind == "openai" else notes.ANSWERED, number)
        return row

    def _note_copied(self, row: Row, number: int) -> None:
        """Note fields that look as if they change the answer, and do not. A template of the job may use them."""
        if self._reading.prompt_template is not None:
            return
        if names := _SAMPLING & row.keys():
            self._notes.add(notes.NOT_APPLIED, number, sorted(map(repr, names)))
        has_own = "messages" in row and row["messages"][0]["role"] in ("system", "developer")
        if not has_own and (said := [name for name in _SYSTEM if isinstance(row.get(name), str)]):
            self._notes.add(notes.SYSTEM, number, map(repr, said))

    def of_loose_fields(self, fields: Row, index: int, number: int, is_renamed: bool = False) -> Row:
        """The row with fields that may contain what JSON cannot express.

        If that is half of a surrogate pair in a field with a meaning, the row becomes an error row, and others run.
        """
        if self._kind == "openai":
            settled = settle(fields, None)
        else:
            fields = fields if is_renamed else self._fields.rename(fields)
            settled = settle(fields, self._fields.meaning(fields))
            if settled.fields.get("id") != fields.get("id"):  # two such ids may become the same
                del settled.fields["id"]
        row = self.of_fields(settled.fields, index, number, is_renamed=True)
        for kind, names in ((notes.NOT_FINITE, settled.not_finite), (notes.HALVES, settled.halves)):
            if names:
                self._notes.add(kind, number, names)
        return self._unreadable(row, settled, number) if settled.unreadable else row

    def _unreadable(self, row: Row, settled: Settled, number: int) -> Row:
        assert settled.unreadable is not None
        self._notes.add(notes.UNREADABLE, number, [settled.unreadable])
        words = f"{self._notes.place(number)}: {settled.unreadable}"
        error = error_row(row, UnreadableRowError.__name__, words)
        return error | {"batch": row["batch"]} if "batch" in row else error


def _own_row(raw: bytes) -> Row:
    """A row that was normalised when the job was submitted."""
    try:
        row: Row = _decode(raw)
    except msgspec.DecodeError as error:
        raise RowError(f"not valid JSON: {error}") from None
    return row


_decode = msgspec.json.Decoder().decode
