"""submit, plan, render, prepare, find_job, list_jobs: what ``vllm_hpc`` has as functions.

Each takes what people have in Python (api/values.py), warns of what the command line prints as notes, and raises errors
in Python's words (api/errors.py).
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import msgspec

from vllm_hpc.api.errors import in_python, python_words
from vllm_hpc.api.options import Options
from vllm_hpc.api.signatures import documented
from vllm_hpc.api.values import plain_model, plain_options
from vllm_hpc.jobs import find, submission_notes
from vllm_hpc.jobs import submit as submission
from vllm_hpc.jobs.doubt import left_to_user
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.submit import Prepared
from vllm_hpc.planner.make_plan import unused_options
from vllm_hpc.planner.queues import plan_with_job
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.other_names import instead_of
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.script import Script

SAMPLES = "without input= it runs two sample prompts"


@in_python
@documented
def submit(model: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Job:
    """Submit a job: ``submit("demo", input="prompts.jsonl", max_tokens=64)``.

    ``model`` is a model's folder, a Hub id, 'demo', or a folder with a job.toml. What the command line prints as notes
    is a UserWarning each. Raises RefusedError before anything is created, also without an input, unless sample=True or
    it is a rehearsal; SubmitError if the scheduler refuses.
    """
    prepared = _prepare(model, options)
    if submission.runs_samples(prepared) and not options.get("sample"):
        raise RequestError(f"input= is missing: {SAMPLES}, which sample=True asks for")
    _warn(prepared.notes)
    job = prepared.submit()
    _warn(filter(None, [left_to_user(job.folder)]))
    return job


@in_python
@documented
def prepare(model: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Prepared:
    """Check, plan and render a job without writing anything: ``.plan``, ``.script``, and ``.submit()``, to send it.

    Its ``.notes`` are a UserWarning each. Raises RefusedError.
    """
    prepared = _prepare(model, options)
    samples = [SAMPLES] if submission.runs_samples(prepared) and not options.get("sample") else []
    _warn([*samples, *prepared.notes])
    notes = tuple(map(python_words, prepared.notes))
    return msgspec.structs.replace(prepared, plan=_in_words(prepared.plan), notes=notes)


@in_python
@documented
def plan(model: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Plan:
    """The layout, its reasons, memory and cost, also of a job that does not fit (``.fits``); nothing is written.

    Raises RefusedError.
    """
    job, found = plan_with_job(plain_model(model), taken(options))
    _warn([*submission_notes.first_notes(job, found), *unused_options(job)])
    return _in_words(found)


@in_python
@documented
def render(model: str | os.PathLike[str] | None = None, **options: Unpack[Options]) -> Script:
    """The script that ``submit`` would send: ``str(...)`` is its text. Nothing is written. Raises RefusedError."""
    prepared = _prepare(model, options)
    _warn(prepared.notes)
    return Script(prepared.script, get_scheduler(prepared.scheduler).script)


@in_python
def find_job(job: str | int | os.PathLike[str], job_dir: str | os.PathLike[str] | None = None) -> Job:
    """Find a job by its folder, its name under ``job_dir``, or its job id. Raises JobNotFoundError.

    ``job_dir`` None is the job_dir of $VLLM_HPC_PROFILE's profile, else ./runs.
    """
    return find.find_job(job, None if job_dir is None else os.fspath(job_dir))


@in_python
def list_jobs(job_dir: str | os.PathLike[str] | None = None) -> list[Job]:
    """All jobs under ``job_dir`` that can be read, oldest first. Raises RequestError if the folder cannot be."""
    return find.list_jobs(None if job_dir is None else os.fspath(job_dir))


def _prepare(model: object, options: Mapping[str, Any]) -> Prepared:
    plain = taken(options)
    prepared = submission.prepare(plain_model(model), **plain)
    if options.get("sample") and not prepared.intake.is_sample:
        raise RequestError("sample=True is for a job without input=: leave it out")
    return prepared


def taken(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the rooms below know, as plain values. Raises RequestError."""
    for name in options:
        if name not in Options.__annotations__:
            raise RequestError(f"{name}= is not an option{_near(name)}")
    return plain_options({name: value for name, value in options.items() if name != "sample"})


def _in_words(found: Plan) -> Plan:
    """The plan with all that it says in Python's words."""
    said = {name: python_words(text) for name in ("misfit", "missing", "unready") if (text := getattr(found, name))}
    lists = {name: tuple(map(python_words, getattr(found, name))) for name in ("reasons", "runners_up")}
    return msgspec.structs.replace(found, **said, **lists)


def _near(name: str) -> str:
    """What to use instead, as the end of a sentence; empty if nothing is near."""
    if known := instead_of(name):
        return ": " + re.sub(r"'(\w+)'", r"\1=", known).replace(f"as {name}=...", f"as {{{name!r}: ...}}")
    near = difflib.get_close_matches(name, Options.__annotations__, n=1)
    return f": did you mean {near[0]}=?" if near else ""


def _warn(notes: Iterable[str]) -> None:
    """A UserWarning for each note, at the line of whoever called the public function."""
    for note in dict.fromkeys(notes):
        warnings.warn(python_words(note), stacklevel=4)
