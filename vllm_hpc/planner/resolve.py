"""From a request to a ResolvedJob: finds profile, model, scheduler, launcher and device, each once."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import msgspec

from vllm_hpc.jobfolder.missing_rows import with_job
from vllm_hpc.planner import program_plan
from vllm_hpc.planner.device import find_device, gpus_here
from vllm_hpc.planner.lanes import asked_of
from vllm_hpc.schedulers.containers.choose import check_runs_here, choose_container, choose_image
from vllm_hpc.schedulers.launchers import NATIVE, choose_launcher, is_native
from vllm_hpc.schedulers.scheduler import find_scheduler, get_scheduler
from vllm_hpc.spec.chat_template import read_chat_template
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.errors import LayoutError, ProfileError, RequestError
from vllm_hpc.spec.expand import expand, expand_table
from vllm_hpc.spec.job_definition import Given, read_options, with_default_profile
from vllm_hpc.spec.passed_variables import check_set
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.profile_files import Layer
from vllm_hpc.spec.profile_layers import FoundProfile, find_profile
from vllm_hpc.spec.program import FoundProgram
from vllm_hpc.spec.registry import LAUNCHERS
from vllm_hpc.spec.resolved_job import FilledRequest, ResolvedJob, fill
from vllm_hpc.spec.solve_layout import solve
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.vllm_arguments import typed

# What a job is planned for that needs a cluster, on a machine that has no scheduler.
_ELSEWHERE = "slurm"
NO_PROFILE = FoundProfile()


def read_given(model: str | None, options: dict[str, Any]) -> tuple[Given, FoundProfile]:
    """What MODEL and options ask for, with their profile, of which variables are expanded. Raises RefusedError."""
    pickled = _pickled(options.get("program"))
    if pickled is not None:
        options = {**options, "program": pickled.program.source}
    model, options, origins = with_job(model, options)
    given = read_options({"model": model, **options})
    given = with_default_profile(msgspec.structs.replace(given, origins=given.origins | origins))
    found = find_site(given.request.profile, given.origins)
    program = pickled or program_plan.find_code(given.request, found.profile)
    return msgspec.structs.replace(given, program=program), found


def _pickled(program: object) -> FoundProgram | None:
    """A program that is an object, from Python; None for one that is named. Raises RequestError."""
    if program is None or isinstance(program, str | os.PathLike):
        return None
    from vllm_hpc.spec.programs.pickled import find_object

    return find_object(program)


def find_site(name: str | None, given: Collection[str] = ()) -> FoundProfile:
    """The profile of that name, with variables expanded but for keys that are ``given``. Raises ProfileError."""
    found = find_profile(name)
    try:
        profile = expand_table(found.profile, os.environ, f"profile {name!r}", given)
        dirs = tuple(_template_dir(name, layer) for layer in reversed(found.layers) if layer.table.get("template_dir"))
    except RequestError as error:
        raise ProfileError(str(error)) from None
    profile = msgspec.structs.replace(profile, template_dir=dirs[0] if dirs else None)
    return found._replace(profile=profile, template_dirs=tuple(dict.fromkeys(dirs)))


def _template_dir(name: str | None, layer: Layer) -> str:
    """A layer's folder of templates, beside its file, with variables expanded. Raises RequestError."""
    given = expand(layer.table["template_dir"], os.environ, f"profile {name!r}: 'template_dir'")
    folder = layer.file.parent / as_path(given, "template_dir")
    if not folder.is_dir():
        raise RequestError(f"{layer.place('template_dir')}: 'template_dir': no such folder: {str(folder)!r}: make it")
    return str(folder)


def resolve_at(given: Given, site: Profile, found: FoundProfile = NO_PROFILE) -> ResolvedJob:
    """The job at a site: its profile ``found``, for one of its queues. Raises RefusedError.

    If no scheduler was given, one is detected by its commands.
    """
    model = program_plan.model_of(given)
    typed("sampling", given.request.sampling)
    typed("engine", given.request.engine)
    template = given.request.chat_template
    filled = program_plan.settled(_with_secrets(fill(given, site)), given.program)
    check_set(filled.request.pass_env, site.secrets)
    name, reason = _choose_scheduler(filled)
    not_here = None
    if not filled.is_named_scheduler and get_scheduler(name).runs_here and _needs_cluster(filled, name):
        not_here = f"the scheduler is {name} ({reason}), which has one node, no arrays and no launchers"
        reason = f"no scheduler on this machine ({reason}): planned for Slurm; --scheduler pbs for PBS"
        name = _ELSEWHERE
    scheduler = get_scheduler(name)
    is_inherited = scheduler.passes_environment and (scheduler.runs_here or site.export_environment)
    launcher = choose_launcher(filled, scheduler)
    job = ResolvedJob(
        request=filled.request,
        site=msgspec.structs.replace(site, container=_container(filled, name, launcher)),
        origins=filled.origins,
        from_profile=filled.from_profile,
        scheduler=name,
        scheduler_reason=reason,
        runs_here=scheduler.runs_here,
        not_here=not_here,
        launcher=launcher,
        is_native=is_native(filled) and filled.request.script is None,
        device=find_device(filled, scheduler.runs_here),
        model=model,
        chat_template=None if template is None else read_chat_template(template),
        passes_by_file=bool(filled.request.pass_env) and not is_inherited,
        source=found.where(filled.request.profile),
        news=found.news,
        template_dirs=_template_dirs(filled, found),
        profile_files=tuple(dict.fromkeys(str(layer.file) for layer in found.layers)),
        distrust=given.distrust,
        site_env=filled.site_env,
        program=given.program,
    )
    program_plan.check_ranks_run_it(job)
    return job


def _container(filled: FilledRequest, scheduler: str, launcher: str) -> Container | None:
    """The image of the ranks, which that scheduler and launcher can run; None without one. Raises RequestError."""
    if get_scheduler(scheduler).describe_pods is not None:
        return choose_image(filled.request.container, filled.site.container, scheduler)
    container = choose_container(filled.request.container, filled.site.container)
    if container is not None:
        check_runs_here(container, scheduler, launcher, launcher in LAUNCHERS.built_in)
    return container


def _template_dirs(filled: FilledRequest, found: FoundProfile) -> tuple[str, ...]:
    """Folders searched for templates: that of an option or job.toml, then the profile's, its highest layer first."""
    folder = filled.request.template_dir
    own = [] if folder is None or "template_dir" in filled.from_profile else [folder]
    return tuple(dict.fromkeys([*own, *found.template_dirs]))


def _with_secrets(filled: FilledRequest) -> FilledRequest:
    """The request with the profile's secrets among the variables that it takes by name.

    Raises RequestError if one has a value in --env or job.toml, which the script would show.
    """
    secrets, request = filled.site.secrets, filled.request
    if not secrets:
        return filled
    for name in secrets:
        if name in request.env:
            raise RequestError(
                f"--env {name} has a value, but the profile's secrets name it: export it, and leave the value out"
            )
    new = [name for name in secrets if name not in request.pass_env]
    origins = filled.origins | {f"pass_env.{name}": f"profile {request.profile!r}" for name in new}
    request = msgspec.structs.replace(request, pass_env=[*request.pass_env, *new])
    return msgspec.structs.replace(filled, request=request, origins=origins)


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
        asked = asked_of(request)
        capacity = request.gpus_per_node or filled.site.gpus_per_node or gpus_here()
        solved = solve(asked, capacity) if request.script is None else program_plan.layout_of_script(request, capacity)
        return solved[0].nodes > 1
    except LayoutError:
        return False  # planning says what is wrong with it
