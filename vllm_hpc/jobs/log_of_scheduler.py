"""What a job has printed that left no log in its folder: some schedulers keep that themselves."""

from __future__ import annotations

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.submissions import last_submission
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.scheduler import installed_scheduler


def log_of_scheduler(folder: JobFolder) -> str:
    """What the job's scheduler has kept of its output; empty if that is nothing, or not known."""
    scheduler, job_id = installed_scheduler(folder.job().scheduler), last_submission(folder)
    if scheduler is None or scheduler.read_log is None or job_id is None or not scheduler.is_id(job_id):
        return ""
    try:
        return scheduler.read_log(folder, job_id)
    except ClientError:  # its container may not have started: the job's state says why
        return ""
