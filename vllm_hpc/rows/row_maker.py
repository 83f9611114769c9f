"""Makes the normalised rows of one file, from its lines or from the rows of a table."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vllm_hpc.rows import notes
from vllm_hpc.rows.answers import ends_with_answer, without_answer
from vllm_hpc.rows.chat import is_openais
from vllm_hpc.rows.conversations import CONVERSATIONS, TurnsError
from vllm_hpc.rows.decode import LooseError, decode_line, parse, settle
from vllm_hpc.rows.fields import FieldReader
from vllm_hpc.rows.json_text import TEXTS, JsonTexts, has_text
from vllm_hpc.rows.missing_prompt import of_no_object
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.openai_batch import batch_row, other_fields
from vllm_hpc.rows.plain import plain_row
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import CHAT_FIELDS, Row, RowError, UnreadableRowError, error_row
from vllm_hpc.rows.text_header import separator_of_header
from vllm_hpc.rows.will_fail import note_failing

# What the lines of a file are. "rows" is the input.jsonl of a job folder, already normalised.
KINDS = ("jsonl", "openai", "txt", "rows")
# Fields that others read beside the prompt, and that are only copied here.
_PROMPTS = ("prompt", "messages")
# A prompt that is made from other fields leaves these as data.
_CHATS = TEXTS - {"sampling"}
# A chat, a list of texts or token ids as text, as JSON or as Python's str() writes them.
_LIST_AS_TEXT = re.compile(
    r"\[\s*(\{\s*['\"](role|content|from|value)['\"]\s*:|(['\"]).*\3\s*\]\s*\Z|[0-9][0-9\s,]*\]\s*\Z)", re.DOTALL
)
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
        self._kind, self._reading, self._notes, self._is_first = kind, reading, found, True
        self._fields = FieldReader(reading, found, aliases, empty="" if kind == "csv" else None)

    def of_line(self, raw: bytes, index: int, number: int) -> Row | None:
        """The row of a line; None if it is blank."""
        if self._kind == "rows":
            return _own_row(raw)
        if self._kind == "txt":
            return self._of_text(decode_line(raw).rstrip("\r\n"), index, number)
        if not raw or raw.isspace():
            return None
        try:
            fields, is_loose = parse(raw), False
        except LooseError as error:
            if not isinstance(error.value, dict):
                raise
            fields, is_loose = error.value, True
        if self._kind == "openai" or not isinstance(fields, dict):
            make = self.of_loose_fields if is_loose else self.of_fields
            return make(fields, index, number)
        return self._of_object(fields, is_loose, index, number)

    def _of_text(self, text: str, index: int, number: int) -> Row | None:
        if not text.strip():
            return None
        if self._is_first and (sign := separator_of_header(text)):
            self._notes.add(notes.HEADER, number, [".tsv" if sign == "\t" else ".csv"])
        self._is_first = False
        return self.of_fields({"prompt": text}, index, number)

    def meaning(self, fields: Row) -> set[str]:
        """The fields that have a meaning, and are not only copied."""
        return self._fields.meaning(fields)

    def _of_object(self, fields: Row, is_loose: bool, index: int, number: int) -> Row:
        """The row of a line, in which an object or a list may be JSON text, as in a table."""
        fields = self._fields.rename(fields)
        if has_text(fields):
            texts = JsonTexts()
            fields = texts.read(fields, without={"tools", *(_CHATS if self._reading.makes_prompt else ())})
            is_loose = is_loose or texts.is_loose
        make = self.of_loose_fields if is_loose else self.of_fields
        return make(fields, index, number, is_renamed=True)

    def of_fields(self, fields: Any, index: int, number: int, is_renamed: bool = False) -> Row:
        """The row with these fields, from a line or a table."""
        if self._kind == "openai":
            row = batch_row(fields, index)
            if others := other_fields(fields):
                self._notes.add(notes.OUTSIDE, number, others)
        elif not isinstance(fields, dict):
            raise RowError(f"a row must be a JSON object with 'prompt' or 'messages'{of_no_object(fields)}")
        else:
            fields = fields if is_renamed else self._fields.rename(fields)
            try:
                row = plain_row(self._fields(fields, number), index)
            except TurnsError as error:
                return self._without_turns(fields, str(error), index, number)
            self._note_copied(row, number)
        self._note_chat(row, number)
        note_failing(row, number, self._notes)
        if ends_with_answer(row):
            if self._reading.drop_last_answer:
                try:
                    row = without_answer(row)
                except RowError as error:
                    return self._unreadable(row, str(error), number)
                self._notes.add(notes.DROPPED, number)
            else:
                self._notes.add(notes.BATCH_ANSWERED if self._kind == "openai" else notes.ANSWERED, number)
        return row

    def _note_copied(self, row: Row, number: int) -> None:
        """Note fields that look as if they change the answer, and do not. A template of the job may use them."""
        if self._reading.prompt_template is not None:
            return
        if "prompt" in row and (idle := [name for name in sorted(CHAT_FIELDS) if row.get(name)]):
            self._notes.add(notes.NO_CHAT, number, map(repr, idle))
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt.startswith("[") and _LIST_AS_TEXT.match(prompt):
            self._notes.add(notes.LIST_AS_TEXT, number, [repr(self._reading.prompt_column or "prompt")])
        if names := _SAMPLING & row.keys():
            self._notes.add(notes.NOT_APPLIED, number, sorted(map(repr, names)))
        has_own = "messages" in row and row["messages"][0]["role"] in ("system", "developer")
        if not has_own and (said := [name for name in _SYSTEM if isinstance(row.get(name), str)]):
            self._notes.add(notes.SYSTEM, number, map(repr, said))

    def _note_chat(self, row: Row, number: int) -> None:
        if "messages" not in row:
            return
        self._notes.has_chats = self._notes.has_chats or not row.get("chat_template")
        if not all(map(is_openais, row.get("tools", ()))):
            self._notes.add(notes.OTHER_TOOLS, number)

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
        return self._unreadable(row, settled.unreadable, number) if settled.unreadable else row

    def _without_turns(self, fields: Row, why: str, index: int, number: int) -> Row:
        """The error row for a chat of ShareGPT's that cannot be run."""
        others = {name: value for name, value in fields.items() if name not in (CONVERSATIONS, *_PROMPTS)}
        return self._unreadable(plain_row(self._fields({**others, "prompt": ""}, number), index), why, number)

    def _unreadable(self, row: Row, why: str, number: int) -> Row:
        self._notes.add(notes.UNREADABLE, number, [why])
        words = f"{self._notes.place(number)}: {why}"
        error = error_row(row, UnreadableRowError.__name__, words)
        return error | {"batch": row["batch"]} if "batch" in row else error


def _own_row(raw: bytes) -> Row:
    """A row that was normalised when the job was submitted."""
    try:
        row: Row = _decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from None
    return row


_decode = msgspec.json.Decoder().decode
