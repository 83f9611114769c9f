"""Answers of schedulers' clients: junk, long text, escape sequences, exit codes, and none at all."""

from __future__ import annotations

import base64
import json
from random import Random

from tests.hostile.cases import DONE, Case, Edit
from tests.hostile.generate_options import ROWS
from tests.hostile.generate_values import ESCAPES, broken_json, changed, text, word

_SLURM = ("sbatch", "squeue", "scontrol", "sacct", "scancel")
_PBS = ("qsub", "qstat", "qdel", "qselect", "pbsnodes")
# What each prints, with a place for something hostile.
_ANSWERS = {
    "sbatch": ("4711", "4711;{}", "Submitted batch job {}", "{}", "4711\n{}", "job {} of 4711"),
    "squeue": ("4711|RUNNING|{}|{}", "{}|RUNNING|None|N/A", "4711_[0-{}]|PENDING|x|N/A",
    "4711|{}|x|2026-01-01T00:00:00",
               "4711_[0-99999999999]|PENDING|(None)|N/A", "4711_[1,2,{}%3]|PENDING|x|N/A", "{}"),
    "scontrol": ("JobId=4711 JobState={} Reason={}", "JobId={} JobState=RUNNING",
    "JobId=4711 ArrayTaskId=0-9999999999", "{}"),
    "sacct": ("4711|{}", "{}|COMPLETED", "4711_[0-99999999999]|CANCELLED by {}", "4711|FAILED|{}|{}", "{}"),
    "qsub": ("4711.server", "{}", "4711[].{}", "4711.server\n{}", "-4711", "--all"),
    "qstat": ("{}", "qstat: Unknown Job Id {}", '{{"Jobs": {{"4711.server": {{"job_state": "{}"}}}}}}'),
}  # fmt: skip
_PBS_ANSWER = {
    "timestamp": 1.0, "pbs_server": "server", "Jobs": {"4711.server": {
        "Job_Name": "a", "job_state": "R", "queue": "q", "comment": "x", "substate": 42, "Exit_status": 0,
        "array_indices_submitted": "0-3",
    }},
}  # fmt: skip
_LOST = (
    "error: Unable to contact slurm controller (connect failure)",
    "timed out on send/recv",
    "Invalid job id specified",
)


def submission(random: Random) -> Case:
    """submit, and list of what there is then, with clients that answer in an odd way."""
    scheduler = random.choice(("slurm", "slurm", "pbs"))
    asked = ("submit", "--rehearse", "--scheduler", scheduler, "--input", ROWS.path, "--name", "new", *_array(random))
    then = (random.choice(("status", "cancel", "resume")), "new")
    return Case((asked, then, ("list",)), (ROWS,), _clients(random, _SLURM if scheduler == "slurm" else _PBS))


def question(random: Random) -> Case:
    """What is asked of a job that has ended, or is thought to run."""
    command = random.choice((("status", DONE), ("list",), ("resume", DONE), ("cancel", DONE), ("logs", DONE)))
    more = ("--job-id", word(random), "--") if command[0] == "cancel" and random.random() < 0.5 else ()
    asked = (command[0], *more, *command[1:])
    gone = _is_running(random)
    return Case((asked, ("status", DONE, "--json")), gone, _clients(random, _SLURM), has_job=True)


def _is_running(random: Random) -> tuple[Edit, ...]:
    if random.random() < 0.3:
        return ()
    return Edit(f"{DONE}/state/exit-1.json", "remove"), Edit(f"{DONE}/state/exit-2.json", "remove")


def _array(random: Random) -> tuple[str, ...]:
    return ("--array", "--dp", "2") if random.random() < 0.3 else ()


def _clients(random: Random, names: tuple[str, ...]) -> dict[str, str]:
    chosen = random.sample(names, random.choice((1, 1, 2, len(names))))
    return {name: _client(random, name) for name in chosen}


def _client(random: Random, name: str) -> str:
    kind = random.random()
    if kind < 0.04:
        return "exec sleep 60"
    if kind < 0.06:
        return "kill -KILL $$"
    out, err = _answer(random, name), random.choice((b"", b"", text(random).encode(errors="replace"), _lost(random)))
    code = random.choice((0, 0, 0, 0, 1, 2, 35, 127, 153, 255))
    if kind < 0.1:
        return f"yes '{random.choice(('x', name))}' | head -c 3000000; exit {code}"
    return f"{print_bytes(out)}\n{print_bytes(err)} >&2\nexit {code}"


def _lost(random: Random) -> bytes:
    return random.choice(_LOST).encode()


def _answer(random: Random, name: str) -> bytes:
    if name == "qstat" and random.random() < 0.5:
        made = changed(random, _PBS_ANSWER)
        return broken_json(random, made) if random.random() < 0.3 else json.dumps(made).encode()
    said = random.choice(_ANSWERS.get(name, ("{}",)))
    filled = said.format(*(random.choice((text(random), random.choice(ESCAPES), "9" * 30)) for _ in range(3)))
    line = filled.encode(errors="replace")
    return b"\n".join([line] * random.choice((1, 1, 1, 50))) + random.choice((b"\n", b"", b"\xff\xfe\n"))


def print_bytes(content: bytes) -> str:
    """A line of sh that prints these bytes, whatever they are."""
    return f"echo {base64.b64encode(content).decode()} | base64 -d"
