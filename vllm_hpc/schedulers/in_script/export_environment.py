"""Print this process's environment as shell code: ``vllm_hpc.in_job export NAMES``, run by a job's script.

PBS starts processes on the nodes with an almost empty environment, so they read it from a file. The file does not have
the scheduler's own variables or those of one host (its GPUs, its TMPDIR), unless ``--env`` named them (NAMES). It never
has secrets, nor the variables that VLLM_HPC_PASSED names: each node reads those by itself, from state/passed.
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
    """An ``export`` line for each variable that is valid on every host."""
    passed = ("VLLM_HPC_PASSED", *environment.get("VLLM_HPC_PASSED", "").split())
    lines = [
        f"export {name}={shlex.quote(value)}\n"
        for name, value in environment.items()
        if _NAME.fullmatch(name)
        and (name in named or not _OF_THE_HOST.fullmatch(name))
        and name not in passed
        and not is_secret_variable(name, value)
    ]
    return "".join(lines)


def main(argv: list[str]) -> int:
    """Print them; ``argv`` has the names that ``--env`` gave."""
    sys.stdout.buffer.write(os.fsencode(to_shell(os.environ, argv)))
    return 0
