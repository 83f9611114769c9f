"""What a .txt is, of which every line is a prompt, and no row in JSON."""

from __future__ import annotations

import re

from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.decode import LooseError, parse
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.json_values import JsonValues, is_cut
from vllm_hpc.rows.jsonl import BOM, numbered_lines
from vllm_hpc.rows.row import RowError
from vllm_hpc.spec.errors import InputError

# Of a row in JSON, one of them is there.
_ROW_FIELDS = frozenset({"prompt", "messages", "custom_id", CONVERSATIONS})
_FIRST_ITEM = re.compile(rb"\[\s*[\[{\"]|\[\s*\Z")


def refuse_json(file: InputFile) -> None:
    """Refuse a .txt that begins with a row in JSON, or an array of rows or texts. Raises InputError, OSError."""
    with file.open() as stream:
        for number, raw in numbered_lines(stream, file):
            line = (raw.removeprefix(BOM) if number == 1 else raw).strip()
            if line:
                break
        else:
            return
    what = _json_in(file, line)
    if what:
        name = ".json" if what == "an array" else ".jsonl"
        raise InputError(
            f"{file}:{number}: a .txt has a prompt on each line, but this is {what} in JSON: name the file {name}"
        )


def _json_in(file: InputFile, line: bytes) -> str:
    """What a .txt with this first line is in JSON; empty for prompts."""
    if line.startswith(b"["):
        return "an array" if _FIRST_ITEM.match(line) and _is_array(file, line) else ""
    if line == b"{":  # over several lines
        return "a row" if _is_row(_first_value(file)) else ""
    try:
        return "a row" if line.startswith(b"{") and _is_row(parse(line)) else ""
    except LooseError as error:
        return "a row" if _is_row(error.value) else ""
    except RowError:
        return ""


def _is_array(file: InputFile, line: bytes) -> bool:
    """Whether the file is an array of rows, texts or chats, on one line or several. A prompt may begin with "["."""
    try:
        value = parse(line)
    except RowError:
        return is_cut(line) and _first_value(file) is not None
    return isinstance(value, list) and isinstance(value[0], str | dict | list)


def _first_value(file: InputFile) -> object:
    """The first value of an array, or of the file; None if there is none."""
    with file.open() as stream:
        try:
            return parse(next(iter(JsonValues(stream)), b"null"))
        except RowError:
            return None


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and not _ROW_FIELDS.isdisjoint(value)
