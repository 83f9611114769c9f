"""Kubernetes: what a profile says of the cluster that runs a job's pods; each field is a key of the table."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vllm_hpc.spec.keys import key

UserId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder that all pods of a job see at one path: a claim, a folder of the nodes, or an NFS export."""

    mount: Annotated[
        str | None, key("its path in the pods, which is that of the machine that submits", (), "at submission")
    ] = None
    claim: Annotated[str | None, key("the PersistentVolumeClaim that holds it", (), "at submission")] = None
    host_path: Annotated[str | None, key("a folder that each node has", (), "at submission")] = None
    nfs: Annotated[str | None, key("SERVER:/PATH of an NFS export", (), "at submission")] = None
    sub_path: Annotated[
        str | None, key("the folder of the volume that is mounted, if not all of it", (), "at submission")
    ] = None
    read_only: Annotated[bool, key("whether pods only read it: models, for example")] = False


class Kubernetes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster with Kubeflow's operator: which kind of job it gets, and what the pods of a job are given."""

    api: Annotated[
        Literal["pytorchjob", "trainjob"], key("PyTorchJob of the training operator, or TrainJob of its successor")
    ] = "pytorchjob"
    namespace: Annotated[str, key("where jobs are created", (), "at submission")] = "default"
    context: Annotated[str | None, key("kubectl's context, if not its current one")] = None
    runtime: Annotated[str, key("TrainJob's ClusterTrainingRuntime")] = "torch-distributed"
    queue: Annotated[str | None, key("Kueue's LocalQueue")] = None
    priority_class: Annotated[str | None, key("the PriorityClass of the pods")] = None
    gpu_resource: Annotated[str, key("what a GPU is called, such as amd.com/gpu")] = "nvidia.com/gpu"
    shm: Annotated[str, key("memory for /dev/shm in each pod")] = "16Gi"
    volumes: Annotated[dict[str, Volume], key("tables kubernetes.volumes.NAME: what all pods see")] = {}
    secrets: Annotated[dict[str, str], key("variables from a Secret: NAME/KEY")] = {}
    service_account: Annotated[str | None, key("the ServiceAccount of the pods")] = None
    image_pull_secrets: Annotated[tuple[str, ...], key("Secrets with which the image is pulled")] = ()
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None, key("when the image is pulled; Kubernetes' default without")
    ] = None
    node_selector: Annotated[dict[str, str], key("labels that the nodes must have")] = {}
    tolerations: Annotated[tuple[str, ...], key("taints that pods tolerate: KEY[=VALUE][:EFFECT]")] = ()
    labels: Annotated[dict[str, str], key("more labels of the job and its pods")] = {}
    annotations: Annotated[dict[str, str], key("more annotations of the job and its pods")] = {}
    run_as_user: Annotated[UserId | None, key("the user id of the pods; the submitter's without")] = None
    run_as_group: Annotated[UserId | None, key("their group id; the submitter's without")] = None
