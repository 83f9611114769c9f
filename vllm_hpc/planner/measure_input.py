"""Measures a job's input for its plan, with the sampling and the chat template that its rows have."""

from __future__ import annotations

from vllm_hpc.jobfolder.store_input import Intake, NoRows
from vllm_hpc.planner.models.inspect import Knowledge
from vllm_hpc.planner.row_order import why_unshared
from vllm_hpc.planner.workload import Workload, measure_workload
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.sampling import DEFAULT_MAX_TOKENS


def measure_input(job: ResolvedJob, known: Knowledge, whole: bool, intake: Intake) -> Workload | None:
    """Measure the input; 'plan' (not ``whole``) without --input does not read the sample prompts. Raises InputError."""
    request = job.request
    is_sampled = request.input is None and request.rows_missing_from is None
    if isinstance(intake, NoRows) or (is_sampled and not whole):
        return None
    named = {key: getattr(request, key) for key in ("max_tokens", "temperature") if getattr(request, key) is not None}
    if request.seed_rows or request.reproducible:
        named["seed"] = request.seed
    sampling = {"max_tokens": known.max_tokens or DEFAULT_MAX_TOKENS, **request.sampling, **named}
    return measure_workload(intake, sampling, known.template_bytes or 0, whole, may_share=why_unshared(job) is None)
