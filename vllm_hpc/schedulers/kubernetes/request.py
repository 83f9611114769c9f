"""Refuses what no manifest can say, before anything is made."""

from __future__ import annotations

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.resolved_job import ResolvedJob

# Options of other schedulers, and what to do instead.
_ELSEWHERE = {
    "partition": "set queue in kubernetes in the profile (Kueue's LocalQueue)",
    "account": "set namespace or queue in kubernetes in the profile",
    "qos": "set priority_class in kubernetes in the profile",
    "directive": "extend the template kubernetes.yaml.j2",
}


def check_request(job: ResolvedJob, layout: Layout) -> None:
    """Check that a PyTorchJob or a TrainJob can be what was asked for. Raises RequestError."""
    if layout.is_array:
        raise RequestError("--array cannot be used with the scheduler kubernetes: leave it out, or submit several jobs")
    for key, advice in _ELSEWHERE.items():
        if job.is_asked(key) and getattr(job.request, key):
            raise RequestError(f"--{key} means nothing to the scheduler kubernetes: {advice}")
    if job.request.mem is not None and not int("".join(c for c in job.request.mem if c.isdigit())):
        raise RequestError(
            f"--mem {job.request.mem} is all of a node's memory, for which Kubernetes has no word: give an amount"
        )


def check_folder(folder: JobFolder) -> None:
    """Refuse a folder whose path is no UTF-8, as a manifest must be. Raises RequestError."""
    try:
        str(folder.path).encode()
    except UnicodeEncodeError:
        raise RequestError(f"{str(folder.path)!r} must be UTF-8 for Kubernetes: choose another --job-dir") from None
