"""The output rows as columns, for DataFrames and the like: one row for each answer, beside its prompt and its error.

No library is imported until one is asked for: ``frames`` makes theirs from these columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.private import is_private, private_files
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.status import read_status
from vllm_hpc.rows.row import OUTPUT_FIELDS, Row, iter_jsonl
from vllm_hpc.spec.errors import InputError, JobFailedError, RequestError

# The columns that every table has, in this order; others follow, and the error's are last.
_FIRST, _ANSWER = ("index", "id", "output"), ("text", "finish_reason", "prompt_tokens", "completion_tokens", "replica")
_ERROR = ("error_type", "error_message")
_PROMPTS = ("prompt", "messages")
# Whole numbers that an error row has not.
COUNTS = frozenset({"index", "output", "prompt_tokens", "completion_tokens", "replica"})
TEXTS = frozenset({"text", "finish_reason", "prompt", "reasoning", *_ERROR})
# What ``join`` adds to a table that has the rest.
OF_ANSWERS = (OUTPUT_FIELDS | {"output", *_ERROR}) - {"index", "replica", "error"}
_AT_A_TIME = 2048


class Columns:
    """Columns of one length, by name. ``rows``: for each, the index of its input row."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in (*_FIRST, *_PROMPTS, *_ANSWER)}

    def add(self, index: int, fields: Row) -> None:
        """Add a row; what it has not is None."""
        for name in fields.keys() - self._columns.keys():
            self._columns[name] = [None] * len(self.rows)
        for name, values in self._columns.items():
            values.append(fields.get(name))
        self.rows.append(index)

    def all(self) -> dict[str, list[Any]]:
        """The columns, in their order. Those of prompts and of several outputs only where there are any."""
        rare = {"output", *_PROMPTS, *(("finish_reason", "text") if "embedding" in self._columns else ())}
        found = {
            name: values
            for name, values in self._columns.items()
            if name not in _ERROR and (name not in rare or any(value is not None for value in values))
        }
        return found | {name: self._columns.get(name, [None] * len(self.rows)) for name in _ERROR}


def read_results(folder: JobFolder, partial: bool) -> Iterator[Row]:
    """The output rows of a job; see ``Job.results``. Raises RequestError, JobFailedError, CollectError."""
    if not folder.job().has_rows:
        raise RequestError(f"{folder.path.name} runs no rows: see its artefacts() and logs(rank)")
    status = read_status(folder)
    finished = status.rows.done + status.rows.failed
    if status.state == "FAILED" and not finished:
        raise JobFailedError(f"{folder.path.name} failed: {status.reason}")
    if not partial and not status.is_final and finished < status.rows.total:
        raise RequestError(
            f"{folder.path.name} is {status.state}, with {finished} of {status.rows.total} rows: wait() for its end, "
            "or ask for the rows so far with partial=True"
        )
    if folder.outputs.exists() and _is_collected(folder):
        return iter_jsonl(folder.outputs)
    if not folder.is_mine:
        return _collected_elsewhere(folder)
    with private_files(is_private(folder.path)):
        collect(folder)
    return iter_jsonl(folder.outputs)


def _is_collected(folder: JobFolder) -> bool:
    """Whether outputs.jsonl is newer than every shard."""
    collected = folder.outputs.stat().st_mtime_ns
    return all(shard.lstat().st_mtime_ns <= collected for shard in folder.shard_files())


def _collected_elsewhere(folder: JobFolder) -> Iterator[Row]:
    """The rows of another user's job, in whose folder nothing is written."""
    kept = tempfile.TemporaryDirectory(prefix="vllm-hpc-results-")
    collect(folder, Path(kept.name) / "rows")
    return _drained(kept, Path(kept.name) / "rows" / folder.outputs.name)


def _drained(kept: tempfile.TemporaryDirectory[str], path: Path) -> Iterator[Row]:
    with kept:
        yield from iter_jsonl(path)


def read_columns(folder: JobFolder, prompts: bool, explode: bool, partial: bool) -> Columns:
    """The output rows as columns. Raises what ``read_results`` raises; InputError if the input has changed."""
    columns = Columns()
    asked = _prompts(folder) if prompts else None
    for index, row in enumerate(read_results(folder, partial)):
        fields = _flat(index, row)
        if asked is not None:
            fields |= next(asked, {})
        outputs = fields.get("outputs")
        if not explode or not isinstance(outputs, list):
            columns.add(index, fields)
            continue
        del fields["outputs"]
        for number, one in enumerate(outputs):
            columns.add(index, {**fields, **one, "output": number})
    return columns


def _prompts(folder: JobFolder) -> Iterator[Row]:
    """The prompt or the chat of each input row, in order. Raises InputError."""
    try:
        reader = InputReader(folder)
        for first in range(0, folder.job().rows, _AT_A_TIME):
            for row in reader.rows(first, _AT_A_TIME):
                yield {name: row[name] for name in _PROMPTS if name in row}
    except InputError as error:
        raise InputError(f"{error}; or leave the prompts out with prompts=False") from None


def _flat(index: int, row: Row) -> Row:
    """An output row with its error in two columns; a line of an OpenAI batch also with its answer in columns."""
    fields = {"index": index, **row}
    error = fields.pop("error", None)
    if "custom_id" in row and "response" in row:
        fields |= {"id": row["custom_id"], **_of_batch(row["response"])}
        fields.pop("custom_id")
        fields.pop("response")
        error = error and {"type": error.get("code"), "message": error.get("message")}
    if isinstance(error, dict):
        fields |= {"error_type": error.get("type"), "error_message": error.get("message")}
    return fields


def _of_batch(response: Any) -> Row:
    """The answer in a response of OpenAI's."""
    body = response.get("body", {}) if isinstance(response, dict) else {}
    usage = body.get("usage") or {}
    fields = {name: usage[name] for name in ("prompt_tokens", "completion_tokens") if name in usage}
    if body.get("object") == "list":
        return {**fields, "embedding": body["data"][0]["embedding"]}
    choices = [_of_choice(one) for one in body.get("choices", ())]
    return {**fields, **(choices[0] if len(choices) == 1 else {"outputs": choices} if choices else {})}


def _of_choice(choice: Row) -> Row:
    message = choice.get("message") or {}
    found = {"text": message.get("content", choice.get("text")), "finish_reason": choice.get("finish_reason")}
    more = {"reasoning": message.get("reasoning"), "tool_calls": message.get("tool_calls")}
    return found | {name: value for name, value in more.items() if value}


def places(columns: Columns, ids: Sequence[Any] | None, size: int) -> list[tuple[int, int | None]]:
    """For each row of a table that is joined: its place there, and its place in ``columns``, None without an answer.

    ``ids`` are those of the table, None to go by the order of the input; ``size``: its rows. Raises RequestError.
    """
    answers: dict[Any, list[int]] = {}
    if ids is None:
        for place, index in enumerate(columns.rows):
            answers.setdefault(index, []).append(place)
        if len(answers) != size:
            raise RequestError(
                f"the table has {size} rows, but the job {len(answers)}: join the one that was its input, or name the "
                "column with the ids, on='id'"
            )
        return [(index, place) for index in range(size) for place in answers[index]]
    for place, one in enumerate(columns.all()["id"]):
        answers.setdefault(_key(one), []).append(place)
    if twice := next(
        (key for key, found in answers.items() if columns.rows[found[0]] != columns.rows[found[-1]]), None
    ):
        raise RequestError(f"the job has two rows with the id {twice!r}, a text and a number: join by their order")
    keys = [_key(one) for one in ids]
    _check_keys(keys, answers)
    return [(row, place) for row, key in enumerate(keys) for place in answers.get(key, [None])]


def _check_keys(keys: list[str], answers: dict[Any, list[int]]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise RequestError(f"the table has two rows with the id {key!r}: ids must differ to join by them")
        seen.add(key)
    if keys and not seen & answers.keys():
        raise RequestError(
            f"no id of the table is one of the job's: it has {keys[0]!r} ..., and the job {next(iter(answers))!r} ..."
        )


def _key(identity: Any) -> str:
    """An id as a text: that of a .csv is one, and pandas makes 4.0 of 4 beside a gap."""
    if isinstance(identity, float) and identity.is_integer():
        return str(int(identity))
    return str(identity)
