"""The state of a job from what its cluster says of it, and of its pods.

Conditions of a PyTorchJob are those of training-operator 1.9 (pkg/apis/kubeflow.org/v1/common_types.go), of a TrainJob
those of trainer 2.3 (pkg/apis/trainer/v1alpha1/trainjob_types.go), which has none for one that runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllm_hpc.schedulers.client import plain
from vllm_hpc.schedulers.kubernetes.objects import Condition, Seen
from vllm_hpc.schedulers.kubernetes.pod_reasons import failure, trouble
from vllm_hpc.schedulers.scheduler import JobState

_DEADLINE = re.compile(r"active longer than specified deadline|DeadlineExceeded|deadline exceeded", re.IGNORECASE)
_QUEUE = "kueue.x-k8s.io/queue-name"


def has_ended(job: Seen) -> bool:
    """Whether a job has ended, and runs no more pods."""
    return job.status.having("Failed", "Succeeded", "Complete") is not None


def state_of(job: Seen, pods: Sequence[Seen] | None) -> JobState:
    """The state of a job. ``pods``: its own, the first rank's first; None if they cannot be listed."""
    if job.metadata.deletionTimestamp:
        return JobState("running", "it is being deleted, and its pods are told to end")
    if job.status.having("Succeeded", "Complete"):
        return JobState("completed")
    if failed := job.status.having("Failed"):
        return _failed(failed, pods or ())
    if suspended := job.status.having("Suspended"):
        return JobState("waiting", _suspended(job, suspended))
    restarting = job.status.having("Restarting")
    if pods is None:
        return _without_pods(job, restarting)
    troubles = [words for pod in pods if (words := trouble(pod))]
    if pods and pods[0].status.phase in ("Running", "Succeeded"):
        return JobState("running", troubles[0] if troubles else "")
    if restarting:
        return JobState("waiting", plain("; ".join([f"it is restarted: {restarting.words}", *troubles[:1]])))
    if pods and pods[0].status.phase == "Failed":
        return JobState("running", f"{failure(pods[0])}: the cluster has not ended the job yet")
    return JobState("waiting", troubles[0] if troubles else "its pods are not made yet")


def _failed(failed: Condition, pods: Sequence[Seen]) -> JobState:
    words = plain(failed.words)
    if _DEADLINE.search(f"{failed.reason} {words}"):
        return JobState("timeout", "the walltime (activeDeadlineSeconds) was reached")
    if preempted := next((pod for pod in pods if _is_preempted(pod)), None):
        return JobState("preempted", f"pod {preempted.metadata.name} was preempted by one of a higher priority")
    causes = [failure(pod) for pod in pods if pod.status.phase == "Failed"]
    return JobState("failed", "; ".join([*causes[:1], words] if words else causes[:1]) or "Kubernetes says Failed")


def _is_preempted(pod: Seen) -> bool:
    disruption = pod.status.having("DisruptionTarget")
    return disruption is not None and disruption.reason == "PreemptionByScheduler"


def _suspended(job: Seen, suspended: Condition) -> str:
    queue = job.label(_QUEUE)
    if queue:
        return plain(f"Kueue has not admitted it: 'kubectl get workloads' shows its place in {queue}")
    return plain(f"suspended: {suspended.words}")


def _without_pods(job: Seen, restarting: Condition | None) -> JobState:
    if restarting:
        return JobState("waiting", plain(f"it is restarted: {restarting.words}"))
    is_ready = any(one.ready for one in job.status.jobsStatus or [])
    if is_ready or job.status.having("Running"):
        return JobState("running")
    return JobState("waiting", "the cluster has it; why it waits is not known, for its pods may not be listed")
