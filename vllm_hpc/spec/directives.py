"""Scheduler options that users add, and those they must not add because vllm-hpc sets them.

When an option is given twice, sbatch and qsub use the last one (for -l, qsub uses the first). Such a line would
silently override the plan, or be ignored: the wrong array, a log in the wrong place, a requeue that is not counted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from vllm_hpc.spec.environment_variables import check_env
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.getopt_words import is_long, letters, options
from vllm_hpc.spec.registry import SCHEDULERS

_PREFIX = re.compile(r"#\s*(SBATCH|PBS)\b", re.IGNORECASE)
_LAYOUT = "use --nodes, --gpus-per-node, --tp, --pp and --dp"
_LOG = "the log is in the job folder: 'vllm-hpc logs' prints it"
_ENVIRONMENT = "use export_environment in a profile, and --env"
_REQUEUE = "use --max-requeues (0 disables requeueing)"
_NO_JOB = "it submits nothing: run sbatch yourself"
# (long option of sbatch, its letter) -> what to do instead
OWNED: dict[tuple[str, str], str] = {
    ("array", "a"): "use --array, with --dp for the number of tasks",
    ("wait", "W"): "use --wait of 'vllm-hpc submit'",
    ("test-only", ""): "'vllm-hpc render' prints the script, and submits nothing",
    ("output", "o"): _LOG,
    ("error", "e"): _LOG,
    ("open-mode", ""): _LOG,
    ("nodes", "N"): "use --nodes",
    ("partition", "p"): "use --queue",
    ("time", "t"): "use --time",
    ("account", "A"): "use --account",
    ("qos", "q"): "use --qos",
    ("mem", ""): "use --mem",
    ("ntasks", "n"): _LAYOUT,
    ("ntasks-per-node", ""): _LAYOUT,
    ("tasks-per-node", ""): _LAYOUT,
    ("job-name", "J"): "use --name",
    ("hetjob", ""): "a job has one kind of node: submit two jobs",
    ("parsable", ""): "vllm-hpc always calls sbatch with it",
    ("requeue", ""): _REQUEUE,
    ("no-requeue", ""): _REQUEUE,
    ("signal", ""): "use --drain-lead",
    ("chdir", "D"): "run vllm-hpc in the folder where the job should run",
    ("export", ""): _ENVIRONMENT,
    ("export-file", ""): _ENVIRONMENT,
    ("wrap", ""): "the script comes from a template: use --template-dir, or a profile's setup",
    ("help", "h"): _NO_JOB,
    ("usage", ""): _NO_JOB,
    ("version", "V"): _NO_JOB,
}
# letter of qsub -> what to do instead
OWNED_OF_QSUB = {
    "J": "use --array, with --dp for the number of tasks",
    "t": "use --array, with --dp for the number of tasks",
    "N": "use --name",
    "q": "use --queue",
    "o": _LOG,
    "e": _LOG,
    "j": _LOG,
    "k": _LOG,
    "R": _LOG,
    "r": _REQUEUE,
    "V": "use --env, or a profile's setup: the ranks must find the same environment on every node",
    "S": "the script needs bash",
    "C": "the script's lines begin with #PBS",
    "I": "a job has no terminal",
    "X": "a job has no terminal",
    "G": "a job has no terminal",
    "f": "qsub must return once the job is queued",
    "z": "qsub must print the job id",
}
# resource of -l -> what to do instead
OWNED_RESOURCES = {
    **dict.fromkeys(("select", "nodes", "ncpus", "ngpus", "nodect", "mpiprocs", "ppn", "gpus"), _LAYOUT),
    "walltime": "use --time",
    "mem": "use --mem",
    "place": "vllm-hpc sets scatter; exclusive = true in a profile adds excl",
}
# attribute of -W -> what to do instead. qsub accepts any attribute of the server, so most letters have a long name.
_OWNED_ATTRIBUTES = {
    **dict.fromkeys(("umask", "output_path", "error_path", "join_path", "keep_files", "remove_files"), _LOG),
    "block": "use --wait of 'vllm-hpc submit'",
    "interactive": "a job has no terminal",
    "job_name": "use --name",
    "rerunable": _REQUEUE,
    "variable_list": "use -v or --env",
    "shell_path_list": "the script needs bash",
    "array_indices_submitted": "use --array, with --dp for the number of tasks",
    "resource_list": "use -l",
}
_PLAIN_VARIABLES = re.compile(r"\w+=[\w.:/@%+-]*(,\w+=[\w.:/@%+-]*)*", re.ASCII)
# Letters of qsub that take no value.
_FLAGS_OF_QSUB = frozenset("fhIVXzG")
# Letters that take no value, so another may follow in the same word: -Ha0-3 is -H -a0-3 (sbatch's own getopt string).
_FLAGS = frozenset("hHIkOQsvVW")


def check_directive(line: str, origin: str) -> list[str]:
    """Split a line of options, for any scheduler, into words. Raises RequestError."""
    prefix = _PREFIX.match(line)
    if prefix:
        raise RequestError(f"{origin} {line!r}: give only what follows '#{prefix[1].upper()} '")
    try:
        words = shlex.split(line)
    except ValueError:
        raise RequestError(f"{origin} {line!r} has an unclosed quote or a trailing backslash") from None
    if words and words[0] in ("hetjob", "packjob"):
        words[0] = "--hetjob"
    if not words or not words[0].startswith("-"):
        raise RequestError(f"{origin} must be an option of the scheduler, as in --constraint=h100, not {line!r}")
    return words


def check_owned(lines: Sequence[str], scheduler: str, origin: str = "--directive") -> None:
    """Refuse lines with an option of the scheduler that vllm-hpc sets itself. Raises RequestError.

    ``origin`` is where they were given, for the message: --directive, or directives of a profile. For another package's
    scheduler, its ``check_request`` decides which options these are.
    """
    for line in lines:
        words = check_directive(line, origin)
        if scheduler == "pbs":
            _check_qsub(line, words, origin)
        elif scheduler in SCHEDULERS.built_in:
            _check_sbatch(words, origin)


def _check_sbatch(words: list[str], origin: str) -> None:
    for word in words:
        for (name, letter), advice in OWNED.items():
            if is_long(word, name) or (letter and letter in letters(word, _FLAGS)):
                option = f"--{name}" if word.startswith("--") else f"-{letter}"
                raise RequestError(f"{origin} {option} cannot be set here: {advice}")


def _check_qsub(line: str, words: list[str], origin: str) -> None:
    """Check a line for qsub. -v is allowed: some sites' hooks read its variables when the job is submitted."""
    if "\\" in line:
        raise RequestError(f"{origin} {line!r} contains a backslash, which qsub handles differently: use quotes")
    for letter, value in qsub_options(words, origin):
        if letter == "v":
            _check_variables(value, origin)
        # The server accepts names in either case, and Resource_List.NAME.
        names = [part.partition("=")[0].partition(".")[0].strip().lower() for part in value.split(",")]
        owned = {"l": OWNED_RESOURCES, "W": _OWNED_ATTRIBUTES}.get(letter, {})
        found = next((name for name in names if name in owned), None)
        if letter in OWNED_OF_QSUB or found:
            option = f"-{letter}{f' {found}' if found else ''}"
            advice = owned[found] if found else OWNED_OF_QSUB[letter]
            raise RequestError(f"{origin} {option} cannot be set here: {advice}")


def _check_variables(value: str, origin: str) -> None:
    if not _PLAIN_VARIABLES.fullmatch(value):  # qsub itself parses quotes, backslashes and commas
        raise RequestError(
            f"{origin} -v must be plain NAME=WORD,NAME=WORD, not {value!r}: use --env for any other value"
        )
    check_env(dict(part.split("=", 1) for part in value.split(",")), f"{origin} -v")


def qsub_options(words: list[str], origin: str) -> Iterator[tuple[str, str]]:
    """Each option's letter and value, as getopt reads them; the value is empty for a flag. Raises RequestError."""
    try:
        yield from options(words, _FLAGS_OF_QSUB)
    except ValueError as error:
        raise RequestError(
            f"{origin} must be options of qsub, as in '-l filesystems=home', not {str(error)!r}"
        ) from None
