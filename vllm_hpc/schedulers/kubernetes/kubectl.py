"""What kubectl is asked with: which cluster has a job, as which kind, and what kubectl's configuration says of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import ByHandError, ClientError, ClientTimeoutError, call_client
from vllm_hpc.spec.read_file import read_regular

MANIFEST = "manifest.yaml"
# What a pod sees of its cluster: kubectl needs no configuration there.
_POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_NO_CONTEXT = re.compile(r"current-context must exist|current-context is not set", re.IGNORECASE)
_KIND = re.compile(r'^kind: "?(PyTorchJob|TrainJob)"?\s*$', re.MULTILINE)
_CONTEXT = re.compile(r'^ .*?"?vllm-hpc/context"?: ("(?:[^"\\\n]|\\.)*")', re.MULTILINE)
_FOLDER = re.compile(r'^ .*?"?vllm-hpc/folder"?: "?([0-9a-f]{8,63})\b', re.MULTILINE)
_NAMESPACE = re.compile(r'^  "?namespace"?: "?([a-z0-9-]{1,63})"?\s*$', re.MULTILINE)
_MOST_BYTES = 4 << 20


class Kind(NamedTuple):
    """A kind of job: its name in full for kubectl, and how its pods, and the first of them, are labelled."""

    resource: str
    of_job: str
    first: dict[str, str]


KINDS = {
    # With the version: of pytorchjobs.kubeflow.org, kubectl takes "kubeflow" for one, and looks for all kinds anew.
    "PyTorchJob": Kind(
        "pytorchjobs.v1.kubeflow.org",
        "training.kubeflow.org/job-name",
        {"training.kubeflow.org/replica-type": "master"},
    ),
    "TrainJob": Kind(
        "trainjobs.v1alpha1.trainer.kubeflow.org",
        "jobset.sigs.k8s.io/jobset-name",
        {"jobset.sigs.k8s.io/replicatedjob-name": "node", "batch.kubernetes.io/job-completion-index": "0"},
    ),
}


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """state/cluster.json: where kubectl created the job.

    ``server``: the URL that the context named then. In another cluster, a job that is not found has not ended.
    """

    kind: str = "PyTorchJob"
    context: str | None = None
    server: str = ""
    uid: str = ""
    uuid: str = ""


class Manifest(NamedTuple):
    """What a job's manifest.yaml says of where it goes."""

    kind: str = "PyTorchJob"
    context: str | None = None
    namespace: str | None = None
    folder: str | None = None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a job; what is missing in it, as where a template of a site leaves it out, is None."""
    try:
        text = read_regular(folder / MANIFEST, _MOST_BYTES, follow_links=False).decode(errors="replace")
    except OSError:
        return Manifest()
    kind, context, namespace, label = (found.search(text) for found in (_KIND, _CONTEXT, _NAMESPACE, _FOLDER))
    return Manifest(
        kind[1] if kind else "PyTorchJob",
        _text(context[1]) if context else None,
        namespace[1] if namespace else None,
        label[1] if label else None,
    )


def cluster_of(job: JobFolder) -> Cluster:
    """Where the job is, by the record of its submission, else by its manifest: then ``server`` is empty."""
    record = job.read(job.cluster, Cluster)
    if record is not None and record.kind in KINDS:
        return record
    manifest = read_manifest(job.path)
    return Cluster(kind=manifest.kind, context=manifest.context)


def _text(quoted: str) -> str:
    """The text in a manifest's quotes. What is no JSON stays as it is: no context is called so, and kubectl says it."""
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted


def on(context: str | None) -> list[str]:
    """The words that choose a context. No text stands for the current one, and no argument can hold a NUL byte."""
    return [] if context is None else ["--context=" + (context.replace("\0", "?") or "''")]


class Configured(NamedTuple):
    """What kubectl's configuration says of a context, or of its current one."""

    context: str | None
    server: str


def configured(context: str | None, ask: Callable[[list[str]], str] = call_client) -> Configured:
    """Read it, without asking the cluster. Raises ClientError if there is no such context."""
    try:
        answer = ask(["kubectl", *on(context), "config", "view", "--minify", "-o", "json"])
    except ClientError as error:
        if context is None and _NO_CONTEXT.search(str(error)) and _is_in_a_pod():
            return Configured(None, "in-cluster")
        raise
    try:
        view = json.loads(answer)
        return Configured(str(view["current-context"]) or context, str(view["clusters"][0]["cluster"]["server"]))
    except (ValueError, LookupError, TypeError):
        raise ClientError("kubectl's configuration names no server: 'kubectl config view' shows it") from None


def check_reach(script: Path) -> None:
    """Check that there is a cluster to submit to. Raises ByHandError if another machine has to, or ClientError."""
    by_hand = f"'kubectl create -f {shlex.quote(str(script))}' submits it where there is one."
    if shutil.which("kubectl") is None:
        raise ByHandError("there is no kubectl here", by_hand)
    context = read_manifest(script.parent).context
    try:
        configured(context)
    except ClientTimeoutError as error:
        raise ClientError(f"nothing was submitted: {error}") from None
    except ClientError as error:
        if context is None and _NO_CONTEXT.search(str(error)):
            raise ByHandError("kubectl has no cluster here (no current context)", by_hand) from None
        if context is not None and "context" in str(error):
            raise ClientError(
                f"kubectl has no context {context!r}, which the profile names: 'kubectl config get-contexts' lists them"
            ) from None
        raise


def _is_in_a_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and _POD_TOKEN.exists()
