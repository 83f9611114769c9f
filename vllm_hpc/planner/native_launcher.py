"""vLLM's own workers, which overlap the stages of PP: asked for with --launcher native, or the planner's own choice."""

from __future__ import annotations

import msgspec

from vllm_hpc.planner.lanes import has_lanes
from vllm_hpc.schedulers.launchers import NATIVE
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.vllm_defaults import MODEL_RUNNER
from vllm_hpc.spec.words import counted

# Where it was run, over several nodes too (tests/slurm and tests/pbs, test_layouts.py).
_RUN_ON = ("slurm", "pbs", "local")
# 9,928 and 17,089 output tok/s: docs/performance.md.
_GAIN = "1.7 times the tokens/s with PP 2 on two H100"
_IN_REHEARSAL = "in a rehearsal every rank runs the engine"


def launched(plan: Plan, job: ResolvedJob) -> Plan:
    """The plan with what its launcher adds. Raises LayoutError if native workers cannot run its layout.

    In a rehearsal every rank runs the engine, and a plan that does not fit runs too.
    """
    native = natively(plan) if job.is_native else None
    if job.request.rehearse:
        fits = None if plan.fits is False else plan.fits
        own = [f"PP {plan.layout.pp}: vLLM would start its own workers; {_IN_REHEARSAL}"] if _chosen(job, plan) else []
        return msgspec.structs.replace(plan, fits=fits, reasons=(*plan.reasons, *own))
    if native or plan.layout.pp == 1 or job.runs_script:
        return native or plan
    return _with_mp(plan, _why(plan, job)) if _chosen(job, plan) else _in_turns(plan, job)


def rehearsed(job: ResolvedJob) -> list[str]:
    """What a plan says about a rehearsal; nothing for any other job."""
    if not job.request.rehearse:
        return []
    notes = ["rehearsal: a built-in engine answers in place of vLLM; no answer comes from a model"]
    if job.is_native:
        notes.append(f"launcher native: vLLM would start its own workers; {_IN_REHEARSAL}")
    return notes


def natively(plan: Plan) -> Plan:
    """The plan with vLLM's mp back-end. Raises LayoutError if its nodes would not have the same number of workers."""
    if not plan.layout.is_even:
        size, procs = plan.layout.replica_size, plan.layout.procs_per_node
        raise LayoutError(
            f"--launcher {NATIVE} needs the same number of a replica's workers on each of its nodes, but replicas of "
            f"{counted(size, 'GPU')} cannot be split evenly over nodes of {procs}: change --tp, --pp or "
            "--gpus-per-node, or leave it out"
        )
    return _with_mp(
        plan, f"--launcher {NATIVE}: vLLM's mp back-end starts the workers, one process for each replica and node"
    )


def overlaps_stages(job: ResolvedJob) -> bool:
    """Whether the stages of PP overlap, where a replica is even on its nodes: native was asked for, or is chosen."""
    return job.is_native or not (job.is_for_cpu or _against(job))


def _chosen(job: ResolvedJob, plan: Plan) -> bool:
    """Whether native workers are the planner's own choice.

    All vLLM versions from 0.26, the oldest, to 0.33 leave their new model runner for the old one, which is deprecated,
    if PP is under external_launcher (config/vllm.py, _get_v2_model_runner_unsupported_features). So nobody need know
    which version the nodes have. On the CPU vLLM has no Triton, and so the old runner in any case.
    """
    layout = plan.layout
    is_open = not job.is_native and not job.runs_script and layout.pp > 1
    return is_open and overlaps_stages(job) and layout.is_even


def _against(job: ResolvedJob) -> str | None:
    """What of a job keeps a rank for each GPU; None if nothing does."""
    request = job.request
    if request.launcher:
        return f"launcher {request.launcher} is given ({job.origin('launcher')})"
    if job.site.launcher == job.launcher:
        return f"the profile's launcher is {job.launcher}"
    if has_lanes(request):
        return "lanes need a rank for each GPU"
    if job.program is not None:
        return "--program runs on ranks that hold the model"
    if request.verify is not None:
        return "--verify compares ranks that each sample"
    if request.reproducible:
        return "--reproducible changes vLLM in the ranks"
    return None if job.scheduler in _RUN_ON else f"that was never run on {job.scheduler}"


def _uneven(layout: Layout) -> str | None:
    if layout.is_even:
        return None
    return f"replicas of {layout.replica_size} cannot be split evenly over nodes of {layout.procs_per_node}"


def _with_mp(plan: Plan, reason: str) -> Plan:
    engine = {**plan.engine, "distributed_executor_backend": "mp"}
    return msgspec.structs.replace(plan, engine=engine, reasons=(*plan.reasons, reason))


def _why(plan: Plan, job: ResolvedJob) -> str:
    return (
        f"PP {plan.layout.pp}: vLLM starts its own workers, as with --launcher {NATIVE}, so that its stages overlap "
        f"({_GAIN}); with --launcher {job.launcher} they take turns, on vLLM's older model runner"
    )


def _in_turns(plan: Plan, job: ResolvedJob) -> Plan:
    """The plan, with what PP costs under external_launcher, and why. Raises RequestError if vLLM would not start."""
    pp = plan.layout.pp
    if job.request.env.get(MODEL_RUNNER) == "1":
        raise RequestError(
            f"{MODEL_RUNNER}=1 and PP {pp}: under external_launcher vLLM does not start so: leave it out, or use "
            f"--launcher {NATIVE}"
        )
    why = None if job.is_for_cpu else _against(job) or _uneven(plan.layout)
    reason = (
        f"PP {pp}: its stages take turns under external_launcher; with --launcher {NATIVE} they overlap ({_GAIN})"
        f"{f', but {why}' if why else ''}"
    )
    return msgspec.structs.replace(plan, reasons=(*plan.reasons, reason))
