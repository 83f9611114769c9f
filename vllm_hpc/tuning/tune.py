"""`vllm-hpc tune`: finds the fastest layout and settings for a model with short jobs, one after another.

Each trial is an ordinary job with its own folder; ``vllm_hpc.tuning.sweep`` decides which settings are tried,
``vllm_hpc.tuning.trials`` runs them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.status import Status
from vllm_hpc.planner.lanes import has_lanes
from vllm_hpc.planner.make_plan import check_fits, find_speculations, find_subject, make_plan
from vllm_hpc.planner.queues import resolve_options
from vllm_hpc.planner.resolve import check_is_here
from vllm_hpc.planner.speculation import SUFFIX
from vllm_hpc.planner.tuned import Setting, Subject, Trial, TuneFinding, without_layout
from vllm_hpc.rows.given_input import rows_in
from vllm_hpc.schedulers.submitit_executor import check_installed, check_torch
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.errors import RefusedError, RequestError
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.rehearsal import NO_MODEL
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.tuning.answers import Answers
from vllm_hpc.tuning.sweep import DEFAULT_SWEEP, DEFAULTS, SWEEPS, Change, search, warmed
from vllm_hpc.tuning.trials import AlikeRows, Bench, RandomRows, output_tokens

# A finding takes a few kilobytes.
_FINDING_BYTES = 65_536


class Tuned(msgspec.Struct, frozen=True):
    """The finding, and the file from which the planner reads it; None for a rehearsal, which saves nothing."""

    finding: TuneFinding
    file: Path | None


def tune(
    model: str | None = None,
    *,
    sweep: tuple[str, ...] = DEFAULT_SWEEP,
    rows: int | None = None,
    prompt_tokens: int | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
    begin: Callable[[Setting, Path], None] = lambda setting, folder: None,
    look: Callable[[Status], None] = lambda status: None,
    **options: Any,
) -> Tuned:
    """Find the fastest setting for a model on the nodes that ``options`` request, and save it for the planner.

    ``options`` are those of ``submit``. Without an input, each trial runs ``rows`` rows of ``prompt_tokens`` (256)
    random tokens in and max_tokens (128) out. ``begin`` is called when each job is submitted, ``look`` with each status
    of it, ``tell`` after each trial, and after runs that do not count. An exception or interrupt cancels the current
    trial. Raises RefusedError before anything was created, JobFailedError if not even the planner's own choice runs.
    """
    with rows_in(options) as named:
        job = resolve_options(model, named)[0]
        return _tune(job, sweep, RandomRows(rows, prompt_tokens), _Listeners(tell, begin, look))


class _Listeners(NamedTuple):
    """Who is told of trials, as ``tune`` describes them."""

    tell: Callable[[Trial], None]
    begin: Callable[[Setting, Path], None]
    look: Callable[[Status], None]


def _tune(job: ResolvedJob, sweep: tuple[str, ...], alike: RandomRows, listeners: _Listeners) -> Tuned:
    check_installed()
    check_is_here(job)
    request = job.request
    _check(request, sweep, alike)
    if request.rehearse:
        check_torch()
    plan = _plan(job, alike)
    check_fits(plan)
    subject = _subject(job, plan)
    start, own = _start(plan), _own(job, plan, alike)
    bench = Bench(job, subject, start, alike, listeners.begin, listeners.look)
    trials: list[Trial] = []
    run = bench.run if subject.device == "cpu" else warmed(bench.run, listeners.tell)
    measure = _keeping(run, Answers(bench), trials, listeners.tell)
    best = search(start, sweep, measure, bench.layouts, bench.row_count, _changes(job, sweep))
    given = request.engine  # given arguments are not findings: later jobs give their own
    found = [msgspec.structs.replace(trial, setting=trial.setting.without(given)) for trial in trials]
    finding = TuneFinding(
        model=subject.model, device=subject.device, best=best.without(given), trials=tuple(found), made_at=time.time(),
        layout=own,
    )  # fmt: skip
    if request.rehearse:
        return Tuned(finding, None)
    write_json(subject.file, finding)
    return Tuned(finding, subject.file)


def _subject(job: ResolvedJob, plan: Plan) -> Subject:
    """What the finding will be about, and its file. Raises RequestError where it could not be used, or not saved."""
    subject, request = find_subject(job, plan), job.request
    if subject is None:
        unknown = ("nothing is known", "memory is not checked")
        why = next((reason for reason in plan.reasons if reason.startswith(unknown)), "")
        raise RequestError(
            f"{request.model} cannot be tuned, since the planner could not use the result: "
            f"{why or 'nothing is known about it'}; give submit a layout and --engine yourself"
        )
    if not request.rehearse:
        _check_place(subject)
    return subject


def _keeping(
    run: Callable[[Setting], Trial], answers: Answers, trials: list[Trial], tell: Callable[[Trial], None]
) -> Callable[[Setting], Trial]:
    """The same, with each trial's answers compared, and the trial kept and told."""

    def measure(setting: Setting) -> Trial:
        trial = answers.compared(run(setting))
        trials.append(trial)
        tell(trial)
        return trial

    return measure


def _plan(job: ResolvedJob, alike: RandomRows) -> Plan:
    """The planner's choice for the input, or for random rows. Raises RefusedError."""
    if job.request.input is not None:
        return make_plan(job, use_tuned=False)
    asked = job.asking(max_tokens=output_tokens(job.request))
    return make_plan(asked, intake=AlikeRows(alike), use_tuned=False)


def _own(job: ResolvedJob, plan: Plan, alike: RandomRows) -> Setting | None:
    """The planner's own layout for the same rows and ranks if a layout was given, else None."""
    if (job.request.tp, job.request.pp, job.request.dp) == (None, None, None):
        return None
    open_job = msgspec.structs.replace(job, request=without_layout(job.request, plan.layout))
    with suppress(RefusedError):
        return Setting.of(_plan(open_job, alike).layout)
    return None


def _check_place(subject: Subject) -> None:
    """Refuse to measure if the finding cannot be saved. Raises RequestError."""
    try:
        folder = subject.file.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # not empty: a full disk accepts an empty file
            file.write(bytes(_FINDING_BYTES))
    except OSError as error:
        raise RequestError(f"a finding cannot be saved ({error}): set XDG_CACHE_HOME to a writable folder") from None


def _start(plan: Plan) -> Setting:
    layout = plan.layout
    engine = {name: plan.engine[name] for name in DEFAULTS if plan.engine.get(name) is not None}
    engine |= {name: int(engine[name]) for name in DEFAULTS if name in engine}  # may have been given as strings
    return Setting(tp=layout.tp, pp=layout.pp, dp=layout.dp, engine=engine)


def _changes(job: ResolvedJob, sweep: tuple[str, ...]) -> list[Change]:
    """What is tried although it changes answers, in the order of SWEEPS."""
    engines: dict[str, list[dict[str, Any]]] = {
        "quantization": [{"quantization": "fp8"}],
        "kv_cache_dtype": [{"kv_cache_dtype": "fp8"}],
        "speculation": [one.engine for one in find_speculations(job) if one != SUFFIX or _has_suffix()],
    }
    allowed = job.request.allow
    return [Change(one, name in allowed) for name in CHANGES_ANSWERS if name in sweep for one in engines[name]]


def _has_suffix() -> bool:
    """Whether the ranks may have what suffix speculation needs: without it, a trial only costs a start."""
    return find_spec("arctic_inference") is not None


def _check(request: Request, sweep: tuple[str, ...], alike: RandomRows) -> None:
    """Refuse requests that leave nothing to tune. Raises RequestError."""
    if option := "--script" if request.script is not None else "--program" if request.program is not None else "":
        raise RequestError(f"{option} cannot be tuned: a trial runs rows, and no code of yours; leave it out")
    if request.model == NO_MODEL:
        raise RequestError("tune --rehearse needs a MODEL: it tries the layouts of a model")
    if has_lanes(request):
        raise RequestError("tune tries TP, PP and DP, not --ep or --attention-dp: leave these out")
    if request.input is not None:
        for option, value in (("--rows", alike.number), ("--prompt-tokens", alike.prompt_tokens)):
            if value is not None:
                raise RequestError(f"{option} and --input contradict each other: each trial runs the input's own rows")
    if unknown := [name for name in sweep if name not in SWEEPS]:
        raise RequestError(f"--sweep {unknown[0] or repr('')} is not known: use {', '.join(SWEEPS)}")
    if request.array:
        raise RequestError(
            "--array cannot be tuned: a trial runs its replicas in one job; leave it out, and use what tune finds"
        )
    _check_sweep(request, sweep)


def _check_sweep(request: Request, sweep: tuple[str, ...]) -> None:
    """Refuse what is allowed or given, but not tried. Raises RequestError."""
    if unswept := sorted({*request.allow} - {*sweep}):
        raise RequestError(f"--allow {unswept[0]} is for what is tried: add it to --sweep, or leave it out")
    for name in sweep:
        if (argument := CHANGES_ANSWERS.get(name, name)) in request.engine:
            raise RequestError(f"--engine {argument} and --sweep {name} contradict each other: leave one out")
