"""What to do when a cluster refuses a job.

Sentences are those of kubectl (staging/src/k8s.io/kubectl), of the API server (apimachinery/pkg/api/errors) and of
Kubeflow's webhooks.
"""

from __future__ import annotations

import re
from pathlib import Path

from vllm_hpc.schedulers.client import ClientError

# The first one that matches is given.
_HINTS = (
    (r"no matches for kind|doesn't have a resource type", "the cluster has no such kind: {api}"),
    (r"namespaces? \S+ not found", "choose another namespace in the profile's kubernetes table, or have it created"),
    (r"admission webhook|is invalid|strict decoding error|unknown field", "correct the template or the profile"),
    (r"must be logged in|unauthorized|provide credentials", "log in to the cluster again, or check $KUBECONFIG"),
    (r"exceeded quota", "ask for less, or use another namespace"),
    (r"is being terminated", "choose another namespace in the profile's kubernetes table"),
    (r"forbidden", "ask the cluster's admins for the right to create it, or choose another namespace in the profile"),
    (r"already exists", "choose another --name, or delete that one"),
    (r"x509|certificate", "kubectl's configuration does not fit the cluster: get a new one from its admins"),
    (
        r"connection to the server .* was refused|connect: connection refused|no such host|dial tcp",
        "the cluster is not reached from here: is a VPN or a proxy needed? 'kubectl cluster-info' tries it",
    ),
)  # fmt: skip
_LASTING = re.compile(r"no matches for kind|is invalid|strict decoding error|admission webhook", re.IGNORECASE)
_OTHER_API = {
    "PyTorchJob": "ask its admins for Kubeflow's training operator, or set api = 'trainjob' in the profile's "
    "kubernetes table if it has Kubeflow Trainer",
    "TrainJob": "ask its admins for Kubeflow Trainer, or set api = 'pytorchjob' in the profile's kubernetes table if "
    "it has the training operator",
}


def explain(words: str, script: Path) -> str:
    """What to do about a refusal; empty if that is not known."""
    for pattern, advice in _HINTS:
        if re.search(pattern, words, re.IGNORECASE):
            kind = "TrainJob" if "TrainJob" in words else "PyTorchJob"
            return advice.format(api=_OTHER_API[kind])
    return ""


def is_lasting(error: ClientError) -> bool:
    """Whether the cluster will refuse this manifest however often it is submitted."""
    return _LASTING.search(str(error)) is not None
