"""What an API server and Kubeflow's webhooks refuse, in their words: Status objects of the Kubernetes API."""

from __future__ import annotations

import re
from typing import Any

_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)


class StatusError(Exception):
    """An answer that is a Status: its HTTP code, reason and message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.content = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


def not_found(plural: str, name: str) -> StatusError:
    """404, of an object."""
    group = {"pytorchjobs": ".kubeflow.org", "trainjobs": ".trainer.kubeflow.org"}.get(plural, "")
    return StatusError(404, "NotFound", f'{plural}{group} "{name}" not found')


def invalid(kind: str, name: str, words: str) -> StatusError:
    """422, of an object that its schema does not allow."""
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {words}')


def check_job(kind: tuple[str, str], name: str, body: dict[str, Any]) -> None:
    """Check a PyTorchJob or a TrainJob. Raises StatusError."""
    api, of = kind
    if (body.get("apiVersion"), body.get("kind")) != kind:
        said = f"{body.get('kind')} in version {body.get('apiVersion')!r}"
        raise StatusError(400, "BadRequest", f"{said} cannot be handled as a {of}: converting to {api} is not possible")
    unknown = sorted(body.keys() - {"apiVersion", "kind", "metadata", "spec", "status"})
    if unknown:
        words = f'unknown field "{unknown[0]}"'
        raise StatusError(
            400,
            "BadRequest",
            f'{of} in version "{api.rpartition("/")[2]}" cannot be handled as a {of}: strict decoding error: {words}',
        )
    if not _LABEL_1035.fullmatch(name):
        words = "a DNS-1035 label must consist of lower case alphanumeric characters or '-'"
        raise invalid(of, name, f'metadata.name: Invalid value: "{name}": {words}')
    for key, value in (body["metadata"].get("labels") or {}).items():
        if not (_LABEL_KEY.fullmatch(key) and isinstance(value, str) and _LABEL_VALUE.fullmatch(value)):
            raise invalid(
                of, name, f'metadata.labels: Invalid value: "{value}": a valid label must be an empty string or ...'
            )
    spec = body.get("spec")
    if not isinstance(spec, dict):
        raise invalid(of, name, "spec: Required value")
    if of == "PyTorchJob":
        _check_pytorchjob(name, spec)
    elif not (spec.get("runtimeRef") or {}).get("name"):
        raise invalid(of, name, "spec.runtimeRef.name: Required value")


def _check_pytorchjob(name: str, spec: dict[str, Any]) -> None:
    """pkg/webhooks/pytorch/pytorchjob_webhook.go of training-operator 1.9."""
    replicas = spec.get("pytorchReplicaSpecs")
    if not replicas:
        raise invalid("PyTorchJob", name, "spec.pytorchReplicaSpecs: Required value: must be specified")
    for role, replica in replicas.items():
        if role not in ("Master", "Worker"):
            raise _denied(name, f'spec.pytorchReplicaSpecs: Unsupported value: "{role}"')
        if role == "Master" and replica.get("replicas") not in (None, 1):
            raise _denied(name, "spec.pytorchReplicaSpecs[Master].replicas: Forbidden: must be 1")
        containers = replica["template"]["spec"]["containers"]
        if not all(one.get("image") for one in containers):
            raise _denied(
                name,
                f"spec.pytorchReplicaSpecs[{role}].template.spec.containers[0].image: Required value: must be required",
            )
        if "pytorch" not in [one.get("name") for one in containers]:
            raise _denied(
                name,
                f"spec.pytorchReplicaSpecs[{role}].template.spec: no container with name pytorch",
            )


def _denied(name: str, words: str) -> StatusError:
    hook = "validator.pytorchjob.training-operator.kubeflow.org"
    return StatusError(403, "Forbidden", f'admission webhook "{hook}" denied the request: {words}')
