"""Rows: prompts in, results out.

An input row has ``prompt`` (a string or a list of token ids) or ``messages`` (a chat, which may have CHAT_FIELDS), and
optionally ``id`` and ``sampling``; any other field is copied to its output row. Normalised rows also have
``index``, their position in the input; those of an OpenAI batch have ``batch`` (custom_id, url, model), and ``task``
if they ask for something other than text. A row that cannot be run has an ``error`` instead of its prompt. ``read``
lists the file formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.errors import CollectError
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.write_file import replacing

Row = dict[str, Any]

SAMPLE_PROMPTS = ("Hello, my name is", "The capital of France is")
# Fields of input rows that are not copied, and fields of output rows, which would overwrite a copied field.
INPUT_FIELDS = frozenset({"index", "id", "prompt", "messages", "sampling", "batch", "task", "error"})
# These have a meaning in a chat; a row with a prompt carries them.
CHAT_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "chat_template", "chat_template_kwargs"})
# Fields in which null means not given. datasets.to_json and pandas write every column in every row. Not ``lora``, where
# null names the base model.
NULLABLE = (INPUT_FIELDS | CHAT_FIELDS) - {"index", "batch", "error"}
TASKS = ("generate", "embed")
OUTPUT_FIELDS = frozenset(
    {"index", "text", "finish_reason", "prompt_tokens", "completion_tokens", "replica", "outputs", "error"}
    | {"stop_reason", "reasoning", "tool_calls", "logprobs", "prompt_logprobs", "embedding", "rehearsal"}
)


# A row with this in the extra_args of its sampling has its prompt_token_ids in its output row.
PROMPT_IDS = "vllm_hpc_prompt_ids"
# In every output row of a rehearsal, so that it cannot be mistaken for a model's answer.
REHEARSED: Row = {"rehearsal": True}


class RowError(Exception):
    """What is wrong with a row; the caller adds file and line and raises InputError."""


class UnreadableRowError(ValueError):
    """What is wrong with a row that cannot be run, while the others are."""


def first_line(error: BaseException) -> str:
    """What another library says, as the part of an error of our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write rows as JSON lines and return their number."""
    count = 0
    encoder = msgspec.json.Encoder()
    with replacing(path) as file:
        for row in rows:
            file.write(encoder.encode(row) + b"\n")
            count += 1
    return count


def iter_jsonl(path: Path) -> Iterator[Row]:
    """The rows of a JSON-lines file that vllm-hpc wrote, without a torn last line (the writer was killed).

    Raises CollectError for a line that it did not write.
    """
    decoder = msgspec.json.Decoder()
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise CollectError(f"{path}: line {number} is no row: {error}: collect again") from None


def carried_fields(row: Row) -> Row:
    """The fields of an input row that are copied unchanged to its output row.

    In a row with an ``error`` instead of its prompt, those of a chat were left out before.
    """
    own = INPUT_FIELDS | CHAT_FIELDS if "messages" in row else INPUT_FIELDS
    return {key: value for key, value in row.items() if key not in own}


def error_row(row: Row, kind: str, message: str) -> Row:
    """The output row for an input row without a result."""
    return {
        "index": row["index"],
        "id": row["id"],
        "error": {"type": kind, "message": message},
        **carried_fields(row),
    }
