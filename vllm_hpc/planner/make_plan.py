"""From a Request to a Plan: the model, the device, the input, and the layout that they ask for. Makes nothing."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner import choose_layout, tuned
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import Choice
from vllm_hpc.planner.device import Device, explain_device, find_device
from vllm_hpc.planner.engine_settings import Settings, choose_settings, not_modelled
from vllm_hpc.planner.gpu_hours import estimate
from vllm_hpc.planner.history import measured_rate
from vllm_hpc.planner.memory import BLOCK_TOKENS, Fit, kv_bytes_per_token
from vllm_hpc.planner.models.config import Shape, with_whole_experts
from vllm_hpc.planner.models.count import count_parameters
from vllm_hpc.planner.models.find import Model, find_model
from vllm_hpc.planner.models.inspect import Knowledge, learn
from vllm_hpc.planner.workload import Workload, survey
from vllm_hpc.schedulers import launchers
from vllm_hpc.schedulers.scheduler import find_scheduler, get_scheduler
from vllm_hpc.spec.directives import check_owned
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.layout import Asked, Layout, solve, solve_array
from vllm_hpc.spec.plan import CPU_KV_CACHE_GIB, DEFAULT_MAX_TOKENS, Cost, Memory, ModelFacts, Plan
from vllm_hpc.spec.profile import Profile, load_profile
from vllm_hpc.spec.rehearsal import NO_MODEL
from vllm_hpc.spec.request import Request, make_request
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.vllm_arguments import typed

WHOLE_NODE = 4  # GPUs; with fewer asked for, a node may well have more

# Engine arguments that make the same model another one to tune.
_NUMBERS = ("dtype", "quantization", "kv_cache_dtype")


def plan_only(model: str | None = None, **options: object) -> Plan:
    """The plan of a job, with nothing rendered or made. Raises RefusedError."""
    request = with_default_profile(make_request({"model": model, **options}))
    return make_plan(request, load_profile(request.profile), whole_input=False)[0]


def with_default_profile(request: Request) -> Request:
    """$VLLM_HPC_PROFILE names the profile where neither an option nor job.toml does."""
    default = os.environ.get("VLLM_HPC_PROFILE") or None
    return request if request.profile or not default else msgspec.structs.replace(request, profile=default)


def make_plan(
    request: Request,
    profile: Profile,
    whole_input: bool = True,
    intake: Intake | None = None,
    use_tuned: bool = True,
) -> tuple[Plan, str]:
    """The plan of a request with its profile, and the scheduler that it is for. Raises RefusedError.

    Every row of the input is checked, and ``intake`` remembers it; with ``whole_input`` false, a large one is only
    sampled, and none is not read. ``use_tuned`` false: as if 'vllm-hpc tune' had found nothing.
    """
    model = find_model(request.model, request.rehearse)
    typed("sampling", request.sampling)
    request = msgspec.structs.replace(request, engine=typed("engine", request.engine))
    scheduler, why = _choose_scheduler(request, profile)
    device = find_device(request, profile, scheduler)
    known = _learn(model, request)
    rows = _survey(request, known, whole_input, intake or Intake(request.input))
    notes = [*launchers.rehearsed(request, profile), f"scheduler {scheduler}: {why}"]
    if known.shape is None:
        plan = _plan_unknown(request, profile)
    else:
        shape = known.shape
        obstacle = known.unweighed or not_modelled(request.engine)
        notes.append(obstacle or explain_device(device, profile))
        capacity = profile.gpus_per_node or (device.per_node if device else None)

        def plan_for(asked: Request) -> Plan:
            settings = _settings(asked, profile, known, shape, device, rows)
            needs = PlanningProblem(
                with_whole_experts(shape) if asked.engine.get("enable_expert_parallel") else shape,
                known.weights, None if obstacle else device, settings, rows,
                scheduler == "local", launchers.is_native(asked, profile),
            )  # fmt: skip
            return _plan_known(asked, model.path, capacity, needs)

        plan = plan_for(request)
        if use_tuned:
            subject = _subject(request, profile, model.path, shape, device, plan)
            plan = tuned.take(plan, request, subject, plan_for)
    plan = launchers.launched(plan, request, profile)
    count = rows.rows if rows and whole_input else None
    request.rehearse_set.check_place(plan.layout.all_ranks, plan.layout.replica_size, count)
    if scheduler == "local":
        _check_local(request, plan.layout, why)
    else:
        _check_cluster(request, profile, plan.layout, scheduler, why)
    notes += [*plan.reasons, *known.notes, *(unused_options(request) if scheduler == "local" else ())]
    return msgspec.structs.replace(plan, reasons=tuple(notes)), scheduler


def find_subject(request: Request, profile: Profile, plan: Plan) -> tuned.Subject | None:
    """What a finding on that plan would be about; None where nothing is known of the model. Raises RefusedError."""
    model = find_model(request.model, request.rehearse)
    shape = _learn(model, request).shape
    device = find_device(request, profile, _choose_scheduler(request, profile)[0])
    return _subject(request, profile, model.path, shape, device, plan) if shape else None


def _subject(
    request: Request, profile: Profile, model: str, shape: Shape, device: Device | None, plan: Plan
) -> tuned.Subject:
    is_cpu = device.gpu is None if device else profile.gpu_flag == "none"
    name = "cpu" if is_cpu else device.gpu.name if device and device.gpu else "unknown"
    numbers: dict[str, Any] = {key: request.engine[key] for key in _NUMBERS if key in request.engine}
    return tuned.Subject(
        model=model, shape=shape, numbers=numbers, device=name, nodes=plan.layout.nodes,
        procs_per_node=plan.layout.procs_per_node, is_native=launchers.is_native(request, profile),
    )  # fmt: skip


def _learn(model: Model, request: Request) -> Knowledge:
    """What is known of the model: nothing, where a rehearsal names none. Raises ModelError."""
    if model.path == NO_MODEL:
        return Knowledge(notes=("no MODEL: every layout is possible, and memory is not checked",))
    return learn(model, dummy_weights=request.engine.get("load_format") == "dummy")


def check_fits(plan: Plan) -> None:
    """Refuse a plan that is known not to fit. Raises LayoutError with the reason, which names what would."""
    if plan.fits is False:
        raise LayoutError(plan.misfit or "the model does not fit")


def unused_options(request: Request) -> list[str]:
    """What the local scheduler has no use for."""
    names = ("partition", "account", "qos", "mem", "directive")
    given = [f"--{name}" for name in names if getattr(request, name)]
    return [f"{', '.join(given)}: not used by the local scheduler"] if given else []


def _plan_unknown(request: Request, profile: Profile) -> Plan:
    layout, reasons = (solve_array if request.array else solve)(_asked(request), profile.gpus_per_node)
    return Plan(layout=layout, engine=dict(request.engine), reasons=tuple(reasons))


def _settings(
    request: Request, profile: Profile, known: Knowledge, shape: Shape, device: Device | None, rows: Workload | None
) -> Settings:
    # A chat whose template is not known, or a limit that stands in a file which is not here, has no bound.
    is_known = known.is_whole and not {"generation_config", "override_generation_config"} & set(request.engine)
    if rows and not (is_known and (known.template_bytes is not None or not rows.has_chats)):
        rows = msgspec.structs.replace(rows, longest=None)
    return choose_settings(shape, device, rows, request.engine, _cpu_kv_cache_gib(request, profile))


def _plan_known(request: Request, model: str, capacity: int | None, needs: PlanningProblem) -> Plan:
    solver = solve_array if request.array else solve
    asked = request.gpus_per_node or 0
    # What a node has, or seems to: several that were asked for, or a number that is not a mere part of one.
    is_whole = asked >= WHOLE_NODE or (request.nodes or 1) > 1
    node = capacity or (asked if asked and is_whole and not needs.one_node else None)
    choice, needs = choose_layout.with_rounded_length(
        choose_layout.choose(_asked(request), capacity, needs, solver), needs, request.engine
    )
    choice, needs = choose_layout.with_more_sequences(choice, needs, request.engine)
    fit = choice.fit
    return Plan(
        layout=choice.layout,
        engine={**needs.settings.engine, **request.engine},
        fits=fit.fits if fit else None,
        misfit=_misfit(choice, needs, node) if fit and not fit.fits else None,
        reasons=(*choice.reasons, *needs.settings.reasons),
        memory=_memory(fit, needs),
        kv_tokens=fit.kv_tokens if fit else None,
        concurrency=round(needs.concurrent(fit), 1) if fit else None,
        runners_up=choice.runners_up,
        model=_facts(needs.shape),
        cost=_cost(request, model, needs, choice, needs.survey) if needs.survey else None,
    )


def _misfit(choice: Choice, needs: PlanningProblem, capacity: int | None) -> str:
    """Why it does not fit, with an alternative that does."""
    layout, fit = choice.layout, choice.fit
    assert fit is not None and needs.device is not None
    where = f"GPUs of the kind {needs.device.gpu.name}" if needs.device.gpu else "the CPU"
    text = f"does not fit on {where} with TP = {layout.tp}, PP = {layout.pp}: {choose_layout.lack(fit, needs)}"
    hint = "" if needs.device.gpu else " (VLLM_CPU_KVCACHE_SPACE, in GiB, is the size of the KV cache)"
    shorter = _shorter(choice, needs)
    instead = choose_layout.smallest_that_fits(capacity, needs, solve) if needs.device.gpu else None
    if instead is None:
        return f"{text}: try {shorter or 'a smaller or a quantised model, or more memory'}{hint}"
    return (
        f"{text}: try --nodes {instead.nodes} --gpus-per-node {instead.gpus_per_node} "
        f"--tp {instead.tp} --pp {instead.pp} --dp 1{f' or {shorter}' if shorter else ''}"
    )


def _shorter(choice: Choice, needs: PlanningProblem) -> str:
    """The longest sequences that the layout has room for, as an option; empty where it has room for none."""
    length = choice.fit.kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS if choice.fit else 0
    load = msgspec.structs.replace(needs.settings.load, max_model_len=length)
    shortened = msgspec.structs.replace(needs, settings=msgspec.structs.replace(needs.settings, load=load))
    fit = shortened.fit(choice.layout) if length else None
    return f"--engine max_model_len={length}" if fit and fit.fits else ""


def _memory(fit: Fit | None, needs: PlanningProblem) -> Memory:
    if fit is None or needs.device is None:
        return Memory()
    device = needs.device
    whole = device.gpu.memory_gib if device.gpu else fit.limit / GIB
    return Memory(
        weights_gib=round(fit.weights / GIB, 2),
        kv_gib_per_gpu=round(max(0, fit.kv) / GIB, 2),
        per_gpu_gib=round((fit.rank_weights + fit.reserve) / GIB, 2),
        gpu_gib=round(whole, 2),
    )


def _facts(shape: Shape) -> ModelFacts:
    return ModelFacts(
        architecture=shape.architecture,
        parameters=count_parameters(shape),
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        dtype=shape.dtype,
        quantization=shape.quantization.method if shape.quantization else None,
        kv_bytes_per_token=kv_bytes_per_token(shape),
        max_positions=shape.positions,
    )


def _cost(request: Request, model: str, needs: PlanningProblem, choice: Choice, rows: Workload) -> Cost | None:
    gpu = needs.device.gpu if needs.device else None
    if gpu is None:
        return None
    folder = as_path(request.job_dir, "--job-dir")
    measured = measured_rate(folder, model, gpu.name, choice.layout)
    return estimate(needs, choice.layout, choice.fit, rows, measured)


def _survey(request: Request, known: Knowledge, whole: bool, intake: Intake) -> Workload | None:
    """The input in numbers; a plan without --input reads none."""
    if request.input is None and not whole:
        return None
    named = {} if request.max_tokens is None else {"max_tokens": request.max_tokens}
    sampling = {"max_tokens": known.max_tokens or DEFAULT_MAX_TOKENS, **request.sampling, **named}
    return survey(intake, sampling, known.template_bytes or 0, whole)


def _asked(request: Request) -> Asked:
    return Asked(request.nodes, request.gpus_per_node, request.tp, request.pp, request.dp)


def _cpu_kv_cache_gib(request: Request, profile: Profile) -> int:
    """VLLM_CPU_KVCACHE_SPACE as the ranks will see it, in GiB."""
    name = "VLLM_CPU_KVCACHE_SPACE"
    text = request.env.get(name) or profile.env.get(name) or os.environ.get(name) or str(CPU_KV_CACHE_GIB)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise RequestError(f"{name} is {text!r}: set it to a whole number of GiB, or leave it out")
    return int(text)


def _choose_scheduler(request: Request, profile: Profile) -> tuple[str, str]:
    if request.scheduler != "auto":
        return request.scheduler, "asked for"
    if profile.scheduler:
        return profile.scheduler, f"profile {request.profile!r} says so"
    return find_scheduler()


def _check_local(request: Request, layout: Layout, why: str) -> None:
    local = f"the scheduler is local ({why})"
    cluster = "use --scheduler slurm or pbs"
    if layout.nodes > 1:
        raise RequestError(f"{local} and has one node, not {layout.nodes}: use --nodes 1, or {cluster[4:]}")
    if request.array or request.launcher not in (None, "torchrun", launchers.NATIVE):
        option = "--array" if request.array else f"--launcher {request.launcher}"
        raise RequestError(f"{option} needs a cluster, and {local}: leave it out, or {cluster}")


def _check_cluster(request: Request, profile: Profile, layout: Layout, scheduler: str, why: str) -> None:
    """What only the scheduler can judge, once it is known. Raises RequestError."""
    chosen = get_scheduler(scheduler)
    check_owned(request.directive, scheduler)
    launchers.check(request, profile, chosen, why)
    chosen.check_request(request, profile, layout)
