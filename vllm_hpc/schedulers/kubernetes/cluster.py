"""kubectl: submit, query and cancel a job. A stub until the client side is there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import Ask, call_client
from vllm_hpc.schedulers.scheduler import JobState

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
ID = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
# In what kubectl create prints.
SUBMITTED = re.compile(rf"(?:^|\s)({_NAME}/{_NAME})(?=\s|$)", re.ASCII)


def submit_argv(script: Path) -> list[str]:
    """kubectl creates the job; one of the same name is refused."""
    return [
        "kubectl", "create", "-f", str(script), "-o", "jsonpath={.metadata.namespace}/{.metadata.name}",
    ]  # fmt: skip


def query(job: JobFolder, job_id: str, tasks: Sequence[str] = (), ask: Ask = call_client) -> dict[str, JobState]:
    """What the cluster says of the job."""
    return {job_id: JobState("unknown", "not asked yet")}


def cancel(job: JobFolder, job_id: str) -> None:
    """Delete the job. Raises ClientError."""
    namespace, _, name = job_id.partition("/")
    call_client(["kubectl", "delete", "-n", namespace, "-f", str(job.path / "manifest.yaml"), name])


def environment(script: Path) -> dict[str, str]:
    """The environment of kubectl."""
    return dict(os.environ)
