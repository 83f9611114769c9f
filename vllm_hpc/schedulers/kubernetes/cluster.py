"""kubectl: create a job, ask about jobs, delete one, read its first pod's output. A job's id is NAMESPACE/NAME.

The manifest has a generateName: each submission gets a name of its own, so that a resume does not meet the job that has
ended. A job that its cluster does not have was deleted: the job folder says how it ended.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.schedulers.client import Ask, ClientError, ClientMissingError, call_client, clean_environment
from vllm_hpc.schedulers.kubernetes.kubectl import (
    KINDS,
    Cluster,
    Manifest,
    cluster_of,
    configured,
    on,
    read_manifest,
)
from vllm_hpc.schedulers.kubernetes.objects import Seen, parse
from vllm_hpc.schedulers.kubernetes.pod_reasons import sorted_pods
from vllm_hpc.schedulers.kubernetes.states import has_ended, state_of
from vllm_hpc.schedulers.scheduler import JobState, Question

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_UID = r"[0-9a-f-]{8,64}"
ID = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
# The line that kubectl create is told to print, and what a user may give as an id.
SUBMITTED = re.compile(rf"^({_NAME}/{_NAME})(?: ({_UID}))?$", re.ASCII | re.MULTILINE)
_PRINT = 'jsonpath={.metadata.namespace}/{.metadata.name} {.metadata.uid}{"\\n"}'
_FORGOTTEN = JobState("forgotten", "its cluster does not have the job (any more)")
# As many jobs are asked for by one call, of which kubectl makes a request each.
_AT_ONCE = 100
# Seconds within which a rank has given a sign of life: they do so every 5 s (engine/health/watchdog.py).
_ALIVE_S = 30
# Seconds by which the clocks of the cluster and of this machine may differ.
_SKEW_S = 120
_MOST_OF_A_LOG = 64 << 20


def submit_argv(script: Path) -> list[str]:
    """kubectl creates the job, and prints its id."""
    return ["kubectl", *on(read_manifest(script.parent).context), "create", "-f", str(script), "-o", _PRINT]


def environment(script: Path) -> dict[str, str]:
    """This process's environment, with KUBECONFIG."""
    return clean_environment()


def remember(job: JobFolder, output: str) -> None:
    """Keep where the job was created: kubectl's current context may be another one tomorrow."""
    manifest, printed = read_manifest(job.path), list(SUBMITTED.finditer(output))
    server, context = "", manifest.context
    with suppress(ClientError):  # without it, a job that is not found is not taken for deleted
        context, server = configured(manifest.context)
    uid = (printed[-1][2] or "") if printed else ""
    write_json(job.cluster, Cluster(kind=manifest.kind, context=context, server=server, uid=uid, uuid=job.uuid))


def query(job: JobFolder, job_id: str, tasks: Sequence[str] = (), ask: Ask = call_client) -> dict[str, JobState]:
    """What the cluster says of the job."""
    return query_all([Question(job, job_id, tuple(tasks or [job_id]))], ask)[0]


def query_all(questions: Sequence[Question], ask: Ask = call_client) -> list[dict[str, JobState]]:
    """What their clusters say of many jobs: two calls for each hundred of a cluster's namespace."""
    clusters = [cluster_of(one.job) for one in questions]

    def place(index: int) -> tuple[str, str, str]:
        namespace = questions[index].job_id.partition("/")[0]
        return clusters[index].context or "", clusters[index].kind, namespace

    found: dict[int, JobState] = {}
    for _, group in groupby(sorted(range(len(questions)), key=place), key=place):
        indices = list(group)
        for first in range(0, len(indices), _AT_ONCE):
            some = indices[first : first + _AT_ONCE]
            states = _query_some([questions[index] for index in some], [clusters[index] for index in some], ask)
            found |= zip(some, states, strict=True)
    return [dict.fromkeys(one.tasks, found[index]) for index, one in enumerate(questions)]


def _query_some(questions: Sequence[Question], clusters: Sequence[Cluster], ask: Ask) -> list[JobState]:
    """The states of jobs of one kind in one namespace of one context."""
    namespace, kind = questions[0].job_id.partition("/")[0], KINDS[clusters[0].kind]
    names = [one.job_id.partition("/")[2] for one in questions]
    of_namespace = ["-n", namespace, "-o", "json"]
    kubectl = ["kubectl", *on(clusters[0].context), "get"]
    try:
        jobs = parse(ask([*kubectl, kind.resource, *dict.fromkeys(names), "--ignore-not-found", *of_namespace]))
    except ClientError as error:
        return [_by_folder(one.job, error) for one in questions]
    by_name = {one.metadata.name: one for one in jobs}
    open_names = [name for name in by_name if not by_name[name].status.having("Succeeded", "Complete")]
    pods: list[Seen] | None = []
    if open_names:
        try:
            pods = parse(ask([*kubectl, "pods", "-l", f"{kind.of_job} in ({','.join(open_names)})", *of_namespace]))
        except ClientError:  # forbidden, perhaps: the job itself says less, but enough
            pods = None
    states = []
    for question, cluster, name in zip(questions, clusters, names, strict=True):
        if name not in by_name or (cluster.uid and by_name[name].metadata.uid != cluster.uid):
            states.append(_missing(question, cluster, ask))
            continue
        own = [pod for pod in pods or () if pod.label(kind.of_job) == name]
        states.append(state_of(by_name[name], None if pods is None else sorted_pods(own, kind.first)))
    return states


def _missing(question: Question, cluster: Cluster, ask: Ask) -> JobState:
    """The state of a job that the cluster does not have, if it is the one that it was submitted to."""
    try:
        now = configured(cluster.context, ask)
    except ClientError as error:
        return JobState("unknown", str(error))
    if cluster.server == now.server:
        return _FORGOTTEN
    if not cluster.server:
        return JobState("unknown", f"{now.server} does not have it, and it is not known whether it was submitted there")
    return JobState(
        "unknown",
        f"kubectl's context {now.context!r} is of {now.server} now, and the job was submitted to {cluster.server}",
    )


def _by_folder(job: JobFolder, error: ClientError) -> JobState:
    """The state of a job whose cluster cannot be asked: it runs if one of its ranks shows that."""
    if isinstance(error, ClientMissingError) and _is_alive(job):
        return JobState("running")
    return JobState("unknown", str(error))


def _is_alive(job: JobFolder) -> bool:
    newest = 0.0
    for heartbeat in (job.path / "state").glob("heartbeat-*.json"):
        with suppress(OSError):
            newest = max(newest, heartbeat.stat().st_mtime)
    return time.time() - newest < _ALIVE_S


def cancel(job: JobFolder, job_id: str) -> None:
    """Delete the job, pods first, unless it is gone. Raises ClientError with the cluster's message."""
    namespace, _, name = job_id.partition("/")
    cluster = cluster_of(job)
    # Without --wait: pods have a grace period, in which ranks write what they have.
    how = ["--cascade=foreground", "--wait=false", "--ignore-not-found", "-n", namespace]
    call_client(["kubectl", *on(cluster.context), "delete", KINDS[cluster.kind].resource, name, *how])


def find_job(job: JobFolder, known: Sequence[str], ask: Ask = call_client) -> str | None:
    """The newest job, waiting or running, that was made of this folder's manifest and has no known id.

    Raises ClientError.
    """
    manifest, cluster = read_manifest(job.path), cluster_of(job)
    record = job.job()
    if manifest.folder is None:
        raise ClientError("its manifest has no label vllm-hpc/folder, by which to find it")
    where = ["-l", f"vllm-hpc/folder={manifest.folder}", *_namespace(manifest), "-o", "json"]
    found = parse(ask(["kubectl", *on(cluster.context), "get", KINDS[cluster.kind].resource, *where]))
    those = [
        (one.metadata.creationTimestamp or "", f"{one.metadata.namespace}/{one.metadata.name}")
        for one in found
        if not has_ended(one) and _created(one) > record.created_at - _SKEW_S
    ]
    return max((one for one in those if one[1] not in known), default=("", None))[1]


def _namespace(manifest: Manifest) -> list[str]:
    return ["-n", manifest.namespace] if manifest.namespace else []


def _created(one: Seen) -> float:
    """When it was created, in seconds; without end if that is not understood."""
    try:
        return calendar.timegm(time.strptime(one.metadata.creationTimestamp or "", "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return float("inf")


def read_log(job: JobFolder, job_id: str) -> str:
    """The output of the first pod, as far as the cluster keeps it. Raises ClientError."""
    namespace, _, name = job_id.partition("/")
    cluster = cluster_of(job)
    kind = KINDS[cluster.kind]
    first = ",".join(f"{label}={value}" for label, value in {kind.of_job: name, **kind.first}.items())
    return call_client(
        [
            "kubectl",
            *on(cluster.context),
            "logs",
            "-n",
            namespace,
            "-l",
            first,
            "--tail=-1",
            f"--limit-bytes={_MOST_OF_A_LOG}",
        ]
    )
