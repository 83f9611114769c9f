"""What a job is called in Kubernetes: its object's name, and the label by which its folder is found again."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

# Kubeflow adds "-worker-99999" and the like for a pod's name, of which 63 characters are taken (RFC 1123).
_LONGEST, _DIGITS = 45, 6
# On the job and on its pods: which job folder it is of.
FOLDER_LABEL = "vllm-hpc/folder"


def object_name(folder: Path) -> str:
    """The object's name: that of the folder as RFC 1123 has it, and a part of its path's digest.

    Two folders of one name, of two users for example, do not meet in a namespace.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
    if not plain[:1].isalpha():  # some of Kubeflow's objects are Services, whose names begin with a letter
        plain = f"job-{plain}".strip("-")
    return f"{plain[: _LONGEST - _DIGITS - 1].rstrip('-')}-{folder_key(folder)[:_DIGITS]}"


def folder_key(folder: Path) -> str:
    """The value of FOLDER_LABEL: which folder it is, whatever its path has."""
    return sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:40]
