"""Lines for the scheduler that a person adds: which options of sbatch are not theirs, since vllm-hpc sets them.

sbatch takes the last of two, so such a line would silently win over the plan: an array of other tasks, a log that
nobody finds, a requeue that nobody counts.
"""

from __future__ import annotations

import re
import shlex

from vllm_hpc.errors import RequestError

_PREFIX = re.compile(r"#\s*(SBATCH|PBS)\b", re.IGNORECASE)
_LAYOUT = "use --nodes, --gpus-per-node, --tp, --pp and --dp"
_LOG = "the log is in the job folder: 'vllm-hpc logs' prints it"
_ENVIRONMENT = "use export_environment in a profile, and --env"
_REQUEUE = "a preempted job is over, and a second run of it would not be counted: submit it again"
_NO_JOB = "it submits nothing: run sbatch yourself"
# long option of sbatch, its letter -> what to do instead
OWNED: dict[tuple[str, str], str] = {
    ("array", "a"): "use --array, with --dp for the number of tasks",
    ("wait", "W"): "use --wait of 'vllm-hpc submit'",
    ("test-only", ""): "'vllm-hpc render' prints the script, and submits nothing",
    ("output", "o"): _LOG,
    ("error", "e"): _LOG,
    ("open-mode", ""): _LOG,
    ("nodes", "N"): "use --nodes",
    ("ntasks", "n"): _LAYOUT,
    ("ntasks-per-node", ""): _LAYOUT,
    ("tasks-per-node", ""): _LAYOUT,
    ("job-name", "J"): "use --name",
    ("hetjob", ""): "a job is of one kind of nodes: submit two jobs",
    ("parsable", ""): "sbatch is always called with it",
    ("requeue", ""): _REQUEUE,
    ("no-requeue", ""): "the script always says so: leave it out",
    ("signal", ""): "the script traps the scheduler's own signals: leave it out",
    ("chdir", "D"): "call vllm-hpc in the folder that the job is to run in",
    ("export", ""): _ENVIRONMENT,
    ("export-file", ""): _ENVIRONMENT,
    ("wrap", ""): "the script comes from a template: use --template-dir, or a profile's setup",
    ("help", "h"): _NO_JOB,
    ("usage", ""): _NO_JOB,
    ("version", "V"): _NO_JOB,
}
# Letters that take no value, and so may stand before another one: -Ha0-3 is -H -a0-3 (sbatch's own getopt string).
_FLAGS = frozenset("hHIkOQsvVW")


def check_directive(line: str, origin: str) -> None:
    """A line of sbatch's options, none of them vllm-hpc's own. Raises RequestError."""
    prefix = _PREFIX.match(line)
    if prefix:
        raise RequestError(f"{origin} {line!r}: give only what follows '#{prefix[1].upper()} '")
    try:
        words = shlex.split(line)
    except ValueError:
        raise RequestError(f"{origin} {line!r} has a quote that is not closed, or a backslash at its end") from None
    if words and words[0] in ("hetjob", "packjob"):
        words[0] = "--hetjob"
    if not words or not words[0].startswith("-"):
        raise RequestError(f"{origin} {line!r} is no option of the scheduler's: write it as in --constraint=h100")
    for word in words:
        for (name, letter), advice in OWNED.items():
            if _is_long(word, name) or (letter and letter in _letters(word)):
                option = f"--{name}" if word.startswith("--") else f"-{letter}"
                raise RequestError(f"{origin} {option} is not yours to set here: {advice}")


def _is_long(word: str, name: str) -> bool:
    """Whether a word is that long option, or short for it: getopt takes --arr for --array."""
    given = word[2:].split("=")[0] if word.startswith("--") else ""
    return bool(given) and name.startswith(given)


def _letters(word: str) -> str:
    """The one-letter options in a word: W of -W, Ha of -Ha0-3, N of -N2."""
    if not word.startswith("-") or word.startswith("--"):
        return ""
    value = next((place for place, letter in enumerate(word[1:], start=1) if letter not in _FLAGS), len(word))
    return word[1 : value + 1]
