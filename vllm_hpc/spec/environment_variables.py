"""Environment variables: names that users cannot set; spec/no_secrets.py says which hold secrets.

The job's script exports the variables of ``--env`` after the site's setup lines and before vLLM starts.
"""

from __future__ import annotations

import re

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.no_secrets import check_variable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
JOIN_TIMEOUT = "VLLM_HPC_JOIN_TIMEOUT"
SHARED_IMPORT = "VLLM_HPC_SHARED_IMPORT"
# vllm-hpc's own variables that users may set: those in seconds, and one that is on or off.
_IN_SECONDS = (JOIN_TIMEOUT, "VLLM_HPC_STALL_S", "VLLM_HPC_SYNC_S", "VLLM_HPC_DEAD_S")
SETTABLE = (*_IN_SECONDS, SHARED_IMPORT)
# Set by 'vllm-hpc doctor' in its own job, as a value of --env.
DOCTOR = "VLLM_HPC_DOCTOR"
_SECONDS = re.compile(r"0*[1-9][0-9]{0,6}")
# A script's own variables are lower case; nearly all variables that programs read are upper case.
_LOWER_CASE = re.compile(r"(?!.*_proxy$)[a-z0-9_]+")
# LD_PRELOAD is not reserved: vLLM's CPU build is meant to run with tcmalloc preloaded.
_RESERVED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"PATH"), "the script sets it (extend PATH in a profile's setup lines)"),
    (re.compile(rf"(?!({'|'.join((*SETTABLE, DOCTOR))})$)VLLM_HPC_.*|SUBMITIT_.*|PET_LOG_DIR"), "vllm-hpc sets it"),
    (
        re.compile(r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"),
        "each rank has its own",
    ),
    (re.compile(r"(PMI|PMIX)_(RANK|SIZE)|PALS_RANKID|OMPI_COMM_.*"), "each node gets its own from MPI"),
    (re.compile(r"VLLM_HOST_IP|VLLM_PORT"), "every node needs its own, and this would be the same on all"),
    (re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|PBS)_.*"), "it belongs to the scheduler"),
    (
        re.compile(r"E?UID|PPID|GROUPS|SHELLOPTS|BASH.*|ENV|IFS|SECONDS|EPOCH(SECONDS|REALTIME)|S?RANDOM|LINENO|FUNCNAME|PIPESTATUS"
                   r"|DIRSTACK|OPTIND|OPTARG|OPTERR|REPLY|MAPFILE|PWD|OLDPWD|SHLVL|PS4|TMOUT|CDPATH"
                   r"|GLOBIGNORE|EXECIGNORE|POSIXLY_CORRECT|COMP_.*|_"),
        "it belongs to the shell",
    ),
    (_LOWER_CASE, "lower-case names are the script's own variables"),
)  # fmt: skip


def check_names(names: list[str], origin: str) -> None:
    """Refuse names of variables that no job may be given. Raises RequestError."""
    for name in names:
        _check_name(name, origin)


def check_env(env: dict[str, str], origin: str) -> None:
    """Refuse variables that cannot be exported, are reserved, or look like a secret. Raises RequestError."""
    for key, value in env.items():
        check_variable(key, value, origin)
        _check_name(key, origin)
        if value and not value.isprintable():
            raise RequestError(f"{origin} {key}={value!r} contains a newline or another control character")
        check_own_value(key, value, origin)


def check_own_value(name: str, value: str, origin: str) -> None:
    """Refuse a value that vllm-hpc's own variables cannot have. Raises RequestError."""
    if name in _IN_SECONDS and not _SECONDS.fullmatch(value):
        raise RequestError(f"{origin} {name} must be a whole number of seconds (600 is ten minutes), not {value!r}")
    if name == SHARED_IMPORT and value not in ("on", "off"):
        raise RequestError(f"{origin} {name} must be on or off, not {value!r}")


def _check_name(name: str, origin: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestError(f"{origin} {name!r} is not a valid name for an environment variable")
    for names, reason in _RESERVED:
        if names.fullmatch(name):
            raise RequestError(f"{origin} {name} cannot be set: {reason}: leave it out, or use another name")
