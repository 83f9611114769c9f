"""diff: the outputs of two jobs, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import read_index
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobs.find import find_job
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.join_outputs import Outputs, Pair, join_outputs
from vllm_hpc.rows.diff import ANSWER_FIELDS, Difference, Tokenize, answer_of, compare_answers
from vllm_hpc.spec.errors import InputError, RequestError
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.values import as_path

# Bytes of a tokenizer.json: the largest that are published have some ten million.
_MOST_OF_A_TOKENIZER = 256 << 20


class RowDifference(msgspec.Struct, frozen=True):
    """A row that differs: its id as JSON, and where."""

    id: str
    where: Difference


class OutputDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found.

    ``compared``: rows with an answer in both; ``equal`` of these, ``share`` = equal / compared (None: no such row).
    ``only_first``, ``only_second``: rows of which the other has none; ``errors_first``, ``errors_second``: rows that
    have an error, or no result, only there; ``errors_both``. ``inputs_differ``: rows whose prompt or sampling is
    another (None: not known); ``prompt_tokens_differ``: rows whose prompts have another number of tokens.
    ``common``: of rows with different texts, the mean share of the text before the first difference. ``fields``: how
    many rows first differ in which. ``settings``: what the two jobs have different, by name. ``examples``: the first
    rows that differ.
    """

    first: str
    second: str
    compared: int
    equal: int
    different: int
    share: float | None
    only_first: int
    only_second: int
    errors_first: int
    errors_second: int
    errors_both: int
    inputs_differ: int | None
    prompt_tokens_differ: int
    common: float | None
    fields: dict[str, int]
    settings: dict[str, tuple[Any, Any]]
    examples: tuple[RowDifference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether both have the same rows with the same answers, and errors in the same rows."""
        others = (self.different, self.only_first, self.only_second, self.errors_first, self.errors_second)
        return not any(others)


class Side(msgspec.Struct, frozen=True):
    """One of the two: a file of output rows, and the job that it is of, if any."""

    name: str
    path: Path
    folder: JobFolder | None = None


def find_side(text: str, job_dir: str) -> Side:
    """A job, whose rows are collected if need be, or a file of output rows. Raises VllmHpcError."""
    path = as_path(text, "JOB")
    if path.is_file():
        return Side(text, path)
    job = find_job(text, job_dir)
    if not job.folder.job().has_rows:
        program = job.folder.job().program
        raise RequestError(f"{job.path.name} has no output rows: it ran the {program.title if program else 'program'}")
    _collect(job)
    return Side(text, job.folder.outputs, job.folder)


def _collect(job: Job) -> None:
    try:
        job.results()
    except RequestError:
        if job.folder.is_mine:
            raise
        raise RequestError(
            f"{str(job.path)!r} is a job of another user, and not collected: run 'vllm-hpc collect JOB --output DIR', "
            "and name DIR/outputs.jsonl here"
        ) from None


class _Tally:
    """Counts pairs."""

    def __init__(self, fields: Sequence[str], tokenize: Tokenize | None, most: int) -> None:
        self._fields, self._tokenize, self._most = fields, tokenize, most
        self.compared = self.equal = self.only_first = self.only_second = 0
        self.errors = [0, 0, 0]
        self.inputs_differ = self.prompt_tokens_differ = 0
        self.by_field: dict[str, int] = {}
        self.shares = [0.0, 0.0]
        self.examples: list[RowDifference] = []
        self.unseen = set(fields)

    def add(self, pair: Pair) -> None:
        """Count the rows of one id."""
        if pair.first is None or pair.second is None:
            self.only_first += pair.second is None
            self.only_second += pair.first is None
            return
        self.inputs_differ += pair.is_same_input is False
        first, second = answer_of(pair.first), answer_of(pair.second)
        if self.unseen:
            self.unseen -= first.keys() | second.keys()
        has_error = [bool(first.get("error")), bool(second.get("error"))]
        if any(has_error):
            self.errors[2 if all(has_error) else has_error.index(True)] += 1
            return
        self._compare(pair.key, first, second)

    def _compare(self, key: str, first: dict[str, Any], second: dict[str, Any]) -> None:
        self.compared += 1
        self.prompt_tokens_differ += first.get("prompt_tokens") != second.get("prompt_tokens")
        # To find the first difference takes longer than to see that there is none.
        where = compare_answers(first, second, self._fields, self._tokenize)
        if where is None:
            self.equal += 1
            return
        name = where.field.split("[")[0]
        self.by_field[name] = self.by_field.get(name, 0) + 1
        if where.common is not None:
            self.shares = [self.shares[0] + where.common, self.shares[1] + 1]
        if len(self.examples) < self._most:
            self.examples.append(RowDifference(key, where))


def diff_outputs(
    first: Side, second: Side, fields: Sequence[str] = (), most: int = 0, tokenizer: str | None = None
) -> OutputDiff:
    """Compare the output rows of two jobs.

    ``fields``: what is compared, instead of the answer's; ``most``: how many rows that differ are kept as examples.
    ``tokenizer``: a folder with a tokenizer.json, which then says the first token that differs. Raises VllmHpcError.
    """
    tally = _Tally(fields or ANSWER_FIELDS, load_tokenizer(tokenizer) if tokenizer else None, most)
    knows_inputs, same_inputs = _inputs(first, second)
    reads = knows_inputs and not same_inputs
    sides = [Outputs(side.path, side.folder if reads else None) for side in (first, second)]
    try:
        for pair in join_outputs(*sides):
            tally.add(pair)
    except OSError as error:
        raise RequestError(f"{error.filename!r} cannot be read: {error.strerror}") from None
    if fields and tally.compared and tally.unseen:
        raise RequestError(f"--fields {sorted(tally.unseen)[0]}: no row has it: name fields of the rows")
    return OutputDiff(
        first=first.name,
        second=second.name,
        compared=tally.compared,
        equal=tally.equal,
        different=tally.compared - tally.equal,
        share=round(tally.equal / tally.compared, 6) if tally.compared else None,
        only_first=tally.only_first,
        only_second=tally.only_second,
        errors_first=tally.errors[0],
        errors_second=tally.errors[1],
        errors_both=tally.errors[2],
        inputs_differ=tally.inputs_differ if knows_inputs else None,
        prompt_tokens_differ=tally.prompt_tokens_differ,
        common=round(tally.shares[0] / tally.shares[1], 4) if tally.shares[1] else None,
        fields=tally.by_field,
        settings=_settings(first, second),
        examples=tuple(tally.examples),
    )


def _inputs(first: Side, second: Side) -> tuple[bool, bool]:
    """Whether the inputs of both are there to be compared, and whether their blocks already say that they are equal."""
    if first.folder is None or second.folder is None:
        return False, False
    try:
        one, other = read_index(first.folder), read_index(second.folder)
    except InputError:
        return False, False
    digests = [[(block.row, block.digest) for part in index.parts for block in part.blocks] for index in (one, other)]
    return True, digests[0] == digests[1] and one.reading == other.reading


def _settings(first: Side, second: Side) -> dict[str, tuple[Any, Any]]:
    """What the two jobs were asked that tokens depend on, where it differs."""
    if first.folder is None or second.folder is None:
        return {}
    one, other = (_asked(side.folder.job(), side.folder) for side in (first, second) if side.folder)
    return {
        name: (one.get(name), other.get(name))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    }


def _asked(record: JobRecord, folder: JobFolder) -> dict[str, Any]:
    layout, request = record.plan.layout, record.request
    first = folder.records_of([0])
    ran = {name: version for rank in first for name, version in rank.versions.items()}
    return {
        "model": record.model,
        "tp": layout.tp,
        "pp": layout.pp,
        "attention_dp": layout.attention_dp,
        "dp": layout.dp,
        "seed": request.seed,
        "seed_rows": request.seed_rows,
        "reproducible": request.reproducible,
        "rehearse": request.rehearse,
        **{f"sampling {name}": value for name, value in record.sampling.items()},
        **{f"engine {name}": value for name, value in record.plan.engine.items()},
        **{f"{name} version": version for name, version in ran.items()},
        "device": first[0].device_name if first else None,
    }


def load_tokenizer(folder: str) -> Callable[[str], Sequence[int]]:
    """A model's tokenizer. Raises RequestError, also where it is called with a text that it cannot split."""
    file = as_path(folder, "--tokens") / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise RequestError("--tokens needs tokenizers: pip install tokenizers, or leave it out") from None

    def refused(error: Exception) -> RequestError:
        words = error.strerror if isinstance(error, OSError) else error
        return RequestError(f"--tokens: {str(file)!r} cannot be used: {words}: name the model's folder")

    try:
        # Not by its name: tokenizers would wait for a FIFO, and read /dev/zero without end.
        found = Tokenizer.from_buffer(read_regular(file, _MOST_OF_A_TOKENIZER))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exceptions
        raise refused(error) from None

    def tokenize(text: str) -> Sequence[int]:
        try:
            ids: list[int] = found.encode(text, add_special_tokens=False).ids
        except Exception as error:  # noqa: BLE001 - the same, for a word that a vocabulary has no token for
            raise refused(error) from None
        return ids

    return tokenize
