"""Environment variables: names that users cannot set, and secrets that must not be written to a file.

The job's script exports the variables of ``--env`` after the site's setup lines and before vLLM starts.
"""

from __future__ import annotations

import re

from vllm_hpc.spec.errors import RequestError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
JOIN_TIMEOUT = "VLLM_HPC_JOIN_TIMEOUT"
# vllm-hpc's own variables that users may set; all are in seconds.
SETTABLE = (JOIN_TIMEOUT, "VLLM_HPC_STALL_S", "VLLM_HPC_SYNC_S", "VLLM_HPC_DEAD_S")
_SECONDS = re.compile(r"0*[1-9][0-9]{0,6}")
# A script's own variables are lower case; nearly all variables that programs read are upper case.
_LOWER_CASE = re.compile(r"(?!.*_proxy$)[a-z0-9_]+")
# LD_PRELOAD is not reserved: vLLM's CPU build is meant to run with tcmalloc preloaded.
_RESERVED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"PATH"), "the script sets it (extend PATH in a profile's setup lines)"),
    (re.compile(rf"(?!({'|'.join(SETTABLE)})$)VLLM_HPC_.*|SUBMITIT_.*|PET_LOG_DIR"), "vllm-hpc sets it"),
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

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY$|CREDENTIAL|JWT|(^|_)PAT(_|$)",
    re.IGNORECASE,
)
# Names that only sound like a secret.
_NO_SECRET = re.compile(r"TOKENIZERS?(_|$)|SKIP_TOKENIZER|MAX_.*TOKENS|.*_TOKENS$|.*_TOKEN_IDS?$", re.IGNORECASE)
ADVICE = (
    "export it in your shell instead; if the profile has export_environment = false, read it from a file in the "
    "profile's setup (on PBS no rank gets either: download a gated model before you submit)"
)
# The lookahead does not consume the value: in --export=API_KEY=x it starts with the next name.
# The lookbehind stops a long word from being matched again from each of its letters.
_ASSIGNMENT = re.compile(r"(?<![\w-])([\w-]+)=(?=\S)")
# A value that the shell gets from elsewhere ($(...), `...`, $NAME, ${NAME}, ${NAME:-}, ${NAME:?...}), or an empty one.
_REFERENCE = re.compile(
    r""""?(\$\(.*\)|`[^`]*`|\$\w+|\$\{\w+(:?-|:?\?[^}]*)?\})"?(?=[\s;&|)]|$)|(""|'')(?=[\s;&|)]|$)"""
)


def check_env(env: dict[str, str], origin: str) -> None:
    """Refuse variables that cannot be exported, are reserved, or look like a secret. Raises RequestError."""
    for key, value in env.items():
        if not _NAME.fullmatch(key):
            raise RequestError(f"{origin} {key!r} is not a valid name for an environment variable")
        if is_secret(key):
            raise RequestError(f"{origin} {key} looks like a secret, and would be written into the script: {ADVICE}")
        for names, reason in _RESERVED:
            if names.fullmatch(key):
                raise RequestError(f"{origin} {key} cannot be set: {reason}: leave it out, or use another name")
        if value and not value.isprintable():
            raise RequestError(f"{origin} {key}={value!r} contains a newline or another control character")
        if key in SETTABLE and not _SECONDS.fullmatch(value):
            raise RequestError(f"{origin} {key} must be a whole number of seconds (600 is ten minutes), not {value!r}")


def is_secret(name: str) -> bool:
    """Whether the name of a variable or an argument looks like that of a secret."""
    plain = name.strip("-").replace("-", "_")
    return bool(_SECRET_NAME.search(plain)) and not _NO_SECRET.match(plain)


def check_no_secret(line: str, origin: str, is_shell: bool) -> None:
    """Refuse a line that sets a secret; a shell line may say where to read it from. Raises RequestError."""
    for found in _ASSIGNMENT.finditer(line):
        if is_secret(found[1]) and not (is_shell and _REFERENCE.match(line, found.end())):
            name = found[1].lstrip("-")
            raise RequestError(
                f"{origin} {name}=... looks like a secret, and would be written into the script: {ADVICE}"
            )
