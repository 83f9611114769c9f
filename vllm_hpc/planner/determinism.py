"""What --verify and --reproducible ask of a job, and what a plan says of them. docs/determinism.md describes both."""

from __future__ import annotations

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.words import counted

VARIABLE = "VLLM_BATCH_INVARIANT"


def explain_determinism(job: ResolvedJob, plan: Plan) -> list[str]:
    """The reasons of a plan; none for a job that asks for neither. Raises RequestError for what cannot be had."""
    return [*_verify(job, plan), *_reproducible(job)]


def _verify(job: ResolvedJob, plan: Plan) -> list[str]:
    steps = job.request.verify
    if steps is None:
        return []
    if job.program is not None and job.program.program.drives_engine:
        raise RequestError(
            "--verify compares what vllm-hpc's own loop samples, and this program drives the engine: leave it out"
        )
    if plan.layout.lane_size == 1:
        raise RequestError(
            "--verify compares the ranks of a replica, and these have one each: use --tp 2 or --pp 2, or leave it out"
        )
    if job.is_native:
        raise RequestError(
            "--verify compares ranks that each sample, and with --launcher native one does for all: leave one out"
        )
    every = "each step" if steps == 1 else f"each {counted(steps, 'step')}"
    return [f"--verify: {every}, the ranks of a replica compare every token that they sampled, and wait for each other"]


def _reproducible(job: ResolvedJob) -> list[str]:
    request = job.request
    if not request.reproducible:
        return []
    if job.program is not None and job.program.program.is_script:
        raise RequestError(f"--reproducible is for a MODEL's jobs: with --script, use --env {VARIABLE}=1")
    given = request.env.get(VARIABLE, "1")
    if given != "1":
        raise RequestError(f"{VARIABLE}={given} is not what --reproducible sets: leave one of them out")
    if job.is_native:
        raise RequestError(
            "--reproducible changes vLLM in the ranks, and with --launcher native vLLM starts its own workers: leave "
            "one out"
        )
    if request.rehearse:
        return ["--reproducible: a rehearsal's answers depend on nothing but their row"]
    if job.is_for_cpu:
        raise RequestError(
            "--reproducible needs GPUs, for vLLM has no batch-invariant mode on the CPU: use --engine dtype=float32 "
            "there, which makes other tokens rare, or leave it out"
        )
    return [
        "--reproducible: vLLM's batch-invariant mode, Triton's attention, sums in one order, and a seed for each row: "
        "the same tokens for any max_num_seqs, --tp up to 8, and after a resume; another GPU or version of vLLM may "
        "give others; slower (docs/determinism.md)"
    ]
