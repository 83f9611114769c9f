"""Words that a profile adds to srun and to torchrun, and those that it must not: the layout or the script sets them.

The tables are in README.md. Each word is an option with its value in it, as in --mpi=none or -T4: which options take a
value as a word of its own only srun and torchrun know, and a word that none of them takes would be what they start.
"""

from __future__ import annotations

from collections.abc import Sequence

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.getopt_words import is_long, letters

_LAYOUT = "use --nodes, --gpus-per-node, --tp, --pp and --dp"
_CORES = "use --cpus-per-rank, or cpus_per_rank in the profile"
_LOG = "the log is in the job folder: 'vllm-hpc logs' prints it"
_ENVIRONMENT = "use export_environment in a profile, and --env"
_ALL_NODES = "ranks run on all nodes of the job: use directives for which these are"
_IMAGE = "use container in the profile"
_NOT_STARTED = "it starts nothing"
_MEETING = "the ranks meet at the address of head_suffix or head_command, and at a port tested free"
_WORKER = "torchrun starts vllm-hpc's own worker"
Table = dict[tuple[str, str], str]
# (long option of srun, its letter) -> what to do instead
OWNED_OF_SRUN: Table = {
    ("nodes", "N"): _LAYOUT,
    ("ntasks", "n"): _LAYOUT,
    ("ntasks-per-node", ""): _LAYOUT,
    ("tasks-per-node", ""): _LAYOUT,
    ("ntasks-per-core", ""): _LAYOUT,
    ("ntasks-per-gpu", ""): _LAYOUT,
    ("ntasks-per-socket", ""): _LAYOUT,
    ("ntasks-per-tres", ""): _LAYOUT,
    ("preserve-env", "E"): _LAYOUT,
    ("cpus-per-task", "c"): _CORES,
    ("cpus-per-gpu", ""): _CORES,
    ("cpu-bind", ""): "use cpu_bind in the profile",
    ("cpu_bind", ""): "use cpu_bind in the profile",
    ("distribution", "m"): "ranks are dealt out node by node, which TP and PP depend on",
    ("kill-on-bad-exit", "K"): "when one rank ends all must",
    ("no-kill", "k"): "when one rank ends all must",
    ("wait", "W"): "the script waits for all ranks, and ends what hangs",
    ("export", ""): _ENVIRONMENT,
    ("export-file", ""): _ENVIRONMENT,
    ("output", "o"): _LOG,
    ("error", "e"): _LOG,
    ("open-mode", ""): _LOG,
    ("label", "l"): _LOG,
    ("input", "i"): "ranks read nothing from standard input",
    ("chdir", "D"): "run vllm-hpc in the folder where the job should run",
    ("time", "t"): "use --time",
    ("signal", ""): "use --drain-lead",
    ("nodelist", "w"): _ALL_NODES,
    ("nodefile", "F"): _ALL_NODES,
    ("exclude", "x"): _ALL_NODES,
    ("relative", "r"): _ALL_NODES,
    ("jobid", ""): "ranks run in the script's own job",
    ("het-group", ""): "a job has one kind of node: submit two jobs",
    ("pack-group", ""): "a job has one kind of node: submit two jobs",
    ("multi-prog", ""): "all tasks run the same line",
    ("pty", ""): "a job has no terminal",
    ("async", ""): "the script waits for all ranks, and ends what hangs",
    ("no-allocate", "Z"): "ranks run in the script's own job",
    ("container", ""): _IMAGE,
    ("container-image", ""): _IMAGE,
    ("test-only", ""): _NOT_STARTED,
    ("help", "h"): _NOT_STARTED,
    ("usage", ""): _NOT_STARTED,
    ("version", "V"): _NOT_STARTED,
}
# (long option of torchrun, its letter) -> what to do instead
OWNED_OF_TORCHRUN: Table = {
    ("nnodes", ""): _LAYOUT,
    ("nproc-per-node", ""): _LAYOUT,
    ("node-rank", ""): _LAYOUT,
    ("virtual-local-rank", ""): "each rank takes the GPU of its LOCAL_RANK",
    ("standalone", ""): _MEETING,
    ("rdzv-backend", ""): _MEETING,
    ("rdzv-endpoint", ""): _MEETING,
    ("rdzv-id", ""): _MEETING,
    ("rdzv-conf", ""): _MEETING,
    ("master-addr", ""): _MEETING,
    ("master-port", ""): _MEETING,
    ("local-addr", ""): _MEETING,
    ("max-restarts", ""): "use --max-requeues: a job is run again as a whole",
    ("signals-to-handle", ""): "use --drain-lead: the script handles signals",
    ("module", "m"): _WORKER,
    ("no-python", ""): f"{_WORKER}: use wrapper in the profile for words before it",
    ("run-path", ""): _WORKER,
    ("log-dir", ""): _LOG,
    ("redirects", "r"): _LOG,
    ("tee", "t"): _LOG,
    ("help", "h"): _NOT_STARTED,
}
# Letters of srun without a value (srun 22.05 to 24.11).
_FLAGS_OF_SRUN = frozenset("EhHjlOQsuvVXZ")
_FLAGS_OF_TORCHRUN = frozenset("hm")


def check_srun_options(words: Sequence[str], origin: str) -> None:
    """Refuse words that are no options of srun, and those that the layout or the script sets. Raises RequestError."""
    _check(words, origin, OWNED_OF_SRUN, _FLAGS_OF_SRUN, "--mpi=none")


def check_torchrun_options(words: Sequence[str], origin: str) -> None:
    """Refuse words that are no options of torchrun, and those that the layout or the script sets.

    torchrun takes - and _ in names alike. Raises RequestError.
    """
    _check([_dashed(word) for word in words], origin, OWNED_OF_TORCHRUN, _FLAGS_OF_TORCHRUN, "--monitor-interval=5")


def _check(words: Sequence[str], origin: str, owned: Table, flags: frozenset[str], example: str) -> None:
    for word in words:
        if any(ord(c) < 32 or ord(c) == 127 for c in word):
            raise RequestError(f"{origin} {word!r} has a control character: leave it out")
        if not word.startswith("-") or not word.strip("-"):
            raise RequestError(
                f"{origin} must be options, each with its value in the same word, as in {example}, not {word!r}"
            )
        for (name, letter), advice in owned.items():
            if is_long(word, name) or (letter and letter in letters(word, flags)):
                option = f"--{name}" if word.startswith("--") else f"-{letter}"
                raise RequestError(f"{origin} {option} cannot be set here: {advice}")


def _dashed(word: str) -> str:
    """An option of torchrun with dashes in its name."""
    name, sign, value = word.partition("=")
    return f"{name.replace('_', '-')}{sign}{value}" if word.startswith("--") else word
