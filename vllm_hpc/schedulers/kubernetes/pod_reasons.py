"""Why a pod does not run, or how it ended, in one line and with what to do.

Reasons are those of the scheduler (Unschedulable), of the kubelet (pkg/kubelet/images, pkg/kubelet/kuberuntime) and of
whoever disrupts a pod (DisruptionTarget, https://kubernetes.io/docs/concepts/workloads/pods/disruptions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vllm_hpc.schedulers.client import plain
from vllm_hpc.schedulers.kubernetes.objects import ContainerStatus, Seen, Terminated, Waiting

# What to do about a container that waits, by the kubelet's reason. Those that pass by themselves are not listed.
_ADVICE = {
    "ErrImagePull": "correct --container, or name image_pull_secrets in the profile",
    "ImagePullBackOff": "correct --container, or name image_pull_secrets in the profile",
    "ErrImageNeverPull": "the nodes do not have it, and image_pull_policy is Never",
    "InvalidImageName": "correct --container",
    "CreateContainerConfigError": "correct secrets in the profile's kubernetes table",
    "CreateContainerError": "correct volumes in the profile's kubernetes table, or the image",
    "RunContainerError": "the image cannot be run: it must have bash, and Python with vllm-hpc",
    "CrashLoopBackOff": "'vllm-hpc logs' shows why it ended",
}
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
# Codes of DisruptionTarget, and what they mean.
_DISRUPTED = {
    "PreemptionByScheduler": "was preempted by one of a higher priority",
    "DeletionByTaintManager": "was ended, for its node is not ready (a taint)",
    "EvictionByEvictionAPI": "was evicted: its node is drained",
    "DeletionByPodGC": "is gone with its node",
    "TerminationByKubelet": "was ended by its node, which shuts down or lacks a resource",
}
# Labels that tell a job's pods apart: those of Kubeflow, and of JobSet and Job.
_PLACE = (
    "training.kubeflow.org/replica-type",
    "training.kubeflow.org/replica-index",
    "jobset.sigs.k8s.io/replicatedjob-name",
    "batch.kubernetes.io/job-completion-index",
)
_LONGEST = 400


def sorted_pods(pods: Iterable[Seen], first: Mapping[str, str]) -> list[Seen]:
    """The pods of a job by name, but the one with the first rank first, which has these labels.

    Of those that were started one after the other in the same place, only the newest.
    """
    newest: dict[tuple[str, ...], Seen] = {}
    for pod in sorted(pods, key=lambda one: (one.metadata.creationTimestamp or "", one.status.phase != "Failed")):
        place = tuple(pod.label(name) for name in _PLACE)
        newest[place if any(place) else (pod.metadata.name,)] = pod

    def is_other(pod: Seen) -> bool:
        return any(pod.label(name) != value for name, value in first.items())

    return sorted(newest.values(), key=lambda pod: (is_other(pod), pod.metadata.name))


def trouble(pod: Seen) -> str:
    """Why a pod does not run; empty if it does, or has ended well."""
    name, phase = pod.metadata.name, pod.status.phase
    if phase == "Failed":
        return failure(pod)
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return _line(f"pod {name} has no node: {condition.words}")
    waits = [waiting for waiting in _waiting(pod) if waiting.reason not in (None, *_STARTING)]
    if waits:
        return _line(f"pod {name}: {waits[0].reason}", waits[0].message, _ADVICE.get(waits[0].reason or ""))
    if phase == "Pending":
        return _line(
            f"pod {name} starts: it pulls the image or mounts volumes; 'kubectl describe pod -n "
            f"{pod.metadata.namespace} {name}' shows what it waits for"
        )
    return ""


def failure(pod: Seen) -> str:
    """How a pod that failed ended."""
    name, status = pod.metadata.name, pod.status
    disruption = status.having("DisruptionTarget")
    if disruption and disruption.reason in _DISRUPTED:
        return _line(f"pod {name} {_DISRUPTED[disruption.reason]}", disruption.message)
    if status.reason:  # Evicted, NodeLost, NodeShutdown, UnexpectedAdmissionError ...
        return _line(f"pod {name}: {status.reason}", status.message)
    ended = [one for one in _terminated(pod) if one.exitCode or one.reason == "OOMKilled"]
    if not ended:
        return f"pod {name} failed"
    if ended[0].reason == "OOMKilled":
        return f"pod {name} was killed: it used more memory than its limit: raise --mem"
    return _line(f"pod {name} ended with exit code {ended[0].exitCode}", ended[0].message)


def _waiting(pod: Seen) -> list[Waiting]:
    states = [one.state for one in _containers(pod)]
    return [state.waiting for state in states if state and state.waiting]


def _terminated(pod: Seen) -> list[Terminated]:
    states = [state for one in _containers(pod) for state in (one.state, one.lastState)]
    return [state.terminated for state in states if state and state.terminated]


def _containers(pod: Seen) -> list[ContainerStatus]:
    return [*(pod.status.initContainerStatuses or []), *(pod.status.containerStatuses or [])]


def _line(what: str, *more: str | None) -> str:
    """One line of a readable length: the cluster's words are in the middle, and what to do at the end."""
    first, *rest = (plain(words).rstrip(". ") for words in (what, *more) if words)
    return ": ".join([first[:_LONGEST], *(words[:_LONGEST] for words in rest)])
