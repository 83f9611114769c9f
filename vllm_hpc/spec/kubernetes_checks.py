"""Checks of a profile's table ``kubernetes``: Kubernetes' own rules for names, labels, amounts and paths."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.expand import has_variables
from vllm_hpc.spec.kubernetes import Kubernetes, Volume

# Of the pod's own /dev/shm.
SHM_VOLUME = "vllm-hpc-shm"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_KEY_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(rf"({_KEY_NAME.pattern})?", re.ASCII)
_AMOUNT = re.compile(r"[1-9][0-9]{0,8}(Ki|Mi|Gi|Ti|k|M|G|T)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SECRET = re.compile(r"([^/]+)/([A-Za-z0-9._-]{1,253})", re.ASCII)
_TOLERATION = re.compile(r"([^=:]+)(?:=([^:]*))?(?::(NoSchedule|PreferNoSchedule|NoExecute))?", re.ASCII)
# Set by the operator, and by us.
_OWN_VARIABLES = re.compile(r"RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|(PET|VLLM_HPC)_.*", re.ASCII)
_OWN_LABELS = ("vllm-hpc/", "training.kubeflow.org/", "trainer.kubeflow.org/", "jobset.sigs.k8s.io/", "kubernetes.io/")
_LONGEST = 4096
# Of all annotations of an object together, in bytes (TotalAnnotationSizeLimitB), with room for those of operators.
_MOST_ANNOTATED = 192 << 10


def check_kubernetes(value: Kubernetes, origin: str) -> None:
    """Check the table; what has variables is checked once these are known. Raises RequestError."""
    for name in ("context", "service_account", "runtime", "queue", "priority_class"):
        one = getattr(value, name)
        if one is not None and name != "context":
            _check(one, _SUBDOMAIN, f"{origin}.{name}", "a name of lower-case letters, digits, '-' and '.'")
    if (context := value.context) is not None and (
        not context.isprintable() or context.strip("- ") != context or len(context) > _LONGEST
    ):
        raise RequestError(f"{origin}.context must be a context of kubectl, not {context[:_LONGEST]!r}")
    _check(value.namespace, _LABEL, f"{origin}.namespace", "a name of at most 63 lower-case letters, digits and '-'")
    _check(value.shm, _AMOUNT, f"{origin}.shm", "an amount of memory, such as 16Gi")
    _check_key(value.gpu_resource, f"{origin}.gpu_resource", "a resource, such as nvidia.com/gpu")
    for secret in value.image_pull_secrets:
        _check(secret, _SUBDOMAIN, f"{origin}.image_pull_secrets", "names of Secrets")
    _check_secrets(value.secrets, f"{origin}.secrets")
    _check_labels(value, origin)
    for text in value.tolerations:
        toleration(text, f"{origin}.tolerations")
    for name, volume in value.volumes.items():
        _check_volume(name, volume, f"{origin}.volumes")


def toleration(text: str, origin: str) -> dict[str, str]:
    """A toleration as a manifest has it, of KEY[=VALUE][:EFFECT]. Raises RequestError."""
    found = _TOLERATION.fullmatch(text)
    if found is None or not _is_key(found[1]) or not _LABEL_VALUE.fullmatch(found[2] or ""):
        raise RequestError(
            f"{origin} must be KEY[=VALUE][:EFFECT], such as nvidia.com/gpu:NoSchedule, where EFFECT is NoSchedule, "
            f"PreferNoSchedule or NoExecute, not {text!r}"
        )
    how = {"operator": "Exists"} if found[2] is None else {"operator": "Equal", "value": found[2]}
    return {"key": found[1], **how, **({"effect": found[3]} if found[3] else {})}


def secret_of(text: str) -> tuple[str, str]:
    """The Secret, and the key in it, of NAME/KEY."""
    name, _, key = text.partition("/")
    return name, key


def check_volumes(value: Kubernetes, origin: str) -> None:
    """Check the values of the merged table against each other. Raises RequestError."""
    mounts: dict[str, str] = {}
    for name, volume in value.volumes.items():
        place = f"{origin}.volumes.{name}"
        sources = [key for key in ("claim", "host_path", "nfs") if getattr(volume, key)]
        if len(sources) != 1:
            raise RequestError(
                f"{place} must have one of claim, host_path and nfs, not {' and '.join(sources) or 'none'}"
            )
        if not volume.mount:
            raise RequestError(f"{place} must have mount, the path at which pods see it")
        if volume.mount in mounts:
            raise RequestError(f"{place}.mount must be a folder of its own: {mounts[volume.mount]} has it, too")
        mounts[volume.mount] = name
    for key in ("priority_class", "image_pull_policy") if value.api == "trainjob" else ():
        if getattr(value, key):
            raise RequestError(f"{origin}.{key} must be left out with api = 'trainjob': its runtime says it")


def _check_volume(name: str, volume: Volume, origin: str) -> None:
    if not _LABEL.fullmatch(name) or name == SHM_VOLUME:
        raise RequestError(f"{origin}: a name must be at most 63 lower-case letters, digits and '-', not {name!r}")
    origin = f"{origin}.{name}"
    for key in ("mount", "host_path"):
        if path := getattr(volume, key):
            _check_path(path, f"{origin}.{key}")
    if volume.mount in ("/dev", "/dev/shm", "/proc", "/sys", "/") or ":" in (volume.mount or ""):
        raise RequestError(f"{origin}.mount must be a folder of its own, without ':', not {volume.mount!r}")
    if volume.claim:
        _check(volume.claim, _SUBDOMAIN, f"{origin}.claim", "the name of a PersistentVolumeClaim")
    if volume.nfs:
        server, _, path = volume.nfs.partition(":")
        if not server or server.strip() != server or not server.isprintable():
            raise RequestError(f"{origin}.nfs must be SERVER:/PATH, not {volume.nfs!r}")
        _check_path(path, f"{origin}.nfs")
    if volume.sub_path:
        _check_path(f"/{volume.sub_path}", f"{origin}.sub_path, behind a '/',")


def _check_path(path: str, origin: str) -> None:
    if has_variables(path) and path.startswith("$"):
        return
    is_plain = path.isprintable() and len(path) <= _LONGEST and ".." not in PurePosixPath(path).parts
    if not path.startswith("/") or not is_plain or str(PurePosixPath(path)) != path or path.startswith("//"):
        raise RequestError(f"{origin} must be an absolute path without '..', '//' and a '/' at its end, not {path!r}")


def _check_secrets(secrets: dict[str, str], origin: str) -> None:
    for name, text in secrets.items():
        if not _VARIABLE.fullmatch(name) or _OWN_VARIABLES.fullmatch(name):
            raise RequestError(f"{origin}: {name!r} must be the name of a variable that neither Kubeflow nor we set")
        found = _SECRET.fullmatch(text)
        if found is None or not _SUBDOMAIN.fullmatch(found[1]):
            raise RequestError(f"{origin}: {name} must be NAME/KEY, a Secret of the namespace and a key in it")


def _check_labels(value: Kubernetes, origin: str) -> None:
    for table in ("labels", "annotations", "node_selector"):
        for name, text in getattr(value, table).items():
            _check_key(name, f"{origin}.{table}", "keys such as team or example.org/team")
            if table != "node_selector" and name.startswith(_OWN_LABELS):
                raise RequestError(f"{origin}.{table} must be without {name!r}, which is not a user's to set")
            if table == "annotations":
                if len(text) > _LONGEST or "\0" in text or not _is_text(text):
                    raise RequestError(f"{origin}.{table} must have texts of at most {_LONGEST} characters: {name}")
            elif not _LABEL_VALUE.fullmatch(text):
                raise RequestError(
                    f"{origin}.{table}: {name} must be at most 63 letters, digits, '-', '_' and '.', not {text!r}"
                )

    size = sum(len(name) + len(text.encode()) for name, text in value.annotations.items())
    if size > _MOST_ANNOTATED:
        raise RequestError(f"{origin}.annotations must have at most {_MOST_ANNOTATED} bytes together, not {size}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_key(name: str, origin: str, kind: str) -> None:
    if not _is_key(name):
        raise RequestError(f"{origin} must be {kind}, not {name!r}")


def _is_key(name: str) -> bool:
    prefix, slash, last = name.rpartition("/")
    return bool(_KEY_NAME.fullmatch(last) and (not slash or _SUBDOMAIN.fullmatch(prefix)))


def _check(text: str, pattern: re.Pattern[str], origin: str, kind: str) -> None:
    if has_variables(text):
        return
    if not pattern.fullmatch(text):
        raise RequestError(f"{origin} must be {kind}, not {text!r}")
