"""From a Request to a submitted job: plan, render, submit. Nothing is made before everything was checked."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import submitit

from vllm_hpc import __version__
from vllm_hpc.checks import as_path, check_name, check_path, parse_walltime
from vllm_hpc.errors import RequestError, SubmitError
from vllm_hpc.executor import submit_script
from vllm_hpc.job import Job
from vllm_hpc.jobfolder import JobFolder, JobRecord, Submitted, write_json
from vllm_hpc.models import Model, ensure_model, find_model
from vllm_hpc.plan import Asked, Layout, Plan, solve, solve_array
from vllm_hpc.profiles import Profile, load_profile
from vllm_hpc.render import ScriptContext, render_script
from vllm_hpc.request import JOB_DEFINITION, Request, find_definition, make_request
from vllm_hpc.rows import check_rows, read_rows, write_rows
from vllm_hpc.schedulers import ClientError, ClientTimeoutError, Scheduler, find_scheduler, get_scheduler
from vllm_hpc.vllm_arguments import check_arguments


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was checked, planned and rendered, and not yet made: what ``submit`` sends is exactly this."""

    request: Request
    plan: Plan
    scheduler: str
    model: Model
    folder: str
    script: str
    definition: str | None = None
    notes: tuple[str, ...] = ()

    def submit(self) -> Job:
        """Make the job folder and hand the script to the scheduler.

        Raises SubmitError, and leaves no folder then, but where the scheduler may have taken the script.
        """
        ensure_model(self.model)
        folder = JobFolder(self.folder)
        try:
            folder.create()
        except FileExistsError:
            if self.request.name:
                raise RequestError(_taken(folder)) from None
            # Someone else's job took the generated name since: the next one.
            return _render(self.request, self.definition).submit()
        try:
            _fill(folder, self)
        except BaseException:
            folder.remove()
            raise
        try:
            job_id = submit_script(folder, get_scheduler(self.scheduler), self.plan.layout)
        except ClientTimeoutError as error:
            # It may have been submitted: taking the folder away would break it, submitting again would double it.
            raise SubmitError(
                f"{error} The job may be submitted or not; before you submit again, see 'vllm-hpc status {folder.path}'"
            ) from None
        except ClientError:
            folder.remove()
            raise
        write_json(folder.submitted, Submitted(self.scheduler, job_id, time.time()))
        return Job(folder.path)


def submit(model: str, **options: Any) -> Job:
    """Submit a job: ``submit("demo", input="prompts.jsonl", tp=1)``.

    ``options`` are the long options of ``vllm-hpc submit``, with underscores. Raises RefusedError before anything
    was made, SubmitError if the scheduler refuses.
    """
    return prepare(model, **options).submit()


def prepare(model: str, **options: Any) -> Prepared:
    """Check, plan and render a job without making anything. Raises RefusedError."""
    request = _with_default_profile(make_request({"model": model, **options}))
    definition = find_definition(model)
    prepared = _render(request, str(definition) if definition else None)
    check_rows(request.input)  # last: it may be long
    return prepared


def plan_only(model: str, **options: Any) -> Plan:
    """The plan of a job, with nothing rendered or made. Raises RefusedError."""
    request = _with_default_profile(make_request({"model": model, **options}))
    if request.input is not None:
        check_rows(request.input)
    return make_plan(request)[0]


def make_plan(request: Request) -> tuple[Plan, Scheduler]:
    """The plan of a request, with the scheduler that it is for. Makes nothing. Raises RefusedError."""
    profile = load_profile(request.profile)
    find_model(request.model)
    check_arguments("engine", request.engine)
    check_arguments("sampling", request.sampling)
    name, why = _choose_scheduler(request, profile)
    asked = Asked(request.nodes, request.gpus_per_node, request.tp, request.pp, request.dp)
    layout, reasons = (solve_array if request.array else solve)(asked, profile.gpus_per_node)
    if name == "local":
        _check_local(request, layout)
    notes = _unused_options(request) if name == "local" else []
    plan = Plan(layout=layout, engine=dict(request.engine), reasons=(f"scheduler {name}: {why}", *reasons, *notes))
    return plan, get_scheduler(name)


def _check_local(request: Request, layout: Layout) -> None:
    if layout.nodes > 1:
        raise RequestError(f"--scheduler local has one node, not {layout.nodes}: use --nodes 1, or --scheduler slurm")
    if request.array or request.launcher == "srun":
        option = "--array" if request.array else "--launcher srun"
        raise RequestError(f"{option} needs Slurm, and --scheduler is local: leave it out, or use --scheduler slurm")


def _with_default_profile(request: Request) -> Request:
    """$VLLM_HPC_PROFILE names the profile where neither an option nor job.toml does."""
    default = os.environ.get("VLLM_HPC_PROFILE") or None
    return request if request.profile or not default else msgspec.structs.replace(request, profile=default)


def _choose_scheduler(request: Request, profile: Profile) -> tuple[str, str]:
    if request.scheduler != "auto":
        return request.scheduler, "asked for"
    if profile.scheduler:
        return profile.scheduler, f"profile {request.profile!r} says so"
    return find_scheduler()


def _unused_options(request: Request) -> list[str]:
    names = ("partition", "account", "qos", "mem", "directive")
    given = [f"--{name}" for name in names if getattr(request, name)]
    return [f"{', '.join(given)}: not used by the local scheduler"] if given else []


def _render(request: Request, definition: str | None) -> Prepared:
    profile = load_profile(request.profile)
    plan, scheduler = make_plan(request)
    model = find_model(request.model)
    request = _with_profile(request, profile)
    parent = as_path(request.job_dir, "--job-dir")
    folder = JobFolder(parent / (request.name or _free_name(parent, model.name)))
    check_path(str(folder.path), "--job-dir")
    if folder.path.exists():
        raise RequestError(_taken(folder))
    context = _context(request, plan, profile, folder)
    return Prepared(
        request=request,
        plan=plan,
        scheduler=scheduler.name,
        model=model,
        folder=str(folder.path),
        script=render_script(request.template or scheduler.template, context, request.template_dir),
        definition=definition,
        notes=tuple(_unused_options(request)) if scheduler.name == "local" else (),
    )


def _with_profile(request: Request, profile: Profile) -> Request:
    """The request with the profile's values where it named none: what job.json records is what ran."""
    names = ("partition", "account", "qos", "time", "mem", "cpus_per_rank", "template_dir")
    filled = {name: getattr(request, name) or getattr(profile, name) for name in names}
    return msgspec.structs.replace(request, env={**profile.env, **request.env}, **filled)


def _context(request: Request, plan: Plan, profile: Profile, folder: JobFolder) -> ScriptContext:
    layout = plan.layout
    launcher = request.launcher or profile.launcher or "torchrun"
    cpus = request.cpus_per_rank
    return ScriptContext(
        title=f"Rendered by vllm-hpc {__version__} for {ascii(folder.path.name)[1:-1]}.",
        name=folder.path.name,
        folder=str(folder.path),
        scheduler_log=str(folder.scheduler_log),
        bin=str(Path(sys.executable).parent),
        world_size=layout.world_size,
        cpus_per_rank=cpus,
        cpus_per_task=cpus * (1 if launcher == "srun" else layout.procs_per_node) if cpus else None,
        mem=request.mem,
        partition=request.partition,
        account=request.account,
        qos=request.qos,
        time=request.time,
        gpu_flag=profile.gpu_flag,
        exclusive=profile.exclusive,
        directives=tuple(request.directive),
        setup=profile.setup,
        env=request.env,
        launcher=launcher,
        tasks=layout.tasks,
        tasks_per_node=layout.procs_per_node if launcher == "srun" else 1,
        time_limit_s=parse_walltime(request.time) if request.time else None,
        head_suffix=profile.head_suffix,
        head_command=profile.head_command,
        export_environment=profile.export_environment,
        **msgspec.structs.asdict(layout),
    )


def _taken(folder: JobFolder) -> str:
    return f"{str(folder.path)!r} exists: choose another --name (nothing was changed)"


def _free_name(parent: Path, model: str) -> str:
    """<model>-<yyyymmdd-hhmmss>, with -2, -3 ... where that is taken."""
    check_name(model, "--name is needed: a job cannot be called after the model:")
    base = f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"
    name, number = base, 1
    while (parent / name).exists():
        number += 1
        name = f"{base}-{number}"
    return name


def _fill(folder: JobFolder, prepared: Prepared) -> None:
    """Write everything that the ranks and the scheduler need; job.json last: it makes the folder a job."""
    request = prepared.request
    rows = write_rows(read_rows(request.input), folder.input)
    script = folder.path / get_scheduler(prepared.scheduler).script
    script.write_text(prepared.script, encoding="utf-8")
    script.chmod(0o755)
    if prepared.definition:
        shutil.copy(prepared.definition, folder.path / JOB_DEFINITION)
    record = JobRecord(
        request=request,
        plan=prepared.plan,
        scheduler=prepared.scheduler,
        model=prepared.model.path,
        sampling=_sampling(request),
        rows=rows,
        created_at=time.time(),
        versions=_versions(),
    )
    write_json(folder.job_json, record)


def _sampling(request: Request) -> dict[str, Any]:
    """The job's SamplingParams: --sampling and the options that have a name of their own."""
    own = {key: getattr(request, key) for key in ("max_tokens", "temperature", "top_p")}
    return {**request.sampling, **{key: value for key, value in own.items() if value is not None}}


def _versions() -> dict[str, str]:
    """What submitted; ranks/rank-<r>.json has the vllm and the torch that ran."""
    return {
        "vllm-hpc": __version__,
        "python": platform.python_version(),
        "submitit": submitit.__version__,
        "host": platform.node(),
    }
