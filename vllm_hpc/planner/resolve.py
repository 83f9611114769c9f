"""From a request to a ResolvedJob: finds profile, model, scheduler, launcher and device, each once."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.jobfolder.missing_rows import with_job
from vllm_hpc.planner.device import find_device, gpus_here
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.schedulers.containers.choose import check_runs_here, choose_container
from vllm_hpc.schedulers.launchers import NATIVE, choose_launcher, is_native
from vllm_hpc.schedulers.scheduler import Scheduler, find_scheduler, get_scheduler
from vllm_hpc.spec.chat_template import read_chat_template
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.job_definition import Given, read_options, with_default_profile
from vllm_hpc.spec.layout import Asked, solve
from vllm_hpc.spec.passed_variables import check_set, describe_written, with_values
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.profile_files import find_profile
from vllm_hpc.spec.registry import LAUNCHERS
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import FilledRequest, ResolvedJob, fill
from vllm_hpc.spec.vllm_arguments import typed

# What a job is planned for that needs a cluster, on a machine that has no scheduler.
_ELSEWHERE = "slurm"


def resolve_options(model: str | None, options: dict[str, Any]) -> tuple[ResolvedJob, bytes | None]:
    """The job that MODEL and options describe, and its job.toml if there is one. Raises RefusedError."""
    model, options, origins = with_job(model, options)
    given = read_options({"model": model, **options})
    given = with_default_profile(msgspec.structs.replace(given, origins=given.origins | origins))
    found = find_profile(given.request.profile)
    job = resolve_at(given, found.profile)
    source = found.where(given.request.profile)
    return msgspec.structs.replace(job, source=source, distrust=given.distrust), given.definition


def resolve_at(given: Given, site: Profile) -> ResolvedJob:
    """The job at a site. If no scheduler was given, one is detected by its commands. Raises RefusedError."""
    model = find_model(given.request.model, given.request.rehearse, given.request.engine)
    typed("sampling", given.request.sampling)
    typed("engine", given.request.engine)
    template = given.request.chat_template
    filled = fill(given, site)
    name, reason = _choose_scheduler(filled)
    not_here = None
    if not filled.is_named_scheduler and get_scheduler(name).runs_here and _needs_cluster(filled, name):
        not_here = f"the scheduler is {name} ({reason}), which has one node, no arrays and no launchers"
        reason = f"no scheduler on this machine ({reason}): planned for Slurm; --scheduler pbs for PBS"
        name = _ELSEWHERE
    scheduler = get_scheduler(name)
    request, written = _with_variables(filled, scheduler)
    launcher = choose_launcher(filled, scheduler)
    container = choose_container(request.container, site.container)
    if container is not None:
        check_runs_here(container, name, launcher, launcher in LAUNCHERS.built_in)
    return ResolvedJob(
        request=request,
        site=msgspec.structs.replace(site, container=container),
        origins=filled.origins,
        from_profile=filled.from_profile,
        scheduler=name,
        scheduler_reason=reason,
        runs_here=scheduler.runs_here,
        not_here=not_here,
        launcher=launcher,
        is_native=is_native(filled),
        device=find_device(filled, scheduler.runs_here),
        model=model,
        chat_template=None if template is None else read_chat_template(template),
        written=written,
    )


def _with_variables(filled: FilledRequest, scheduler: Scheduler) -> tuple[Request, str | None]:
    """The request with the variables of --env NAME as the job can have them, and what to tell of that.

    Raises RequestError.
    """
    names = filled.request.pass_env
    check_set(names)
    if scheduler.passes_environment and (scheduler.runs_here or filled.site.export_environment):
        return filled.request, None
    whose = "the profile" if scheduler.passes_environment else scheduler.name
    return with_values(filled.request, whose), describe_written(names, whose)


def check_is_here(job: ResolvedJob) -> None:
    """Refuse to submit what was planned for a scheduler that this machine does not have. Raises RequestError."""
    if job.not_here:
        raise RequestError(f"{job.not_here}, but this job needs them: use --nodes 1, or --scheduler slurm or pbs")


def _choose_scheduler(filled: FilledRequest) -> tuple[str, str]:
    if filled.request.scheduler != "auto":
        return filled.request.scheduler, "requested"
    if filled.site.scheduler:
        return filled.site.scheduler, f"from profile {filled.request.profile!r}"
    return find_scheduler()


def _needs_cluster(filled: FilledRequest, here: str) -> bool:
    """Whether what was asked for cannot run on this machine: several nodes, an array, a cluster's launcher."""
    request = filled.request
    launchers = (None, NATIVE, *get_scheduler(here).launchers)
    if (request.nodes or 1) > 1 or request.array or request.launcher not in launchers:
        return True
    try:
        asked = Asked(request.nodes, request.gpus_per_node, request.tp, request.pp, request.dp)
        return solve(asked, request.gpus_per_node or filled.site.gpus_per_node or gpus_here())[0].nodes > 1
    except LayoutError:
        return False  # planning says what is wrong with it
