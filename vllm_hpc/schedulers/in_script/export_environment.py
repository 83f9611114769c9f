"""Print this process's environment as shell code: ``vllm_hpc.in_job export NAMES``, run by a job's script.

PBS starts processes on the nodes with an almost empty environment, so they read it from a file. The file does not have
the scheduler's own variables or those of one host (its GPUs, its TMPDIR), unless ``--env`` named them (NAMES). It never
has secrets, nor the values of the variables that VLLM_HPC_PASSED names: each node has read those by itself, from
state/passed, and what holds one (the image's copy of it, what the profile's setup made of it) refers to it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping

from vllm_hpc.spec.no_secrets import is_secret_variable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_THE_HOST = re.compile(
    r"PBS_.*|(PMI|PMIX|PALS|OMPI|HYDRA|MPIR)_.*|(TMPDIR|HOSTNAME|HOST|PWD|OLDPWD|SHLVL|_|NCPUS|ENVIRONMENT|TERM)"
    r"|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK"
)


def to_shell(environment: Mapping[str, str], named: list[str]) -> str:
    """An ``export`` line for each variable that is valid on every host, for a shell that has those passed."""
    passed = ("VLLM_HPC_PASSED", *environment.get("VLLM_HPC_PASSED", "").split())
    names = {environment[name]: name for name in passed[1:] if environment.get(name)}
    lines = [
        f"export {name}={word}\n"
        for name, value in environment.items()
        if _NAME.fullmatch(name)
        and (name in named or not _OF_THE_HOST.fullmatch(name))
        and name not in passed
        and (word := _word(name, value, names))
    ]
    return "".join(lines)


def _word(name: str, value: str, names: Mapping[str, str]) -> str:
    """The shell's word for a value, which has the passed variables in ``names`` by their name; none for a secret."""
    if value not in names and is_secret_variable(name, value):
        return ""
    longest_first = sorted(names, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", value) if names else [value]
    return "".join(f'"${names[part]}"' if part in names else shlex.quote(part) for part in parts if part) or "''"


def main(argv: list[str]) -> int:
    """Print them; ``argv`` has the names that ``--env`` gave."""
    sys.stdout.buffer.write(os.fsencode(to_shell(os.environ, argv)))
    return 0
