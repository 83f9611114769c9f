"""Ids of jobs: as they were submitted, and as the scheduler shows them."""

from __future__ import annotations

import re


def submission_of(job_id: str) -> str:
    """The submitted id of a job or of an array task: 77 for 77_3, 12[].server for 12[].server_3."""
    match = re.fullmatch(r"(\d+|\d+\[\]\..+)_\d+", job_id)
    return match[1] if match else job_id


def is_submission(job_id: str, submitted: str) -> bool:
    """Whether a job, or an array's task, is of what was submitted as that id.

    A site's own qsub may have printed it without the PBS server's name, which the job knows.
    """
    return submitted in submitted_as(job_id)


def submitted_as(job_id: str) -> tuple[str, str]:
    """The ids under which a job, or an array's task, may be on record as submitted."""
    own = submission_of(job_id)
    return own, own.partition(".")[0]


def as_file_name(job_id: str) -> str:
    """A scheduler's id within a file's name: Kubernetes' is NAMESPACE/NAME."""
    return job_id.replace("/", "+")
