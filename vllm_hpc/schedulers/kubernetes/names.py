"""What a job is called in Kubernetes: its object's name, and the label by which it is found again."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

# The API server adds five letters, and Kubeflow "-worker-99999" and the like for a pod's name, of which 63 characters
# are taken (RFC 1123).
_LONGEST = 43
# On the job and on its pods: which job folder it is of. And on the job, if the profile says so, kubectl's context.
FOLDER_LABEL, CONTEXT = "vllm-hpc/folder", "vllm-hpc/context"


def object_prefix(folder: Path) -> str:
    """How the names of a folder's objects begin: the folder's own as RFC 1123 has it, and a hyphen.

    The API server gives each submission a name of its own (generateName): a resume does not meet the one before, nor do
    folders of the same name.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    if not plain[:1].isalpha():  # some of Kubeflow's objects are Services, whose names begin with a letter
        plain = f"job-{plain}".strip("-")
    return f"{plain[:_LONGEST].rstrip('-')}-"


def folder_key(folder: Path) -> str:
    """The value of FOLDER_LABEL: which folder it is, whatever its path has."""
    return sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:40]
