"""What a submission tells beside its result."""

from __future__ import annotations

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import ResolvedJob


def first_notes(job: ResolvedJob, plan: Plan) -> list[str]:
    """Notes on whose the job.toml is, on how the model was found, on what a real job would be refused for.

    And on a fault that may come too late, and what --allow would take, or takes in vain.
    """
    request = job.request
    lost = job.queue_reason if job.queue is None else None
    notes = [note for note in (job.distrust, job.code_note, job.model.note, lost) if note]
    if request.rehearse and plan.misfit:
        notes.append(f"the model {plan.misfit}; only a rehearsal can run like this")
    settings = request.rehearse_set
    if settings.fault_s and settings.tokens_per_s is None:
        notes.append(f"fault_s={settings.fault_s:g} without tokens_per_s: all rows may be done before then")
    return [*notes, *(reason for reason in plan.reasons if reason.startswith("--allow "))]


def overlap(request: Request) -> list[str]:
    """A note if the job whose missing rows these are has not ended."""
    if request.rows_missing_from is None:
        return []
    from vllm_hpc.jobs.status import read_status  # slow to import, and rarely needed

    other = JobFolder(request.rows_missing_from)
    status = read_status(other)
    return [] if status.is_final else [f"{other.path.name} is {status.state}, so rows may be run twice"]
