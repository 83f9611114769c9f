"""From options to a job in one of its profile's queues: the one asked for, or the first that takes it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner.make_plan import make_plan
from vllm_hpc.planner.program_plan import intake_for
from vllm_hpc.planner.resolve import read_given, resolve_at
from vllm_hpc.rows.given_input import rows_in
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.keys import keys_of
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.profile_layers import FoundProfile
from vllm_hpc.spec.queues import in_queue, limits, misfit, queues_called
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import ResolvedJob


class _Tried(NamedTuple):
    """A job in a queue. ``why`` says why the queue does not take it, ``option`` what would have to be another.

    ``is_memory``: only the model does not fit.
    """

    queue: str
    job: ResolvedJob | None
    why: str | None = None
    option: str | None = None
    is_memory: bool = False


def plan_only(model: str | None = None, **options: object) -> Plan:
    """The plan of a job, without rendering or writing anything. Raises RefusedError."""
    return plan_with_job(model, options)[1]


def plan_with_job(model: str | None, options: dict[str, Any]) -> tuple[ResolvedJob, Plan]:
    """The same, with the job that is planned. Raises RefusedError."""
    with rows_in(options) as named:
        job, _ = resolve_options(model, named)
        return job, make_plan(job, whole_input=False)


def resolve_options(model: str | None, options: dict[str, Any]) -> tuple[ResolvedJob, bytes | None]:
    """The job that MODEL and options describe, and its job.toml if there is one. Raises RefusedError."""
    given, found = read_given(model, options)
    job = resolve_at(given, found.profile, found)
    if found.profile.queues and not job.runs_here:
        job = _choose(given, found, job)
    check_required(job)
    return job, given.definition


def in_fitting_queue(given: Given, found: FoundProfile, layout: Layout) -> ResolvedJob:
    """The job of a layout that is settled, in the queue asked for or the first that takes it. Raises RefusedError."""
    job = resolve_at(given, found.profile, found)
    names, _ = _candidates(given, found, job)
    reasons = []
    for name in names:
        one = _resolve_in(given, found, name)
        why = misfit(found.profile.queues[name], layout, one.request.time, (given.request.gpu, one.site.gpu))
        if why is None:
            return msgspec.structs.replace(one, queue=name)
        reasons.append(f"queue {name} {why.why}")
    if reasons:
        raise LayoutError("; ".join(reasons) + ": use another --queue or --time, or submit a new job")
    return job


def _candidates(given: Given, found: FoundProfile, job: ResolvedJob) -> tuple[list[str], list[str]]:
    """The queues to try, in order, and those that are left out unless they are asked for."""
    site, partition = found.profile, job.request.partition
    named = queues_called(site, partition) if partition else []
    others = [name for name in site.queues if name not in named]
    if given.request.partition:
        return named, others
    by_request = [name for name in others if site.queues[name].by_request]
    return [*named, *(name for name in others if name not in by_request)], by_request


def _choose(given: Given, found: FoundProfile, job: ResolvedJob) -> ResolvedJob:
    """The job in the queue asked for, or in the first that takes it. Raises RefusedError."""
    site, asked = found.profile, given.request.partition
    first, others = _candidates(given, found, job)
    if asked and not first:
        near = get_close_matches(asked, site.queues, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        note = f"queue {asked!r} has no table in the profile{hint}: no limits are checked, no values are taken from it"
        return msgspec.structs.replace(job, queue_reason=note)
    intake, tried = intake_for(job), []
    for name in first:
        one = _try(given, found, name, intake)
        if one.why is None and one.job is not None:
            return _chosen(one, site, asked)
        tried.append(one)
    if fallback := next((one for one in tried if one.is_memory), None):
        return _chosen(fallback, site, asked)  # the plan says what does not fit, and what would
    raise LayoutError(_refusal(given, found, tried, others, intake))


def _try(given: Given, found: FoundProfile, name: str, intake: Intake) -> _Tried:
    """The job in that queue, or why it does not take it. Raises RefusedError for what no queue would take."""
    try:
        job = _resolve_in(given, found, name)
        plan = make_plan(job, whole_input=False, intake=intake)
    except (LayoutError, RequestError) as error:  # of this queue's values, or of what was asked: the others say so too
        return _Tried(name, None, str(error))
    why = misfit(found.profile.queues[name], plan.layout, job.request.time, (given.request.gpu, job.site.gpu))
    if why is not None:
        return _Tried(name, job, *why)
    if plan.fits is False:
        return _Tried(name, job, plan.misfit, is_memory=True)
    return _Tried(name, job)


def _resolve_in(given: Given, found: FoundProfile, name: str) -> ResolvedJob:
    """The job with the values of that queue. Raises RefusedError."""
    site = in_queue(found.profile, name)
    partition = site.partition if given.request.partition else None
    request = msgspec.structs.replace(given.request, partition=partition)
    return resolve_at(msgspec.structs.replace(given, request=request), site, found)


def _chosen(tried: _Tried, site: Profile, asked: str | None) -> ResolvedJob:
    assert tried.job is not None
    why = "" if asked else ", the first that takes the job" if len(site.queues) > 1 else ""
    said = f"queue {tried.queue} ({limits(site.queues[tried.queue])}){why}"
    return msgspec.structs.replace(tried.job, queue=tried.queue, queue_reason=said)


def _refusal(given: Given, found: FoundProfile, tried: list[_Tried], others: list[str], intake: Intake) -> str:
    """Why no queue takes the job, and which of the ``others`` would."""
    reasons = list(dict.fromkeys(one.why for one in tried))
    said = "; ".join(f"queue {one.queue}{'' if one.option else ':'} {one.why}" for one in tried)
    nearest = next((one for name in others if (one := _try(given, found, name, intake)).why is None), None)
    if len(reasons) == 1 and tried[0].job is None:
        if nearest is None:
            return str(reasons[0])  # the layout itself is impossible, whatever the queue
        said = str(reasons[0])
    if nearest is not None:
        return f"{said}: use --queue {nearest.queue} ({limits(found.profile.queues[nearest.queue])})"
    options = " or ".join(dict.fromkeys(one.option for one in tried if one.option)) or "the layout"
    return f"no queue of profile {given.request.profile!r} takes the job: {said}: change {options}"


def check_required(job: ResolvedJob) -> None:
    """Refuse a job without what its profile requires. Raises RequestError."""
    missing = [name for name in job.site.required if _is_missing(job, name)]
    if not missing:
        return
    table = f'"{job.request.profile}"' if "/" in str(job.request.profile) else job.request.profile
    options = [f"--{name.replace('_', '-')}" for name in missing if name in Request.__struct_fields__]
    give = f"give {' and '.join(options)}, or " if len(options) == len(missing) else ""
    names = " and ".join(missing)
    raise RequestError(
        f"profile {job.request.profile!r} needs {names}: {give}write {names} in [profiles.{table}] of "
        "~/.config/vllm-hpc/config.toml"
    )


def _is_missing(job: ResolvedJob, name: str) -> bool:
    schedulers = keys_of(Profile)[name].schedulers
    value = getattr(job.request, name, None) or getattr(job.site, name)
    return not value and (not schedulers or job.scheduler in schedulers)
