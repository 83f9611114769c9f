"""States and reasons from what a cluster says of a job and its pods."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.kubernetes.operator import Object, Operator, terminated, unschedulable, waiting
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.kubernetes.kubectl import KINDS
from vllm_hpc.schedulers.kubernetes.objects import Seen, parse
from vllm_hpc.schedulers.kubernetes.pod_reasons import sorted_pods
from vllm_hpc.schedulers.kubernetes.states import state_of
from vllm_hpc.schedulers.scheduler import JobState

pytestmark = pytest.mark.programs
PLURALS = {"pytorchjobs": "PyTorchJob", "trainjobs": "TrainJob"}
BOTH = pytest.mark.parametrize("plural", PLURALS)


class Cluster(Operator):
    """One job, called j, and what is made of it."""

    def __init__(self, plural: str = "pytorchjobs") -> None:
        super().__init__()
        self.kind = PLURALS[plural]
        metadata = {"name": "j", "namespace": "default"}
        self.objects[plural, "default", "j"] = {"kind": self.kind, "metadata": metadata, "spec": {}}

    def state(self, may_list_pods: bool = True) -> JobState:
        (job,) = parse(msgspec.json.encode(self.job("j")).decode())
        pods = [one for (plural, _, _), one in self.objects.items() if plural == "pods"]
        seen = parse(msgspec.json.encode({"kind": "List", "items": pods}).decode())
        return state_of(job, sorted_pods(seen, KINDS[self.kind].first) if may_list_pods else None)


@BOTH
def test_a_job_without_pods_waits(plural: str) -> None:
    assert Cluster(plural).state() == JobState("waiting", "its pods are not made yet")


@BOTH
def test_a_job_runs_if_its_first_pod_does(plural: str) -> None:
    cluster = Cluster(plural)
    cluster.pod("j", "worker", 1 if plural == "trainjobs" else 0, **unschedulable("no node has 8 GPUs"))
    first = cluster.pod("j")
    assert cluster.state().phase == "running"
    assert cluster.state().reason.endswith("has no node: no node has 8 GPUs")
    first["status"] = unschedulable("0/3 nodes are available")
    assert cluster.state().phase == "waiting"
    assert cluster.state().reason == f"pod {first['metadata']['name']} has no node: 0/3 nodes are available"


def test_of_pods_that_follow_each_other_the_last_counts() -> None:
    """A Job of Kubernetes keeps the pod that failed, and starts another one."""
    cluster = Cluster("trainjobs")
    old = cluster.pod("j", **terminated(1))
    del cluster.objects["pods", "default", old["metadata"]["name"]]
    old["metadata"] |= {"name": "j-node-0-0-zzzzz", "creationTimestamp": "2026-01-01T00:00:00Z"}
    cluster.objects["pods", "default", "j-node-0-0-zzzzz"] = old
    assert cluster.state().reason.endswith("the cluster has not ended the job yet")
    cluster.pod("j")
    assert cluster.state() == JobState("running")


def test_a_job_whose_pods_may_not_be_listed() -> None:
    cluster = Cluster()
    assert cluster.state(may_list_pods=False).phase == "waiting"
    cluster.condition("j", "Running")
    assert cluster.state(may_list_pods=False) == JobState("running")
    cluster.condition("j", "Restarting", "1 Master replica(s) failed.")
    assert cluster.state(may_list_pods=False) == JobState("waiting", "it is restarted: 1 Master replica(s) failed.")
    of_trainer = Cluster("trainjobs")
    counts = {"name": "node", "ready": 1, "succeeded": 0, "failed": 0, "active": 1, "suspended": 0}
    of_trainer.job("j")["status"] = {"jobsStatus": [counts]}
    assert of_trainer.state(may_list_pods=False) == JobState("running")


PENDING: dict[str, tuple[Object, str]] = {
    "no image": (
        waiting("ImagePullBackOff", 'Back-off pulling image "vllm:1"'),
        'pod j-master-0: ImagePullBackOff: Back-off pulling image "vllm:1": correct --container, or name '
        "image_pull_secrets in the profile",
    ),
    "a wrong name": (waiting("InvalidImageName"), "pod j-master-0: InvalidImageName: correct --container"),
    "no secret": (
        waiting("CreateContainerConfigError", 'secret "hub" not found'),
        'pod j-master-0: CreateContainerConfigError: secret "hub" not found: correct secrets in the profile\'s '
        "kubernetes table",
    ),
    "starting": (
        waiting("ContainerCreating"),
        "pod j-master-0 starts: it pulls the image or mounts volumes; 'kubectl describe pod -n default j-master-0' "
        "shows what it waits for",
    ),
    "a reason of tomorrow": (waiting("SomethingNew", "words"), "pod j-master-0: SomethingNew: words"),
    "no volume": (
        unschedulable('persistentvolumeclaim "shared" not found.'),
        'pod j-master-0 has no node: persistentvolumeclaim "shared" not found',
    ),
}


@pytest.mark.parametrize("case", PENDING)
def test_why_a_pod_waits(case: str) -> None:
    cluster = Cluster()
    status, words = PENDING[case]
    cluster.pod("j", **status)
    assert cluster.state() == JobState("waiting", words)


def disrupted(reason: str, message: str = "") -> Object:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return {"phase": "Failed", "conditions": [condition]}


ENDED: dict[str, tuple[Object, JobState]] = {
    "out of memory": (
        terminated(137, "OOMKilled"),
        JobState("failed", "pod j-master-0 was killed: it used more memory than its limit: raise --mem; why not"),
    ),
    "an exit code": (terminated(3), JobState("failed", "pod j-master-0 ended with exit code 3; why not")),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. "},
        JobState("failed", "pod j-master-0: Evicted: The node was low on resource: memory; why not"),
    ),
    "its node is gone": (
        disrupted("DeletionByPodGC", "PodGC: node no longer exists"),
        JobState("failed", "pod j-master-0 is gone with its node: PodGC: node no longer exists; why not"),
    ),
    "preempted": (
        disrupted("PreemptionByScheduler"),
        JobState("preempted", "pod j-master-0 was preempted by one of a higher priority"),
    ),
    "no trace": ({"phase": "Failed"}, JobState("failed", "pod j-master-0 failed; why not")),
}


@pytest.mark.parametrize("case", ENDED)
def test_why_a_job_failed(case: str) -> None:
    cluster = Cluster()
    status, expected = ENDED[case]
    cluster.pod("j", **status)
    cluster.pod("j", "worker")
    cluster.condition("j", "Failed", "why not")
    assert cluster.state() == expected


@pytest.mark.parametrize(
    ("plural", "reason", "message"),
    [
        ("pytorchjobs", "PyTorchJobFailed", "Job j has failed because it was active longer than specified deadline"),
        ("trainjobs", "DeadlineExceeded", "TrainJob exceeded its active deadline"),
    ],
)
def test_the_walltime_of_a_manifest(plural: str, reason: str, message: str) -> None:
    cluster = Cluster(plural)
    cluster.condition("j", "Failed", message, reason)
    assert cluster.state().phase == "timeout"


@BOTH
def test_a_job_that_ended_well(plural: str) -> None:
    cluster = Cluster(plural)
    cluster.condition("j", "Running")
    cluster.condition("j", "Succeeded" if plural == "pytorchjobs" else "Complete")
    assert cluster.state() == JobState("completed")


def test_a_job_that_kueue_holds() -> None:
    cluster = Cluster()
    cluster.condition("j", "Suspended", "PyTorchJob j is suspended.")
    assert cluster.state() == JobState("waiting", "suspended: PyTorchJob j is suspended.")
    cluster.job("j")["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    assert cluster.state().reason.startswith("Kueue has not admitted it: 'kubectl get workloads'")


def test_a_job_that_is_restarted() -> None:
    cluster = Cluster()
    cluster.condition("j", "Running")
    cluster.condition("j", "Restarting", "PyTorchJob j is restarting because 1 Master replica(s) failed.")
    cluster.pod("j", **unschedulable("0/3 nodes are available"))
    assert cluster.state() == JobState(
        "waiting",
        "it is restarted: PyTorchJob j is restarting because 1 Master replica(s) failed.; pod j-master-0 has no node: "
        "0/3 nodes are available",
    )


def test_a_job_that_is_being_deleted_still_has_its_pods() -> None:
    cluster = Cluster()
    cluster.job("j")["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert cluster.state().phase == "running"


@pytest.mark.parametrize(
    "answer",
    [
        "{",
        "[]",
        '"x"',
        "null",
        '{"items": 3}',
        '{"metadata": {"name": 3}}',
        '{"status": {"conditions": "x"}}',
        "\0",
        "\ud800",
    ],
)
def test_an_answer_that_is_none(answer: str) -> None:
    with pytest.raises(ClientError, match="not understood"):
        parse(answer)


@pytest.mark.parametrize("status", [{}, {"conditions": None}, {"containerStatuses": [{"name": "x"}]}, {"phase": None}])
def test_what_a_cluster_may_leave_out(status: dict[str, Any]) -> None:
    cluster = Cluster()
    cluster.pod("j")["status"] = status
    assert cluster.state().phase == "waiting"
    assert parse('{"kind": "List", "items": []}') == [] and parse(" \n") == []
    assert isinstance(parse("{}")[0], Seen)


def test_control_characters_of_a_cluster_are_not_printed() -> None:
    cluster = Cluster()
    cluster.pod("j", **waiting("ErrImagePull", "\x1b[31mred\x07\nnext " + "long" * 999))
    reason = cluster.state().reason
    assert reason.isprintable() and len(reason) < 1000
