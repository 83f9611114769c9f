"""What is in the stand-in's cluster, and what Kubeflow's operator and the kubelet do there, when a test says so."""

from __future__ import annotations

import itertools
import re
import threading
import time
from typing import Any

from tests.kubernetes.checks import StatusError, check_job, invalid, not_found

__all__ = ["Operator", "StatusError"]

Object = dict[str, Any]
# Which label of a pod has its job's name.
JOB_NAME = {"pytorchjobs": "training.kubeflow.org/job-name", "trainjobs": "jobset.sigs.k8s.io/jobset-name"}
# apiserver's names for generateName.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class Operator:
    """Jobs and pods by (kind, namespace, name)."""

    def __init__(self) -> None:
        self.namespaces = {"default", "team"}
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.logs: dict[str, str] = {}
        self.deletes_at_once = True
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    # -- what the API server does ---------------------------------------------------------------------------------
    def create(self, namespace: str, plural: str, kind: tuple[str, str], body: Object) -> Object:
        """Check a job as the API server and the operator's webhook do, and keep it. Raises StatusError."""
        with self._lock:
            if namespace not in self.namespaces:
                raise not_found("namespaces", namespace)
            metadata = body.get("metadata") or {}
            if metadata.get("namespace") not in (None, namespace):
                raise StatusError(
                    400,
                    "BadRequest",
                    "the namespace of the provided object does not match the namespace sent on the request",
                )
            number = next(self._numbers)
            name = metadata.get("name") or f"{metadata.get('generateName', '')[:58]}{_suffix(number)}"
            if not (metadata.get("name") or metadata.get("generateName")):
                raise invalid(kind[1], "", "metadata.name: Required value: name or generateName is required")
            check_job(kind, name, body)
            if (plural, namespace, name) in self.objects:
                raise StatusError(409, "AlreadyExists", f'{plural}.{kind[0].split("/")[0]} "{name}" already exists')
            kept = {
                **metadata,
                "name": name,
                "namespace": namespace,
                "uid": f"00000000-0000-4000-8000-{number:012d}",
                "creationTimestamp": _now(),
                "resourceVersion": str(number),
            }
            self.objects[plural, namespace, name] = {**body, "metadata": kept}
            return self.objects[plural, namespace, name]

    def get(self, namespace: str, plural: str, name: str) -> Object:
        """One object. Raises StatusError."""
        found = self.objects.get((plural, namespace, name))
        if found is None:
            raise not_found(plural, name)
        return found

    def chosen(self, namespace: str, plural: str, query: dict[str, str]) -> list[Object]:
        """The objects of a namespace that selectors choose. Raises StatusError."""
        chosen = [one for (of, where, _), one in self.objects.items() if (of, where) == (plural, namespace)]
        return [one for one in chosen if _is_selected(one, query.get("labelSelector", ""))]

    def delete(self, namespace: str, plural: str, name: str, options: Object) -> Object:
        """Delete a job, with its pods first (propagationPolicy Foreground). Raises StatusError."""
        found = self.get(namespace, plural, name)
        if options.get("propagationPolicy") != "Foreground":
            raise StatusError(400, "BadRequest", f"the test wants Foreground, not {options}")
        if self.deletes_at_once:
            self.end_deletion(name)
        else:
            found["metadata"] |= {"deletionTimestamp": _now(), "finalizers": ["foregroundDeletion"]}
        return found

    def log(self, namespace: str, name: str, query: dict[str, str]) -> str:
        """A pod's output. Raises StatusError while its container waits."""
        pod = self.get(namespace, "pods", name)
        (container,) = pod["spec"]["containers"]
        waiting = pod["status"].get("containerStatuses", [{}])[0].get("state", {}).get("waiting")
        if waiting:
            words = f'container "{container["name"]}" in pod "{name}" is waiting to start: {waiting["reason"]}'
            raise StatusError(400, "BadRequest", words)
        return self.logs.get(name, "")

    # -- what the operator and the kubelet do ---------------------------------------------------------------------
    def job(self, name: str) -> Object:
        """A job by its name alone."""
        (found,) = [one for (plural, _, of), one in self.objects.items() if of == name and plural != "pods"]
        return found

    def names(self) -> list[str]:
        """The names of all jobs, oldest first."""
        return [name for plural, _, name in self.objects if plural != "pods"]

    def end_deletion(self, name: str) -> None:
        """Remove a job and its pods, as somebody's kubectl delete does in the end."""
        for key, one in list(self.objects.items()):
            labels = one["metadata"].get("labels", {})
            if key[2] == name or name in (labels.get(label) for label in JOB_NAME.values()):
                del self.objects[key]

    def condition(self, name: str, kind: str, message: str = "", reason: str = "") -> None:
        """Set a condition to True, and the others as the operator does (training-operator 1.9, pkg/util/status.go)."""
        conditions: list[Object] = self.job(name).setdefault("status", {}).setdefault("conditions", [])
        kept = []
        for one in conditions:
            if one["type"] == kind or {one["type"], kind} == {"Running", "Restarting"}:
                continue
            is_over = kind in ("Failed", "Succeeded") and one["type"] == "Running"
            kept.append({**one, "status": "False"} if is_over else one)
        new = {"type": kind, "status": "True", "reason": reason or f"PyTorchJob{kind}", "message": message}
        self.job(name)["status"]["conditions"] = [*kept, {**new, "lastTransitionTime": _now()}]

    def pod(self, job: str, role: str = "master", index: int = 0, **status: Any) -> Object:
        """A pod of a job with that status (phase, conditions, containerStatuses ...)."""
        plural, namespace, _ = next(key for key in self.objects if key[2] == job and key[0] != "pods")
        is_torch = plural == "pytorchjobs"
        name = f"{job}-{role}-{index}" if is_torch else f"{job}-node-0-{index}-x7k2p"
        labels = {JOB_NAME[plural]: job}
        labels |= (
            {"training.kubeflow.org/replica-type": role, "training.kubeflow.org/replica-index": str(index)}
            if is_torch
            else {
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(index),
            }
        )
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels, "creationTimestamp": _now()},
            "spec": {"containers": [{"name": "pytorch" if is_torch else "node", "image": "vllm:1"}]},
            "status": {"phase": "Running", **status},
        }
        self.objects["pods", namespace, name] = pod
        return pod


def waiting(reason: str, message: str = "") -> Object:
    """The status of a pod whose container waits."""
    state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    return {"phase": "Pending", "containerStatuses": [{"name": "pytorch", "restartCount": 0, "state": state}]}


def terminated(code: int, reason: str = "Error") -> Object:
    """The status of a pod whose container has ended."""
    state = {"terminated": {"exitCode": code, "reason": reason}}
    phase = "Failed" if code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": "pytorch", "restartCount": 0, "state": state}]}


def unschedulable(message: str) -> Object:
    """The status of a pod for which there is no node."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def _suffix(number: int) -> str:
    found = ""
    for _ in range(5):
        number, letter = divmod(number * 7 + 3, len(_LETTERS))
        found += _LETTERS[letter]
    return found


def _is_selected(one: Object, selector: str) -> bool:
    """Whether an object's labels are what ``a=b,c in (d,e)`` says. Raises StatusError for another syntax."""
    labels = one["metadata"].get("labels", {})
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        if match := re.fullmatch(r"([\w./-]+) in \(([^)]*)\)", part.strip()):
            if labels.get(match[1]) not in [value.strip() for value in match[2].split(",")]:
                return False
        elif match := re.fullmatch(r"([\w./-]+)==?([\w.-]*)", part.strip()):
            if labels.get(match[1]) != match[2]:
                return False
        else:
            raise StatusError(400, "BadRequest", f"unable to parse requirement: {part}")
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
