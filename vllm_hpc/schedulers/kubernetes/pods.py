"""What the manifest of a job has besides its script: names, volumes, resources, in the words of Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.containers.binds import own_paths
from vllm_hpc.schedulers.kubernetes.names import CONTEXT, FOLDER_LABEL, folder_key, object_prefix
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.kubernetes import Kubernetes, Volume
from vllm_hpc.spec.kubernetes_checks import SHM_VOLUME, check_kubernetes, check_volumes, secret_of, toleration
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.values import megabytes

Json = dict[str, Any]
# Where Kubeflow's pods meet unless the manifest says otherwise.
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# Which label of a pod has its job's name: Kubeflow's, and JobSet's, which is called as the TrainJob.
_NAME_LABELS = {"pytorchjob": "training.kubeflow.org/job-name", "trainjob": "jobset.sigs.k8s.io/jobset-name"}
# Seconds from TERM to KILL: torchrun gives its ranks 30.
GRACE_S = 60


class Pods(msgspec.Struct, frozen=True, kw_only=True):
    """The pods of a job, as ``job.pods`` of a template: tables and lists are as a manifest has them.

    ``labels`` are those of the job and of its pods, ``job_labels`` the job's alone, and so are ``job_annotations``.
    ``prefix`` is how its name begins, ``endings`` how those of its pods end, the first one first. ``spec`` is what else
    the pods' spec has: the rest of it stands in the template.
    """

    api: str
    prefix: str
    namespace: str
    runtime: str
    image: str
    python: str
    bundle: str
    labels: dict[str, str]
    job_labels: dict[str, str]
    annotations: dict[str, str]
    job_annotations: dict[str, str]
    endings: tuple[str, ...]
    env: tuple[Json, ...]
    mounts: tuple[Json, ...]
    volumes: tuple[Json, ...]
    resources: Json
    security: Json
    spec: Json
    grace_s: int = GRACE_S


def describe_pods(
    job: ResolvedJob, layout: Layout, folder: JobFolder, asked: Mapping[str, Any], needs: Iterable[Path]
) -> Pods:
    """The pods of a job. ``asked``: gpus, cores and memory of each. Raises RequestError for what no mount has."""
    cluster, container = job.site.kubernetes or Kubernetes(), job.site.container or Container()
    check_kubernetes(cluster, "'kubernetes'")
    check_volumes(cluster, "'kubernetes'")
    _check_mounted(_seen(job, own_paths(job, container, folder.path, needs)), cluster.volumes, _code(job))
    own = {FOLDER_LABEL: folder_key(folder.path)}
    return Pods(
        api=cluster.api,
        prefix=object_prefix(folder.path),
        namespace=cluster.namespace,
        runtime=cluster.runtime,
        image=str(container.image),
        python=container.python,
        bundle=container.bundle or "",
        labels={**cluster.labels, **own},
        job_labels={_QUEUE_LABEL: cluster.queue} if cluster.queue else {},
        annotations=cluster.annotations,
        job_annotations={CONTEXT: cluster.context} if cluster.context else {},
        endings=_endings(cluster.api, layout.nodes),
        env=(*_own_fields(cluster.api), *_secrets(cluster)),
        mounts=tuple(_mounts(cluster)),
        volumes=tuple(_volumes(cluster)),
        resources=_resources(cluster, asked),
        security={
            "runAsUser": os.getuid() if cluster.run_as_user is None else cluster.run_as_user,
            "runAsGroup": os.getgid() if cluster.run_as_group is None else cluster.run_as_group,
        },
        spec=_spec(cluster),
    )


def _endings(api: str, nodes: int) -> tuple[str, ...]:
    if api == "trainjob":
        return tuple(f"node-0-{number}" for number in range(nodes))
    return ("master-0", *(f"worker-{number}" for number in range(nodes - 1)))


def _own_fields(api: str) -> Iterator[Json]:
    """What a pod learns of itself: its job's name, which the API server chose, and where pod 0 listens."""
    yield _field("VLLM_HPC_JOB_NAME", f"metadata.labels['{_NAME_LABELS[api]}']")
    # Pod 0's own name may not lead anywhere before it runs.
    yield _field("VLLM_HPC_POD_IP", "status.podIP")


def _field(variable: str, path: str) -> Json:
    """A variable that each pod has from its own object."""
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _secrets(cluster: Kubernetes) -> Iterator[Json]:
    for variable, text in cluster.secrets.items():
        name, key = secret_of(text)
        yield {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _mounts(cluster: Kubernetes) -> Iterator[Json]:
    yield {"name": SHM_VOLUME, "mountPath": "/dev/shm"}
    for name, volume in cluster.volumes.items():
        mount: Json = {"name": name, "mountPath": volume.mount}
        if volume.sub_path:
            mount["subPath"] = volume.sub_path
        if volume.read_only:
            mount["readOnly"] = True
        yield mount


def _volumes(cluster: Kubernetes) -> Iterator[Json]:
    yield {"name": SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shm}}
    for name, volume in cluster.volumes.items():
        yield {"name": name, **_source(volume)}


def _source(volume: Volume) -> Json:
    if volume.claim:
        return {"persistentVolumeClaim": {"claimName": volume.claim}}
    if volume.nfs:
        server, _, path = volume.nfs.partition(":")
        return {"nfs": {"server": server, "path": path}}
    return {"hostPath": {"path": volume.host_path, "type": "Directory"}}


def _resources(cluster: Kubernetes, asked: Mapping[str, Any]) -> Json:
    """Requests and limits alike: a pod then has its cores and its memory for itself."""
    found: dict[str, str] = {}
    if asked["cores"]:
        found["cpu"] = str(asked["cores"])
    if asked["memory"]:
        found["memory"] = f"{megabytes(asked['memory'])}Mi"
    if asked["gpus"]:
        found[cluster.gpu_resource] = str(asked["gpus"])
    return {"requests": found, "limits": found} if found else {}


def _spec(cluster: Kubernetes) -> Json:
    tolerations = [toleration(text, "'kubernetes'.tolerations") for text in cluster.tolerations]
    every: Json = {
        "serviceAccountName": cluster.service_account,
        "imagePullSecrets": [{"name": name} for name in cluster.image_pull_secrets],
        "nodeSelector": cluster.node_selector,
        "tolerations": tolerations,
        "priorityClassName": cluster.priority_class,
    }
    return {key: value for key, value in every.items() if value}


def _code(job: ResolvedJob) -> Path | None:
    """The folder of its program, if it has one that pods must see."""
    return Path(job.program.program.folder) if job.program and job.program.program.folder else None


def _seen(job: ResolvedJob, paths: Mapping[Path, bool]) -> dict[Path, bool]:
    """What pods must see: not a script's working directory, for it runs in that only where it is there."""
    directory = Path(job.program.program.directory) if job.program else None
    return {path: is_read for path, is_read in paths.items() if path != directory or path == _code(job)}


def _check_mounted(paths: Mapping[Path, bool], volumes: Mapping[str, Volume], code: Path | None) -> None:
    """Refuse a path that pods would not see, or not write to.

    ``paths``: whether they only read it. ``code``: which of them is of the program, whose neighbours are imported.
    """
    mounts = sorted(volumes.values(), key=lambda one: -len(str(one.mount)))
    for path, is_read in paths.items():
        volume = next((one for one in mounts if path.is_relative_to(str(one.mount))), None)
        if volume is None:
            known = ", ".join(sorted(str(one.mount) for one in mounts)) or "none"
            what = ", the folder of your code" if path == code else ""
            raise RequestError(
                f"pods would not see {str(path)!r}{what}: it must be in a volume of kubernetes.volumes in the profile, "
                f"whose mounts are: {known}"
            )
        if volume.read_only and not is_read:
            raise RequestError(
                f"pods must write to {str(path)!r}, but its volume, {volume.mount}, has read_only = true"
            )
