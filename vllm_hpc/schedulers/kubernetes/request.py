"""What Kubernetes cannot be asked for, refused before anything is made."""

from __future__ import annotations

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.resolved_job import ResolvedJob


def check_request(job: ResolvedJob, layout: Layout) -> None:
    """Refuse what no manifest can say. Raises RequestError."""


def check_folder(folder: JobFolder) -> None:
    """Refuse a folder that a manifest cannot name. Raises RequestError."""
