"""Sweeps: one job for each combination of options, which are waited for, cancelled and compared together."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.api import grid
from vllm_hpc.api.errors import in_python
from vllm_hpc.api.functions import SAMPLES, taken
from vllm_hpc.api.signatures import documented
from vllm_hpc.api.sweep_wait import wait_for_all
from vllm_hpc.api.values import plain_model
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobs import submit as submission
from vllm_hpc.jobs.drawn_lists import Jobs, Statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.submit import Prepared
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.errors import FailedError, JobNotFoundError, RequestError, VllmHpcError
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path, check_job_name, check_name
from vllm_hpc.spec.words import counted
from vllm_hpc.spec.write_file import make_folder

_RECORD = "sweep.json"


class SweepPoint(msgspec.Struct, frozen=True):
    """A point as sweep.json has it; ``job`` is the name of its folder."""

    parameters: dict[str, Any]
    job: str


class SweepRecord(msgspec.Struct, frozen=True):
    """sweep.json, in the folder of a sweep."""

    points: tuple[SweepPoint, ...]
    created_at: float
    version: int = 1


class Point(NamedTuple):
    """A job of a sweep, and what it has of its own."""

    parameters: dict[str, Any]
    job: Job


class Sweep(Drawn, tuple[Point, ...]):
    """The jobs of a sweep with their parameters, in order. ``Sweep.find`` finds it again, from any kernel."""

    __slots__ = ()

    def __repr__(self) -> str:
        states = Counter(one.state for one in self.status())
        words = "".join(f", {number} {state}" for state, number in states.items())
        return f"Sweep {self.name}: {counted(len(self), 'job')}{words}"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self[0].job.path.parent.name

    @property
    def jobs(self) -> Jobs:
        """Its jobs."""
        return Jobs(point.job for point in self)

    @classmethod
    @in_python
    def find(cls, sweep: str | os.PathLike[str], job_dir: str | os.PathLike[str] | None = None) -> Sweep:
        """Find a sweep by its folder, or its name under ``job_dir`` (default: as for jobs). Raises JobNotFoundError."""
        parent = as_path(default_job_dir() if job_dir is None else os.fspath(job_dir), "job_dir")
        for folder in (as_path(os.fspath(sweep), "sweep"), parent / sweep):
            record = read_json(folder / _RECORD, SweepRecord)
            if record is None:
                continue
            for point in record.points:
                check_name(point.job, f"{str(folder / _RECORD)!r}: the job")
            found = [Point(point.parameters, Job(folder / point.job)) for point in record.points]
            there = cls(point for point in found if point.job.folder.is_there())
            if there:
                return there
        raise JobNotFoundError(f"no sweep {os.fspath(sweep)!r}: give its folder, or its name under {str(parent)!r}")

    def status(self) -> Statuses:
        """The status of each job; their scheduler is asked once for all."""
        return self.jobs.statuses()

    def wait(self, timeout: float | None = None, progress: bool | None = None) -> Statuses:
        """Wait until all jobs have ended, and return their statuses. Raises TimeoutError after ``timeout`` seconds.

        ``progress`` shows them meanwhile: one card in a notebook, else a line on stderr whenever a state changes. None:
        in a notebook or on a terminal. An interrupt leaves the jobs as they are.
        """
        return wait_for_all(self, timeout, progress)

    @in_python
    def cancel(self) -> Statuses:
        """Cancel what has not ended, the last job first. Raises FailedError if some could not be cancelled."""
        refused = []
        for point, status in reversed(list(zip(self, self.status(), strict=True))):
            if not status.is_final:
                try:
                    point.job.cancel()
                except VllmHpcError as error:
                    refused.append(f"{point.job.path.name}: {error}")
        if refused:
            raise FailedError(f"{counted(len(refused), 'job')} not cancelled: {'; '.join(reversed(refused))}")
        return self.status()

    def results(self) -> Iterator[Row]:
        """The rows of all jobs, with the parameters first; those of which a row has a field of its own as sweep_NAME.

        Raises JobFailedError if a job failed without a single row.
        """
        for point in self:
            for row in point.job.results():
                own = {f"sweep_{name}" if name in row else name: value for name, value in point.parameters.items()}
                yield {**own, **row}

    @in_python
    def dataframe(self) -> Any:
        """The rows of all jobs as a pandas DataFrame, parameters first. Raises RequestError without pandas."""
        return _pandas().DataFrame(list(self.results()))

    @in_python
    def compare(self, on: str = "id", column: str = "text") -> Any:
        """A pandas DataFrame with a column of texts for each point, in one line per ``on``.

        ``column``: another field of the rows. Where a job has no such row, or an error, there is None. Raises
        RequestError if a job has two rows with the same ``on``, or none has that field.
        """
        pandas = _pandas()
        texts: dict[str, dict[Any, Any]] = {}
        for point in self:
            name = grid.label(point.parameters)
            texts[name] = found = {}
            for row in point.job.results():
                if on not in row:
                    raise RequestError(f"on={on!r} must be a field of all rows: {name} has one without")
                if str(row[on]) in found:
                    raise RequestError(f"on={on!r} must tell rows apart: {name} has {str(row[on])!r:.100} twice")
                found[str(row[on])] = _text(row, column)
        keys = list(dict.fromkeys(key for found in texts.values() for key in found))
        columns = {name: [found.get(key) for key in keys] for name, found in texts.items()}
        return pandas.DataFrame({on: keys, **columns})


@in_python
@documented
def sweep(
    model: Any = None, *, over: Mapping[str, Any] | None = None, name: str | None = None, **options: Any
) -> Sweep:
    """Submit a job for each combination: ``sweep(model=["a", "b"], temperature=[0.0, 0.7], input="prompts.jsonl")``.

    A list of values for an option whose own value is no list or table is swept; ``over`` has the others, and keys of
    tables: ``over={"engine.max_num_seqs": [64, 256]}``. The jobs are in a folder ``name`` (default: sweep-DATE-TIME).

    All are checked first: raises RefusedError, which says of which point, before anything is created. If the scheduler
    refuses one, those before it stay submitted, and SubmitError says so.
    """
    common: dict[str, Any] = dict(options)
    if hasattr(common.get("input"), "__next__"):  # an iterator, which is there once
        common["input"] = list(common["input"])
    points = grid.grid(model, common, over or {})
    job_dir = common.get("job_dir")
    parent = as_path(default_job_dir(common.get("profile")) if job_dir is None else os.fspath(job_dir), "job_dir")
    name = name or f"sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    check_job_name(name, "name")
    folder = parent / name
    if folder.exists():
        raise RequestError(f"{str(folder)!r} already exists: choose another name (nothing was changed)")
    common["job_dir"] = str(folder)
    ready = [_prepare(name, number, point, {"model": model, **common}) for number, point in enumerate(points, start=1)]
    return _submit(folder, points, ready)


def _prepare(sweep: str, number: int, point: grid.Parameters, common: dict[str, Any]) -> Prepared:
    """One job, checked and rendered. Raises RefusedError, which names the point."""
    try:
        options = grid.options_of(point, {**common, "name": grid.job_name(sweep, number, point)})
        model = plain_model(options.pop("model"))
        prepared = submission.prepare(model, **taken(options))
        if submission.runs_samples(prepared) and not options.get("sample"):
            raise RequestError(f"input= is missing: {SAMPLES}, which sample=True asks for")
    except VllmHpcError as error:
        error.args = (f"point {number} ({grid.label(point)}): {error}; nothing was submitted",)
        raise
    return prepared


def _submit(folder: Any, points: list[grid.Parameters], ready: list[Prepared]) -> Sweep:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(folder)
        plain = [{key: grid.plain(value) for key, value in point.items()} for point in points]
        names = [str(one.request.name) for one in ready]
        rows = tuple(SweepPoint(point, job) for point, job in zip(plain, names, strict=True))
        write_json(folder / _RECORD, SweepRecord(rows, time.time()))
    except OSError as error:
        raise RequestError(f"cannot make {str(folder)!r}: {error.strerror}: choose another job_dir") from None
    jobs: list[Point] = []
    for point, prepared in zip(plain, ready, strict=True):
        try:
            jobs.append(Point(point, prepared.submit()))
        except VllmHpcError as error:
            if not jobs and not any(one.is_dir() for one in folder.iterdir()):
                (folder / _RECORD).unlink()
                folder.rmdir()
            kept = (
                f"; {counted(len(jobs), 'job')} before it stay submitted: Sweep.find({str(folder)!r})" if jobs else ""
            )
            error.args = (f"point {len(jobs) + 1} ({grid.label(point)}) was not submitted: {error}{kept}",)
            raise
    return Sweep(jobs)


def _text(row: Row, column: str) -> Any:
    """A field of a row; of several outputs the list of theirs."""
    several = row.get("outputs")
    if column not in row and isinstance(several, list):
        return [one.get(column) for one in several if isinstance(one, dict)]
    return row.get(column)


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise RequestError("this needs pandas: pip install 'vllm-hpc[notebook]'") from None
    return pd
