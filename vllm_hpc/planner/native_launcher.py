"""What --launcher native and a rehearsal change in a plan."""

from __future__ import annotations

import msgspec

from vllm_hpc.schedulers.launchers import NATIVE
from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.words import counted


def launched(plan: Plan, job: ResolvedJob) -> Plan:
    """The plan with what its launcher adds. Raises LayoutError if native workers cannot run its layout.

    In a rehearsal every rank runs the engine, and a plan that does not fit runs too.
    """
    native = natively(plan) if job.is_native else None
    if job.request.rehearse:
        return msgspec.structs.replace(plan, fits=None if plan.fits is False else plan.fits)
    return native or (plan if job.program else hint(plan))


def rehearsed(job: ResolvedJob) -> list[str]:
    """What a plan says about a rehearsal; nothing for any other job."""
    if not job.request.rehearse:
        return []
    notes = ["rehearsal: a built-in engine answers in place of vLLM; no answer comes from a model"]
    if job.is_native:
        notes.append("launcher native: vLLM would start its own workers; in a rehearsal every rank runs the engine")
    return notes


def natively(plan: Plan) -> Plan:
    """The plan with vLLM's mp back-end. Raises LayoutError if its nodes would not have the same number of workers."""
    size, procs = plan.layout.replica_size, plan.layout.procs_per_node
    if max(size, procs) % min(size, procs):
        raise LayoutError(
            f"--launcher {NATIVE} needs the same number of a replica's workers on each of its nodes, but replicas of "
            f"{counted(size, 'GPU')} cannot be split evenly over nodes of {procs}: change --tp, --pp or "
            "--gpus-per-node, or leave it out"
        )
    engine = {**plan.engine, "distributed_executor_backend": "mp"}
    reason = f"--launcher {NATIVE}: vLLM's mp back-end starts the workers, one process for each replica and node"
    return msgspec.structs.replace(plan, engine=engine, reasons=(*plan.reasons, reason))


def hint(plan: Plan) -> Plan:
    """The plan, with a note on PP if torchrun starts the ranks."""
    if plan.layout.pp == 1:
        return plan
    # 9,928 and 17,089 output tok/s: docs/performance.md.
    reason = (
        f"PP {plan.layout.pp}: its stages take turns under external_launcher; with --launcher {NATIVE} they overlap "
        "(1.7 times the tokens/s with PP 2 on two H100)"
    )
    return msgspec.structs.replace(plan, reasons=(*plan.reasons, reason))
