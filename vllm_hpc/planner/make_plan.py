"""From a ResolvedJob to a Plan: reads the model and the input, and chooses the layout. Writes nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner import choose_layout, native_launcher, program_plan, row_order, tuned
from vllm_hpc.planner.apply_finding import apply_finding
from vllm_hpc.planner.by_size import ASSUMED_GIB
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import Choice
from vllm_hpc.planner.describe_plan import facts_of, memory_of
from vllm_hpc.planner.determinism import explain_determinism
from vllm_hpc.planner.device import explain_device
from vllm_hpc.planner.engine_choices import engine_choices
from vllm_hpc.planner.engine_settings import MAY_BE_LESS, Settings, choose_settings, cpu_kv_cache_gib, not_modelled
from vllm_hpc.planner.gpu_hours import estimate
from vllm_hpc.planner.history import measured_rate
from vllm_hpc.planner.lanes import (
    asked_of,
    check_lanes,
    engine_of,
    explain_lanes,
    given_beside,
    has_lanes,
    suggest_lanes,
)
from vllm_hpc.planner.measure_input import measure_input
from vllm_hpc.planner.misfit import explain_misfit
from vllm_hpc.planner.models.config import Shape, with_whole_experts
from vllm_hpc.planner.models.hub import NotOnHubError, asks_as_ranks_do
from vllm_hpc.planner.models.inspect import Knowledge, inspect_model
from vllm_hpc.planner.models.tokenizer import with_missing, with_template
from vllm_hpc.planner.more_sequences import with_more_sequences
from vllm_hpc.planner.plan_unknown import plan_unknown
from vllm_hpc.planner.speculation import Speculation, speculations
from vllm_hpc.planner.workload import Workload
from vllm_hpc.schedulers.launchers import NATIVE, check_launcher, explain_override, get_launcher
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.directives import check_owned
from vllm_hpc.spec.errors import LayoutError, ModelError, RequestError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.model_cache import hub_cache
from vllm_hpc.spec.plan import Cost, Plan
from vllm_hpc.spec.profile import ignored_keys
from vllm_hpc.spec.queues import billed_whole
from vllm_hpc.spec.rehearsal import NO_MODEL
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.solve_layout import solve, solve_array
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.vllm_arguments import typed
from vllm_hpc.spec.vllm_defaults import EXPERT_PARALLEL

# Engine arguments that make the same model a different one for tune.
_NUMBERS = ("dtype", "quantization", "kv_cache_dtype", "speculative_config")
# Values of --engine tokenizer_mode with which chats go through the template in the model's folder.
_MODES_WITH_TEMPLATE = ("auto", "hf", "slow")


def make_plan(job: ResolvedJob, whole_input: bool = True, intake: Intake | None = None, use_tuned: bool = True) -> Plan:
    """The plan of a job. Raises RefusedError.

    Every row of the input is checked, and ``intake`` remembers that. With ``whole_input`` false, a large input is only
    sampled, and the sample prompts are not read. ``use_tuned`` false: ignore the findings of 'vllm-hpc tune'.
    """
    job = program_plan.with_hooks(job.asking(engine=typed("engine", job.request.engine)))
    known = _inspect(job)
    intake = intake or program_plan.intake_for(job)
    rows = measure_input(job, known, whole_input, intake)
    notes = [*native_launcher.rehearsed(job), f"scheduler {job.scheduler}: {job.scheduler_reason}"]
    notes += [] if known.shape is None else [_obstacle(job, known) or explain_device(job)]
    plan = row_order.with_order(lambda one: _planned(one, known, rows, use_tuned), job, rows, intake)
    plan = plan if job.runs_script else with_missing(plan, job, rows)
    count = rows.rows if rows and whole_input else None
    job.request.rehearse_set.check_place(plan.layout.all_ranks, plan.layout.lane_size, count)
    if job.runs_here:
        _check_local(job, plan.layout)
    check_scheduler(job, plan.layout)
    program_plan.check_hooks(job, plan.layout)
    part, why = get_scheduler(job.scheduler).node_part(job, plan.layout)
    said = intake.notes(job.request, rows is not None and rows.is_sample)
    told = filter(None, [*job.plan_notes, why, billed_whole(job.site, plan.layout), explain_override(job)])
    reasons = [one.removesuffix(MAY_BE_LESS) if job.drives_engine else one for one in plan.reasons]
    notes += [*reasons, *program_plan.explain(job), *told, *known.notes, *said, *unused_options(job)]
    notes += explain_determinism(job, plan)
    return msgspec.structs.replace(plan, reasons=tuple(notes), part=part)


def _planned(job: ResolvedJob, known: Knowledge, rows: Workload | None, use_tuned: bool) -> Plan:
    check_lanes(job, known.shape)
    if known.shape is None:
        return native_launcher.launched(plan_unknown(job, known), job)
    work = None if job.drives_engine else rows  # what a program does with the engine is not known

    def plan_for(asked: Request) -> Plan:
        return _plan_known(msgspec.structs.replace(job, request=asked), known, work)

    plan = plan_for(job.request)
    if use_tuned and not has_lanes(job.request):  # tune tries none of these
        plan = apply_finding(plan, job.request, _subject(job, known.shape, plan), plan_for)
    return native_launcher.launched(plan, job)


def find_subject(job: ResolvedJob, plan: Plan) -> tuned.Subject | None:
    """The subject of a finding about that plan; None if nothing is known about the model. Raises RefusedError."""
    shape = _inspect(job).shape
    return _subject(job, shape, plan) if shape else None


def find_speculations(job: ResolvedJob) -> tuple[Speculation, ...]:
    """The kinds of speculation that the model can have; none if nothing is known about it. Raises RequestError."""
    known = _inspect(job)
    return speculations(known.shape, known.mtp_layers) if known.shape else ()


def _subject(job: ResolvedJob, shape: Shape, plan: Plan) -> tuned.Subject:
    device, engine = job.device, job.request.engine
    name = "cpu" if job.is_for_cpu else device.gpu.name if device and device.gpu else "unknown"
    numbers: dict[str, Any] = {key: engine[key] for key in _NUMBERS if key in engine}
    return tuned.Subject(
        model=job.model.path, shape=shape, numbers=numbers, device=name, nodes=plan.layout.nodes,
        procs_per_node=plan.layout.procs_per_node, is_native=job.is_native,
    )  # fmt: skip


def _inspect(job: ResolvedJob) -> Knowledge:
    """What is known about the model; nothing for a rehearsal without a model. Raises ModelError."""
    if job.runs_script:
        return Knowledge()
    if job.model.path == NO_MODEL:
        return Knowledge(notes=("no MODEL: every layout is possible, and memory is not checked",))
    engine = job.request.engine
    try:
        known = inspect_model(job.model, engine.get("load_format") == "dummy", engine, hub_cache(job.request, job.site))
    except NotOnHubError as error:
        if asks_as_ranks_do(job) and not job.request.rehearse:
            raise
        known = Knowledge(is_unsized=True, notes=(f"nothing is known about the model: {error}",))
    return with_template(known, job)


def _obstacle(job: ResolvedJob, known: Knowledge) -> str | None:
    """Why memory cannot be computed although the model is known; None if it can."""
    return known.unweighed or not_modelled(given_beside(job.request), bool(known.shape and known.shape.quantization))


def check_fits(plan: Plan) -> None:
    """Refuse a plan that would fail. Raises LayoutError, which names one that fits; ModelError for what is missing."""
    if plan.missing:
        raise ModelError(plan.missing)
    if plan.fits is False:
        raise LayoutError(plan.misfit or "the model does not fit")


def unused_options(job: ResolvedJob) -> list[str]:
    """Name the options that a scheduler of this machine ignores, and keys of the profile that any scheduler does."""
    names = ("partition", "account", "qos", "mem", "directive")
    given = [f"--{name}" for name in names if job.is_asked(name) and getattr(job.request, name)]
    unused = [f"{', '.join(given)}: not used by the {job.scheduler} scheduler"] if job.runs_here and given else []
    starts_torchrun = not get_launcher(job.launcher).is_task_per_rank
    keys = ignored_keys(job.site, job.scheduler, starts_torchrun)
    return [*unused, *([f"of the profile not used by {job.scheduler}: {', '.join(keys)}"] if keys else [])]


def _settings(job: ResolvedJob, known: Knowledge, shape: Shape, rows: Workload | None) -> Settings:
    # Rows have no upper bound if a chat's template is unknown, or if a limit is in a file that is not here.
    engine = job.request.engine
    is_known = known.is_whole and not {"generation_config", "override_generation_config"} & set(engine)
    has_template = known.template_bytes is not None and engine.get("tokenizer_mode", "auto") in _MODES_WITH_TEMPLATE
    if rows and not (is_known and (has_template or not rows.has_chats)):
        rows = msgspec.structs.replace(rows, longest=None)
    return choose_settings(shape, job.device, rows, engine, cpu_kv_cache_gib(job.request))


def _problem(job: ResolvedJob, known: Knowledge, rows: Workload | None) -> PlanningProblem:
    shape = known.shape
    assert shape is not None
    return PlanningProblem(
        with_whole_experts(shape) if job.request.engine.get(EXPERT_PARALLEL) else shape,
        known.weights,
        None if _obstacle(job, known) else job.device,
        _settings(job, known, shape, rows),
        rows,
        one_node=job.runs_here,
        overlaps_stages=native_launcher.overlaps_stages(job),
        may_sort=row_order.may_sort(job, rows),
        network_gbps=job.site.network_gbps,
        cuts_experts=job.request.engine.get(EXPERT_PARALLEL) is False,
        gpu_bytes=_gpu_bytes(job),
        is_sized=known.unweighed is None,
    )


def _gpu_bytes(job: ResolvedJob) -> int | None:
    """Bytes of a GPU, or of one of 80 GB; None for ranks on the CPU, rehearsals, and weights that stay elsewhere."""
    if job.is_for_cpu or job.request.rehearse or job.request.engine.get("cpu_offload_gb"):
        return None
    gpu = job.device.gpu if job.device else None
    return int((gpu.memory_gib if gpu else ASSUMED_GIB) * GIB)


def _plan_known(job: ResolvedJob, known: Knowledge, rows: Workload | None) -> Plan:
    request, problem = job.request, _problem(job, known, rows)
    capacity = job.site.gpus_per_node or (job.device.per_node if job.device else None)
    choice, problem = choose_layout.with_rounded_length(
        choose_layout.choose(asked_of(request), capacity, problem, solve_array if request.array else solve),
        problem, request.engine,
    )  # fmt: skip
    choice, problem = with_more_sequences(choice, problem, request.engine)
    problem = msgspec.structs.replace(problem, settings=problem.settings_in(choice.layout))
    fit, lanes = choice.fit, suggest_lanes(job, choice, problem, solve)
    # Who wants the same tokens in any batch does not want others.
    found = engine_choices(problem, choice.layout, fit, request.engine, known.mtp_layers)
    choices, others = found if not request.reproducible else ((), ())
    return Plan(
        layout=choice.layout,
        engine={**engine_of(job, choice.layout), **problem.settings.engine, **request.engine},
        fits=fit.fits if fit else None,
        misfit=explain_misfit(choice, problem, request, capacity),
        reasons=(*choice.reasons, *explain_lanes(job, choice.layout), *lanes, *problem.settings.reasons, *others),
        memory=memory_of(fit, problem),
        kv_tokens=fit.kv_tokens if fit else None,
        concurrency=round(problem.concurrent(fit), 1) if fit else None,
        runners_up=choice.runners_up,
        model=facts_of(problem.shape),
        cost=_cost(job, problem, choice, rows) if rows else None,
        choices=choices,
    )


def _cost(job: ResolvedJob, problem: PlanningProblem, choice: Choice, rows: Workload) -> Cost | None:
    gpu = problem.device.gpu if problem.device else None
    if gpu is None:
        return None
    folder = as_path(job.request.job_dir, "--job-dir")
    overlaps = problem.overlaps(choice.layout)
    measured = measured_rate(folder, job.model.path, gpu.name, choice.layout, job.request.engine, overlaps)
    return estimate(problem, choice.layout, choice.fit, rows, measured)


def _check_local(job: ResolvedJob, layout: Layout) -> None:
    local = f"the scheduler is {job.scheduler} ({job.scheduler_reason})"
    cluster = "use --scheduler slurm or pbs"
    if layout.nodes > 1:
        raise RequestError(f"{local} and has one node, not {layout.nodes}: use --nodes 1, or {cluster[4:]}")
    has_launcher = job.request.launcher in (None, NATIVE, *get_scheduler(job.scheduler).launchers)
    if job.request.array or not has_launcher:
        option = "--array" if job.request.array else f"--launcher {job.request.launcher}"
        raise RequestError(f"{option} needs a cluster, but {local}: leave it out, or {cluster}")


def check_scheduler(job: ResolvedJob, layout: Layout) -> None:
    """The checks that depend on the scheduler. Raises RequestError."""
    scheduler = get_scheduler(job.scheduler)
    if not job.runs_here:  # where no option of a cluster is used
        check_owned(job.request.directive, job.scheduler)
        check_owned(list(job.site.directives), job.scheduler, "directives in the profile:")
    check_launcher(job, scheduler)
    scheduler.check_request(job, layout)
