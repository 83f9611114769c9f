"""Counts what is in the output rows: lengths, why answers ended, errors. One pass, in bounded memory."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobfolder.row_ids import RowIds
from vllm_hpc.jobfolder.shard_lines import LineReader
from vllm_hpc.jobfolder.shards import Scan
from vllm_hpc.jobs.error_groups import error_of, normalised
from vllm_hpc.report.facts import ErrorGroup, Histogram, RowFacts
from vllm_hpc.spec.errors import CollectError, InputError
from vllm_hpc.spec.read_file import open_regular

# Rows whose lines are read at a time, groups of errors that are told apart, bars of a histogram.
_AT_A_TIME, _MOST_GROUPS, _MOST_BARS = 2048, 200, 32
# Up to here each number of tokens is counted by itself, above to three digits: so there are never too many.
_EXACT, _LARGEST = 4096, 10**9
_LONGEST_LINE, _LONGEST_MESSAGE, _LONGEST_WORD = 256 * 2**20, 400, 60
_OTHERS = ("other", "more kinds of errors than are told apart")


class _Line(msgspec.Struct, gc=False):
    """What is read of an output row, in a shard or in outputs.jsonl; ``line`` is an OpenAI batch line in a shard."""

    id: Any = None
    custom_id: Any = None
    error: Any = None
    response: Any = None
    finish_reason: Any = None
    outputs: Any = None
    prompt_tokens: Any = None
    completion_tokens: Any = None
    line: Any = None


class _Counts:
    def __init__(self) -> None:
        self.done = self.failed = self.prompt_tokens = self.completion_tokens = 0
        self.prompt, self.completion = Counter[int](), Counter[int]()
        self.finish = Counter[str]()
        self.errors: dict[tuple[str, str], list[Any]] = {}

    def add(self, row: _Line) -> None:
        batch = row.line if isinstance(row.line, dict) else {"response": row.response}
        if row.error is not None:
            self._add_error(row)
            return
        body = _get(_get(batch, "response"), "body")
        usage = _get(body, "usage")
        prompt = _tokens(row.prompt_tokens if row.prompt_tokens is not None else _get(usage, "prompt_tokens"))
        answer = _tokens(
            row.completion_tokens if row.completion_tokens is not None else _get(usage, "completion_tokens")
        )
        self.done += 1
        self.prompt_tokens += prompt
        self.completion_tokens += answer
        self.prompt[_rounded(prompt)] += 1
        self.completion[_rounded(answer)] += 1
        for reason in _reasons(row, body):
            known = reason if len(self.finish) < _MOST_GROUPS or reason in self.finish else "other"
            self.finish[known] += 1

    def _add_error(self, row: _Line) -> None:
        kind, message = error_of({"error": row.error})
        if kind == "missing":
            return
        self.failed += 1
        kind, message = kind[:_LONGEST_WORD], " ".join(message.split())[:_LONGEST_MESSAGE]
        key = (kind, normalised(message))
        if key not in self.errors and len(self.errors) >= _MOST_GROUPS:
            key, (kind, message) = _OTHERS, _OTHERS
        group = self.errors.setdefault(key, [kind, message, 0, _name(row)])
        group[2] += 1

    def facts(self, total: int, unreadable: str) -> RowFacts:
        groups = sorted(self.errors.values(), key=lambda group: -group[2])
        return RowFacts(
            done=self.done,
            failed=self.failed,
            missing=max(0, total - self.done - self.failed),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            prompt=_histogram(self.prompt),
            completion=_histogram(self.completion) if self.completion_tokens else None,
            finish=dict(self.finish.most_common()),
            errors=tuple(ErrorGroup(*group) for group in groups),
            unreadable=unreadable,
        )


def read_rows(folder: JobFolder, record: JobRecord) -> RowFacts:
    """What is in the rows that are there; ``unreadable`` says why some are not counted."""
    counts, unreadable = _Counts(), ""
    decoder = msgspec.json.Decoder(_Line)
    try:
        for line in _lines(folder, record):
            try:
                counts.add(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
    except (CollectError, InputError) as error:
        unreadable = str(error)
    except OSError as error:
        unreadable = f"{error.filename or folder.shards} cannot be read: {error.strerror}"
    return counts.facts(record.rows, unreadable)


def _lines(folder: JobFolder, record: JobRecord) -> Iterator[bytes]:
    """The line of each row that is there: from the shards, or from outputs.jsonl if those were removed."""
    shards = folder.shard_files() if folder.shards.is_dir() else []
    if not shards and folder.outputs.is_file():
        yield from _of_outputs(folder)
        return
    found = Scan(shards, record.rows, record.request.rehearse, ids=RowIds(folder))
    with LineReader(shards) as reader:
        for first in range(0, len(found.places), _AT_A_TIME):
            there = [place for place in found.places[first : first + _AT_A_TIME] if place]
            for data in reader.read(there):
                yield from io.BytesIO(data)


def _of_outputs(folder: JobFolder) -> Iterator[bytes]:
    with open_regular(folder.outputs, follow_links=False) as file:
        while line := file.readline(_LONGEST_LINE):
            yield line


def _reasons(row: _Line, body: Any) -> Iterator[str]:
    """Why its answers ended, one or several (n > 1); none of an embedding."""
    several = row.outputs if isinstance(row.outputs, list) else _get(body, "choices")
    reasons = [_get(one, "finish_reason") for one in several] if isinstance(several, list) else [row.finish_reason]
    for reason in reasons:
        if reason is not None:
            yield str(reason)[:_LONGEST_WORD]


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _name(row: _Line) -> str:
    return str(row.custom_id if row.custom_id is not None else row.id)[:_LONGEST_WORD]


def _tokens(value: Any) -> int:
    return min(value, _LARGEST) if isinstance(value, int) and value > 0 else 0


def _rounded(tokens: int) -> int:
    if tokens < _EXACT:
        return tokens
    unit: int = 10 ** (len(str(tokens)) - 3)
    return tokens // unit * unit


def _histogram(counts: Counter[int]) -> Histogram | None:
    """Bars whose width is a power of two, so that two jobs' can be brought to the same."""
    if not counts:
        return None
    most, rows = max(counts), counts.total()
    width = 1 << max(0, (most // _MOST_BARS).bit_length())
    bars = [0] * (most // width + 1)
    for tokens, number in counts.items():
        bars[tokens // width] += number
    mean = sum(tokens * number for tokens, number in counts.items()) / rows
    ordered = sorted(counts.items())
    return Histogram(
        width=width,
        counts=tuple(bars),
        mean=round(mean, 1),
        median=_quantile(ordered, rows * 0.5),
        p90=_quantile(ordered, rows * 0.9),
        most=most,
    )


def _quantile(ordered: Iterable[tuple[int, int]], rank: float) -> int:
    seen = last = 0
    for tokens, number in ordered:
        seen, last = seen + number, tokens
        if seen >= rank:
            break
    return last
