"""A sweep as one job: each row of the input once for each point, with the point's sampling as the row's own.

Such a row is called ID@POINT and carries a field ``sweep``, from which the views of a Sweep make the rows that jobs of
their own would have given.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vllm_hpc.api import grid
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.rows_so_far import RowsSoFar
from vllm_hpc.jobs.status import Status
from vllm_hpc.rows.kept_rows import KeptRows, keep_normalised
from vllm_hpc.rows.read import Sources, checked_rows, find_sources
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import RequestError, VllmHpcError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.sampling_names import TRANSLATED
from vllm_hpc.spec.words import counted

# The options that are also names of vLLM's SamplingParams, with the same meaning. Not ``seed``, which is the engine's.
SAMPLING = ("max_tokens", "temperature", "top_p")
# The options that say how rows are read, which they are before they are repeated.
OF_READING = (
    "prompt", "id", "keep", "rename", "prompt_column", "prompt_template", "id_column", "drop_last_answer",
)  # fmt: skip
_TABLE = "sampling."
_FIELD = "sweep"
_SIGN = "@"
# Bytes of all rows up to which one job is the choice of vllm-hpc. A larger input is one that jobs share as it is.
_MOST_BYTES = 256 << 20
# Rows up to which it is counted what each point has.
_MOST_COUNTED = 50_000


class ApartError(Exception):
    """Why rows cannot share a job."""


def fixed_of(points: Sequence[grid.Parameters]) -> grid.Parameters:
    """What all points have in common, and is no sampling."""
    return {name: value for name, value in points[0].items() if sampling_name(name) is None}


def why_not(points: Sequence[grid.Parameters]) -> str:
    """Why one job cannot serve these points; empty if it can, as far as they say."""
    if len(points) < 2:
        return "there is only one combination"
    for name, first in points[0].items():
        own, values = sampling_name(name), [point[name] for point in points]
        if own is None and any(value is not first for value in values):
            hint = ", that of the engine; over={'sampling.seed': [...]} gives rows a seed" if name == "seed" else ""
            return f"{name} is no parameter of sampling{hint}"
        if own in TRANSLATED:
            return f"{name} is a name of OpenAI's: use vLLM's"
        if own is not None and any(value is None for value in values):
            return f"{name} has None, which a row's sampling cannot say"
    return ""


def why_not_of(given: Given) -> str:
    """Why a job of these options cannot serve several points; empty if it can, as far as they say."""
    asked = given.request
    reasons = {
        "MODEL is a folder with a job.toml": given.definition is not None,
        "input= is missing": asked.input is None,
        "rows_missing_from= is given": asked.rows_missing_from is not None,
        "program= may make of rows what it likes": bool(asked.program or asked.script),
        "seed_rows= makes seeds of ids": asked.seed_rows,
        "reproducible= makes seeds of ids": asked.reproducible,
        "embeddings have no sampling": asked.engine.get("runner") == "pooling",
        "sampling= has a name of OpenAI's: use vLLM's": not asked.sampling.keys().isdisjoint(TRANSLATED),
    }
    return next((words for words, is_so in reasons.items() if is_so), "")


def sampling_name(parameter: str) -> str | None:
    """The name of a parameter in a row's sampling; None if it is none."""
    if parameter in SAMPLING:
        return parameter
    return parameter.removeprefix(_TABLE) if parameter.startswith(_TABLE) else None


def sampling_of(point: grid.Parameters, request: Request) -> Row:
    """The sampling of a point, with the values of its request, which are plain."""
    names = {parameter: name for parameter in point if (name := sampling_name(parameter)) is not None}
    return {
        name: getattr(request, parameter) if parameter in SAMPLING else request.sampling[name]
        for parameter, name in names.items()
    }


def keep(request: Request, points: Sequence[grid.Parameters], sampling: Sequence[Row], is_asked: bool) -> KeptRows:
    """The rows of an input for all points, as an input. Raises InputError; ApartError if they cannot share a job.

    ``is_asked``: however large they are.
    """
    assert request.input is not None
    sources = find_sources(request.input, Reading.of(request))
    if not is_asked and _size(sources) * len(points) > _MOST_BYTES:
        raise ApartError(_TOO_LARGE)
    rows = _repeated(checked_rows(sources), points, sampling)
    return keep_normalised(rows if is_asked else _small(rows, sources, len(points)), counted(len(points), "point"))


_TOO_LARGE = f"the rows of all points are more than {_MOST_BYTES >> 20} MiB"


def _size(sources: Sources) -> int:
    try:
        return max(sources.size, sources.unpacked)
    except OSError:
        return 0  # said when they are read


def _small(rows: Iterator[Row], sources: Sources, points: int) -> Iterator[Row]:
    for row in rows:
        if sources.unpacked * points > _MOST_BYTES:
            raise ApartError(_TOO_LARGE)
        yield row


def _repeated(rows: Iterator[Row], points: Sequence[grid.Parameters], sampling: Sequence[Row]) -> Iterator[Row]:
    """Each row once for each point: one after the other, so that the engine has its prompt in the cache."""
    labels = [{name: grid.plain(value) for name, value in point.items()} for point in points]
    kinds = set()
    for number, row in enumerate(rows):
        kinds.add(type(row["id"]))
        if why := _why_apart(row, kinds):
            raise ApartError(why)
        own = {key: value for key, value in row.get("sampling", {}).items() if value is not None or key == "max_tokens"}
        for place, (label, given) in enumerate(zip(labels, sampling, strict=True)):
            one = {
                **row, "index": number * len(points) + place, "id": f"{row['id']}{_SIGN}{place + 1}",
                _FIELD: {**label, "point": place + 1, "id": row["id"]},
            }  # fmt: skip
            if "error" not in row:
                one["sampling"] = {**given, **own}
            yield one


def _why_apart(row: Row, kinds: set[type]) -> str:
    if "batch" in row:
        return "the input is an OpenAI batch"
    if row.get("task") == "embed":
        return "embeddings have no sampling"
    if _FIELD in row:
        return f"the rows have a field {_FIELD!r}"
    return "some ids are numbers, others texts" if len(kinds) > 1 else ""


def by_point(rows: Iterable[Row], points: int) -> Iterator[tuple[int, Row]]:
    """The rows of one job as those of several: all of the first point, then all of the second; with the point's place.

    They are kept in a temporary file; memory has eight bytes for each.
    """
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
    starts = array("Q")
    try:
        with tempfile.TemporaryFile(prefix="vllm-hpc-sweep-") as file:
            for row in rows:
                starts.append(file.tell())
                file.write(encode(row) + b"\n")
            for place in range(points):
                for index in range(place, len(starts), points):
                    file.seek(starts[index])
                    yield place, _restored(decode(file.readline()), points)
    except OSError as error:
        raise RequestError(
            f"cannot keep the rows in {tempfile.gettempdir()!r}: {error.strerror}: set TMPDIR to a folder with room"
        ) from None


def _restored(row: Row, points: int) -> Row:
    """The row as a job of its own would have given it."""
    label = row.pop(_FIELD, None)
    row["index"] = row["index"] // points
    row["id"] = label["id"] if isinstance(label, Mapping) else str(row["id"]).rpartition(_SIGN)[0]
    return row


def finished(job: Job, status: Status, points: int) -> list[int] | None:
    """How many rows of each point are finished; None if these are too many to look at, or cannot be."""
    total = status.rows.total
    if status.rows.done + status.rows.failed == total:
        return [total // points] * points
    if total > _MOST_COUNTED:
        return None
    try:
        found = RowsSoFar(job.folder)
    except (VllmHpcError, OSError):
        return None
    return [sum(found.has(index) for index in range(place, total, points)) for place in range(points)]


def plain(points: Iterable[grid.Parameters]) -> list[dict[str, Any]]:
    """Points as they are recorded."""
    return [{key: grid.plain(value) for key, value in point.items()} for point in points]
