"""Sweeps: jobs for combinations of options, or one for all, which are waited for, cancelled and compared together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.api import grid, sweep_rows
from vllm_hpc.api.errors import in_python
from vllm_hpc.api.sweep_wait import wait_for_all
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobs.drawn_lists import Jobs, Statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.errors import FailedError, JobNotFoundError, RequestError, VllmHpcError
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path, check_name
from vllm_hpc.spec.words import counted

RECORD = "sweep.json"


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
    """A combination of a sweep, and its job, which may be that of all."""

    parameters: dict[str, Any]
    job: Job


class Sweep(Drawn, tuple[Point, ...]):
    """The points of a sweep, parameters and job, in order. ``Sweep.find`` finds it again, from any kernel."""

    __slots__ = ()

    def __repr__(self) -> str:
        states = Counter(one.state for one in self.status())
        words = "".join(f", {number} {state}" for state, number in states.items())
        return f"Sweep {self.name}: {self.size_in_words}{words}"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self[0].job.path.parent.name

    @property
    def jobs(self) -> Jobs:
        """Its jobs: one for each point, or one for all."""
        return Jobs([self[0].job] if self.is_one_job else (point.job for point in self))

    @property
    def is_one_job(self) -> bool:
        """Whether one job runs the rows of all points."""
        return len(self) > 1 and self[0].job.path == self[1].job.path

    @property
    def size_in_words(self) -> str:
        """How many jobs it has, or points in its one job."""
        return f"{len(self)} points in one job" if self.is_one_job else counted(len(self), "job")

    @classmethod
    @in_python
    def find(cls, sweep: str | os.PathLike[str], job_dir: str | os.PathLike[str] | None = None) -> Sweep:
        """Find a sweep by its folder, or its name under ``job_dir`` (default: as for jobs). Raises JobNotFoundError."""
        parent = as_path(default_job_dir() if job_dir is None else os.fspath(job_dir), "job_dir")
        for folder in (as_path(os.fspath(sweep), "sweep"), parent / sweep):
            record = read_json(folder / RECORD, SweepRecord)
            if record is None:
                continue
            for point in record.points:
                check_name(point.job, f"{str(folder / RECORD)!r}: the job")
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
        for job, status in reversed(list(zip(self.jobs, self.status(), strict=True))):
            if not status.is_final:
                try:
                    job.cancel()
                except VllmHpcError as error:
                    refused.append(f"{job.path.name}: {error}")
        if refused:
            raise FailedError(f"{counted(len(refused), 'job')} not cancelled: {'; '.join(reversed(refused))}")
        return self.status()

    def results(self) -> Iterator[Row]:
        """The rows of all points, with the parameters first; those of which a row has a field of its own as sweep_NAME.

        Raises JobFailedError if a job failed without a single row, RequestError if one has not ended.
        """
        for point, row in self._rows():
            own = {f"sweep_{name}" if name in row else name: value for name, value in point.parameters.items()}
            yield {**own, **row}

    def _rows(self) -> Iterator[tuple[Point, Row]]:
        """Each row with its point, one point after the other."""
        if self.is_one_job:
            for place, row in sweep_rows.by_point(self[0].job.results(), len(self)):
                yield self[place], row
            return
        for point in self:
            for row in point.job.results():
                yield point, row

    @in_python
    def dataframe(self) -> Any:
        """The rows of all points as a pandas DataFrame, parameters first. Raises RequestError without pandas."""
        return _pandas().DataFrame(list(self.results()))

    @in_python
    def compare(self, on: str = "id", column: str = "text") -> Any:
        """A pandas DataFrame with a column of texts for each point, in one line per ``on``.

        ``column``: another field of the rows. Where a point has no such row, or an error, there is None. Raises
        RequestError if a point has two rows with the same ``on``, or none has that field.
        """
        pandas = _pandas()
        texts: dict[str, dict[Any, Any]] = {grid.label(point.parameters): {} for point in self}
        for point, row in self._rows():
            name = grid.label(point.parameters)
            found = texts[name]
            if on not in row:
                raise RequestError(f"on={on!r} must be a field of all rows: {name} has one without")
            if str(row[on]) in found:
                raise RequestError(f"on={on!r} must tell rows apart: {name} has {str(row[on])!r:.100} twice")
            found[str(row[on])] = _text(row, column)
        keys = list(dict.fromkeys(key for found in texts.values() for key in found))
        columns = {name: [found.get(key) for key in keys] for name, found in texts.items()}
        return pandas.DataFrame({on: keys, **columns})


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
