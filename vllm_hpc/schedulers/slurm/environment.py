"""The environment that sbatch gets. It leaves out SBATCH_* variables, which would override the script's own lines.

They are users' defaults for commands that do not say otherwise. Our scripts do say what they need: whether they are an
array, where they log, that they are not requeued. So only the variables that say where, for whom and how long a job
runs are passed on, and of those only the ones that the script does not set itself.
"""

from __future__ import annotations

import os
import shlex
from itertools import takewhile
from pathlib import Path

from vllm_hpc.schedulers.client import clean_environment
from vllm_hpc.spec.read_file import read_regular

_MEMORY = "--mem --mem-per-cpu --mem-per-gpu"  # they exclude one another
# Variable -> the options that set the same (man sbatch, INPUT ENVIRONMENT VARIABLES). No others are ever passed on.
_DEFAULTS = {
    "SBATCH_ACCOUNT": "--account -A", "SBATCH_PARTITION": "--partition -p", "SBATCH_QOS": "--qos -q",
    "SBATCH_RESERVATION": "--reservation", "SBATCH_CONSTRAINT": "--constraint -C", "SBATCH_WCKEY": "--wckey",
    "SBATCH_CLUSTERS": "--clusters --cluster -M", "SBATCH_TIMELIMIT": "--time -t",
    "SBATCH_MEM_PER_NODE": _MEMORY, "SBATCH_MEM_PER_CPU": _MEMORY, "SBATCH_MEM_PER_GPU": _MEMORY,
    "SBATCH_EXCLUSIVE": "--exclusive --oversubscribe -s", "SBATCH_EXPORT": "--export",
    "SBATCH_GET_USER_ENV": "--get-user-env", "SBATCH_HINT": "--hint", "SBATCH_NETWORK": "--network",
    "SBATCH_CORE_SPEC": "--core-spec -S", "SBATCH_THREAD_SPEC": "--thread-spec", "SBATCH_GPU_FREQ": "--gpu-freq",
    "SBATCH_REQ_SWITCH": "--switches", "SBATCH_WAIT4SWITCH": "--switches", "SBATCH_POWER": "--power",
    "SBATCH_PROFILE": "--profile", "SBATCH_ACCTG_FREQ": "--acctg-freq", "SBATCH_DELAY_BOOT": "--delay-boot",
}  # fmt: skip


def submit_environment(script: Path) -> dict[str, str]:
    """This process's environment as sbatch should see it for that script."""
    stated = stated_options(read_regular(script).decode())
    return {key: value for key, value in clean_environment().items() if _is_handed_on(key, stated)}


def stated_options(script: str) -> list[str]:
    """The options in a script's #SBATCH lines before its first command, without their values."""
    head = takewhile(lambda line: not line.strip() or line.startswith("#"), script.splitlines())
    words = [word for line in head if line.startswith("#SBATCH") for word in _split(line.removeprefix("#SBATCH"))]
    long = [word.partition("=")[0] for word in words if word.startswith("--")]
    return long + [word[:2] for word in words if word.startswith("-") and not word.startswith("--")]


def is_given(option: str, script: Path) -> bool:
    """Whether a script, or a variable that sbatch gets with it, sets an option, given by its long name.

    Another option that means the same counts too: its letter, or --mem-per-cpu for --mem.
    """
    variables = {name: answers.split() for name, answers in _DEFAULTS.items() if option in answers.split()}
    stated = stated_options(read_regular(script).decode())
    names = {option}.union(*variables.values())
    is_stated = any(_means(one, name) for one in stated for name in names)
    return is_stated or any(os.environ.get(name) for name in variables)


def _is_handed_on(variable: str, stated: list[str]) -> bool:
    if not variable.startswith("SBATCH_"):
        return True
    answers = _DEFAULTS.get(variable, "").split()
    return bool(answers) and not any(_means(option, answer) for option in stated for answer in answers)


def _means(option: str, answer: str) -> bool:
    """Whether an option as written means ``answer``: sbatch takes abbreviations, as in --part=gpu."""
    return option == answer or (len(option) > 4 and option.startswith("--") and answer.startswith(option))


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a lone quote: sbatch will report it
        return line.split()
