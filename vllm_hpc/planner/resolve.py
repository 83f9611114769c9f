"""From a request to a ResolvedJob: finds profile, model, scheduler, launcher and device, each once."""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.device import find_device
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.schedulers.launchers import choose_launcher, is_native
from vllm_hpc.schedulers.scheduler import find_scheduler, get_scheduler
from vllm_hpc.spec.job_definition import Given, read_options, with_default_profile
from vllm_hpc.spec.profile import Profile, load_profile
from vllm_hpc.spec.resolved_job import FilledRequest, ResolvedJob, fill
from vllm_hpc.spec.vllm_arguments import typed


def resolve_options(model: str | None, options: dict[str, Any]) -> tuple[ResolvedJob, str | None]:
    """The job that MODEL and options describe, and its job.toml if there is one. Raises RefusedError."""
    given = with_default_profile(read_options({"model": model, **options}))
    return resolve_at(given, load_profile(given.request.profile)), given.definition


def resolve_at(given: Given, site: Profile) -> ResolvedJob:
    """The job at a site. If no scheduler was given, one is detected by its commands. Raises RefusedError."""
    model = find_model(given.request.model, given.request.rehearse, given.request.engine)
    typed("sampling", given.request.sampling)
    typed("engine", given.request.engine)
    filled = fill(given, site)
    name, reason = _choose_scheduler(filled)
    scheduler = get_scheduler(name)
    return ResolvedJob(
        request=filled.request,
        site=site,
        origins=filled.origins,
        from_profile=filled.from_profile,
        scheduler=name,
        scheduler_reason=reason,
        runs_here=scheduler.runs_here,
        launcher=choose_launcher(filled, scheduler),
        is_native=is_native(filled),
        device=find_device(filled, scheduler.runs_here),
        model=model,
    )


def _choose_scheduler(filled: FilledRequest) -> tuple[str, str]:
    if filled.request.scheduler != "auto":
        return filled.request.scheduler, "requested"
    if filled.site.scheduler:
        return filled.site.scheduler, f"from profile {filled.request.profile!r}"
    return find_scheduler()
