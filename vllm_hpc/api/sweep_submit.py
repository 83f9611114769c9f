"""``sweep``: checks all combinations, and submits a job for each, or one in which each is a row's own sampling."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from vllm_hpc.api import grid, sweep_rows
from vllm_hpc.api.errors import in_python
from vllm_hpc.api.functions import SAMPLES, taken
from vllm_hpc.api.signatures import documented
from vllm_hpc.api.sweep import RECORD, Point, Sweep, SweepPoint, SweepRecord
from vllm_hpc.api.sweep_options import SweepOptions
from vllm_hpc.api.values import plain_model
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs import submit as submission
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.submit import Prepared
from vllm_hpc.planner.resolve import read_given
from vllm_hpc.rows.given_input import rows_in
from vllm_hpc.spec.errors import RequestError, VllmHpcError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path, check_job_name
from vllm_hpc.spec.words import counted
from vllm_hpc.spec.write_file import make_folder

_NOTHING = "nothing was submitted"


@in_python
@documented
def sweep(
    model: Any = None,
    *,
    over: Mapping[str, Any] | None = None,
    name: str | None = None,
    one_job: bool | None = None,
    **options: Unpack[SweepOptions],
) -> Sweep:
    """Run each combination: ``sweep(model=["a", "b"], temperature=[0.0, 0.7], input="prompts.jsonl")``.

    A list of values for an option whose own value is no list or table is swept; ``over`` has the others, and keys of
    tables: ``over={"engine.max_num_seqs": [64, 256]}``. The jobs are in a folder ``name`` (default: sweep-DATE-TIME).

    There is a job for each combination. Where they differ in sampling alone, one job runs every row with each, and the
    engine loads once; ``one_job`` False never does that, True refuses what cannot, and says why.

    All are checked first: raises RefusedError, which says of which point, before anything is created. If the scheduler
    refuses one, those before it stay submitted, and SubmitError says so.
    """
    points = grid.grid(model, options, over or {})
    job_dir, profile = options.get("job_dir"), options.get("profile")
    default = default_job_dir(profile if isinstance(profile, str) else None)  # it may be swept
    parent = as_path(default if job_dir is None else os.fspath(job_dir), "job_dir")
    name = name or f"sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    check_job_name(name, "name")
    folder = parent / name
    if folder.exists():
        raise RequestError(f"{str(folder)!r} already exists: choose another name (nothing was changed)")
    with _held({"model": model, **options, "job_dir": str(folder)}, over or {}) as common:
        together = None if one_job is False else _together(name, points, common, bool(one_job))
        if together is not None:
            return _submit(folder, points, [together])
        ready = [_prepare(name, number, point, common) for number, point in enumerate(points, start=1)]
    return _submit(folder, points, ready)


@contextmanager
def _held(common: dict[str, Any], over: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options with an input that can be read again for each point: what is there once is kept."""
    given = common.get("input")
    if not hasattr(given, "__next__"):
        yield common
        return
    swept = {name: None for name in sweep_rows.OF_READING if name in over}  # all columns may be needed
    with rows_in({**common, **swept}) as named:
        yield {**common, "input": named["input"]}


def _together(name: str, points: list[grid.Parameters], common: dict[str, Any], is_asked: bool) -> Prepared | None:
    """One job for all points; None if there has to be one for each, which RequestError says if one ``is_asked``."""
    why = sweep_rows.why_not(points)
    try:
        if not why:
            return _prepare_together(name, points, common, is_asked)
    except sweep_rows.ApartError as error:
        why = str(error)
    if is_asked:
        raise RequestError(f"one_job=True is not possible: {why}; {_NOTHING}")
    return None


def _prepare_together(name: str, points: list[grid.Parameters], common: dict[str, Any], is_asked: bool) -> Prepared:
    base = grid.options_of(sweep_rows.fixed_of(points), common)
    with rows_in(base) as named:
        sampling = []
        for number, point in enumerate(points, start=1):
            with _saying(number, point):
                given = _given(grid.options_of(point, named))
            if why := sweep_rows.why_not_of(given):
                raise sweep_rows.ApartError(why)
            sampling.append(sweep_rows.sampling_of(point, given.request))
        try:
            kept = sweep_rows.keep(given.request, points, sampling, is_asked)
            gone = {*sweep_rows.OF_READING, *(key for key in sweep_rows.SAMPLING if key in points[0])}
            rest = {key: value for key, value in base.items() if key not in {*gone, "model"}}
            options = taken({**rest, "name": f"{name}-all", "input": kept.text})
            return submission.prepare(plain_model(base["model"]), **options)
        except VllmHpcError as error:
            error.args = (f"{error}; {_NOTHING}",)
            raise


def _given(options: dict[str, Any]) -> Given:
    """What the options of a point ask for. Raises RefusedError."""
    model = plain_model(options.pop("model"))
    return read_given(model, taken(options))[0]


@contextmanager
def _saying(number: int, point: grid.Parameters) -> Iterator[None]:
    """Name the point in an error."""
    try:
        yield
    except VllmHpcError as error:
        error.args = (f"point {number} ({grid.label(point)}): {error}; {_NOTHING}",)
        raise


def _prepare(sweep: str, number: int, point: grid.Parameters, common: dict[str, Any]) -> Prepared:
    """One job, checked and rendered. Raises RefusedError, which names the point."""
    with _saying(number, point):
        options = grid.options_of(point, {**common, "name": grid.job_name(sweep, number, point)})
        model = plain_model(options.pop("model"))
        prepared = submission.prepare(model, **taken(options))
        if submission.runs_samples(prepared) and not options.get("sample"):
            raise RequestError(f"input= is missing: {SAMPLES}, which sample=True asks for")
    return prepared


def _submit(folder: Path, points: list[grid.Parameters], ready: list[Prepared]) -> Sweep:
    """Submit the jobs, one for each point or one for all. Raises SubmitError."""
    plain = sweep_rows.plain(points)
    names = [str(one.request.name) for one in ready] * (len(points) // len(ready))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(folder)
        rows = tuple(SweepPoint(point, job) for point, job in zip(plain, names, strict=True))
        write_json(folder / RECORD, SweepRecord(rows, time.time()))
    except OSError as error:
        raise RequestError(f"cannot make {str(folder)!r}: {error.strerror}: choose another job_dir") from None
    jobs: list[Job] = []
    for point, prepared in zip(plain, ready, strict=False):
        try:
            jobs.append(prepared.submit())
        except VllmHpcError as error:
            if not jobs and not any(one.is_dir() for one in folder.iterdir()):
                (folder / RECORD).unlink()
                folder.rmdir()
            kept = f"; {_before(len(jobs), folder)}" if jobs else ""
            what = f"point {len(jobs) + 1} ({grid.label(point)})" if len(ready) == len(points) else "the job"
            error.args = (f"{what} was not submitted: {error}{kept}",)
            raise
    if len(jobs) < len(points):
        jobs *= len(points)
    return Sweep(map(Point, plain, jobs))


def _before(number: int, folder: Path) -> str:
    return f"{counted(number, 'job')} before it stay submitted: Sweep.find({str(folder)!r})"
