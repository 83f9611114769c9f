"""Finds why a job failed: the root error among the records of its ranks."""

from __future__ import annotations

import re

from vllm_hpc.jobfolder.debug_records import DebugFiles
from vllm_hpc.jobfolder.fatal_signals import fatal_signal
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import LAUNCHER_LOST, RankRecord
from vllm_hpc.spec.read_file import read_end

# slurmstepd's words (Slurm, task_cgroup_memory.c: "Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have
# been OOM Killed."; before 20.11 "oom-kill event(s)"), and srun's ("srun: error: n1: task 0: Out Of Memory").
_OUT_OF_MEMORY = re.compile(r"slurmstepd: error: .*oom[-_]kill|srun: error: .*Out Of Memory")
# Bytes of the log in which its last telling line is looked for, and of these lines those that are recent.
_END_OF_LOG, _RECENT = 1 << 16, 40
# A line of ours that does not say why: what a command has said before it may.
_SAYS_NO_WHY = "vllm-hpc: node_setup ended with exit code "
# Logs of vanished ranks that are read: of thousands, all were most likely killed from outside.
_MOST_LOGS = 16
# Log lines of vllm-hpc that are never the cause.
_NO_CAUSE = re.compile(
    r"vllm-hpc: (.* joined as node |(not )?running again: |torchrun on \S+ was told to end|PBS does not count"
    r"|\S+ cannot submit the next attempt)"
)
# By these lines a launcher says only that something has ended, or how it is called; the cause is before them. srun's
# (src/srun/libsrun/launch.c) and slurmstepd's, PALS' mpiexec's, Hydra's, Open MPI's, pbsdsh's.
_LAUNCHERS_END = re.compile(
    r"srun: error: \S+: tasks? [\d,-]+: (Exited with exit code \d+|Terminated|Killed)"
    r"|srun: (launch/slurm: |Force Terminated |Terminating |Job step aborted|error: Timed out waiting for job step)"
    r"|srun: cluster configuration lacks support for cpu binding"
    r"|slurmstepd\S*: error: \*\*\* STEP (?!.*DUE TO)"
    r"|(Try|See|Type) ['\"`]?\S+ --?h(elp)?\b"
    r"|\S+: rank \d+ (exited with code \d+|died from signal 15)$"
    r"|= +(BAD TERMINATION|PID \d+|EXIT CODE|CLEANING UP|YOU CAN IGNORE)|\[(mpiexec|proxy:\S*)@\S+\] "
    r"|YOUR APPLICATION TERMINATED WITH THE EXIT STRING: (Terminated|Hangup)|This typically refers to a problem"
    r"|Please see the FAQ page for debugging|Primary job +terminated normally|a non-zero exit code\. Per user-direction"
    r"|\S+ detected that one or more process|thus causing the job to be|the job to be terminated\. The first process"
    r"|Process name: \[|Exit code: +\d+$"
    r"|(pbsdsh|pbs_tmrsh)\S*: .*\bexit(ed)?\b"
)
# What diverged ranks mean for users.
DIVERGED = "the ranks of a replica diverged, and its rows may be wrong: start a new job"
# What engine/loop/lockstep.py and engine/startup/replicas.py raise.
_DIVERGED = re.compile(r"the ranks of replica \d+ diverged")


def first_error(folder: JobFolder, task: int | None = None) -> tuple[str, str] | None:
    """The first real error as one line and as a traceback (may be empty); None if none is known.

    It looks at the last attempt of one task of an array, or of all. A rank that lost a peer reports only that (an
    echo); the cause is the rank that raised first, or that vanished.
    """
    layout = folder.job().plan.layout
    tasks = range(layout.tasks) if task is None else [task]
    ranks: list[RankRecord] = []
    has_ended = False
    for one in tasks:
        attempt = folder.last_attempt(one)
        if attempt is None:
            continue
        has_ended |= folder.exit_of(attempt.attempt) is not None
        begun = folder.records_of(range(one * layout.world_size, (one + 1) * layout.world_size))
        ranks += [rank for rank in begun if rank.attempt == attempt.attempt]
    return _first_of(folder, ranks, has_ended)


def cause_of_failure(folder: JobFolder, fallback: str, task: int = 0) -> str:
    """One line: the first real error, else ``fallback`` with the last line of the scheduler's log."""
    error = first_error(folder, task)
    if error:
        return error[0]
    last = _last_line(folder)
    return f"{fallback}; the log ends with: {last}" if last and fallback else fallback


def has_diverged(folder: JobFolder) -> bool:
    """Whether ranks of a replica computed different tokens in their last attempt, so that its rows may be wrong."""
    ranks = folder.records_of(range(folder.job().plan.layout.all_ranks))
    return any(rank.error is not None and _DIVERGED.search(rank.error.message) for rank in ranks)


def _first_of(folder: JobFolder, ranks: list[RankRecord], has_ended: bool) -> tuple[str, str] | None:
    errors = sorted((rank for rank in ranks if rank.error), key=lambda rank: rank.updated_at)
    # Before the attempt has ended, a rank without an outcome may still be alive.
    vanished = [rank for rank in ranks if rank.outcome == "running"] if has_ended else []
    for rank in [r for r in errors if r.error and not r.error.is_echo] or vanished or errors:
        if rank.error:
            who = f"rank {rank.rank} on {rank.host}"
            advice = ": rows may be wrong: start a new job" if _DIVERGED.search(rank.error.message) else ""
            if rank.error.type == LAUNCHER_LOST:
                advice = _said_of_memory(folder)
            told = _told_of_hang(folder, rank, f"{who}: {rank.error.type}: ")
            return told or f"{who}: {rank.error.type}: {_one_line(rank.error.message)}{advice}", rank.error.traceback
        return _first_of_vanished(folder, vanished), ""
    return None


def _told_of_hang(folder: JobFolder, rank: RankRecord, who: str) -> str:
    """Which rank the others waited for, before who found that; empty if this rank did not end for a hang."""
    hang = DebugFiles(folder).read_hang(rank.attempt)
    if hang is None or rank.error is None or hang.headline not in rank.error.message:
        return ""
    found, _, _ = rank.error.message.partition(f". {hang.headline}")
    return f"{_one_line(hang.headline)} (found by {who}{_one_line(found)})"


def _first_of_vanished(folder: JobFolder, ranks: list[RankRecord]) -> str:
    """A rank that ended itself by a signal; else one of which nothing is known; else one that had lost another."""
    found = [(rank, fatal_signal(folder, rank)) for rank in ranks[:_MOST_LOGS]]
    rank, ended = min(found, key=lambda one: 1 if one[1] is None else 2 * one[1].is_echo)
    who = f"rank {rank.rank} on {rank.host} (pid {rank.pid})"
    return f"{who} was killed by {ended.name}, {ended.words}" if ended else f"{who} {_how_it_vanished(folder)}"


def _how_it_vanished(folder: JobFolder) -> str:
    """What the scheduler says of a rank's end."""
    return f"vanished without an error{_said_of_memory(folder) or ': killed, or out of memory?'}"


def _said_of_memory(folder: JobFolder) -> str:
    """What the scheduler says in the last attempt if the kernel has killed a process for memory; else empty."""
    for line in reversed(_last_lines(folder, 1 << 16)):
        if _OUT_OF_MEMORY.search(line):
            return f": out of memory ({_one_line(line, 200)})"
        if line.startswith("vllm-hpc: running again: "):  # before it is the attempt before
            break
    return ""


def _last_lines(folder: JobFolder, size: int) -> list[str]:
    """The lines in the last ``size`` bytes of the log that are not blank."""
    try:
        end, _ = read_end(folder.scheduler_log, size)
        return [line.strip() for line in end.decode(errors="replace").split("\n") if line.strip()]
    except OSError:
        return []


def _last_line(folder: JobFolder) -> str:
    """The last meaningful line of the log in the last attempt; a recent line of vllm-hpc is preferred.

    Of what a launcher itself says of an end, which may be a line for each node, only the first, if there is no other.
    """
    lines: list[str] = []
    for line in _last_lines(folder, _END_OF_LOG):
        if line.startswith("vllm-hpc: running again: "):
            lines.clear()
        elif re.search(r"\w", line) and not _NO_CAUSE.match(line):
            lines.append(line)
    telling = [line for line in lines if not _LAUNCHERS_END.match(line)]
    ours = [line for line in telling[-_RECENT:] if line.startswith("vllm-hpc: ")]
    exits = [line for line in lines if line.startswith("srun: error: ")][:1]
    last = (ours or telling or exits or lines or [""])[-1]
    if last.startswith(_SAYS_NO_WHY):
        others = [line for line in telling[-_RECENT:] if not line.startswith("vllm-hpc: ")]
        return "; ".join([*others[-1:], last])
    return last


def _one_line(text: str, limit: int = 400) -> str:
    # Remove what pydantic adds around vLLM's message, and what torch adds to each of its compiler's (_dynamo/exc.py).
    text = re.sub(r"Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace.*", "", text, flags=re.DOTALL)
    text = re.sub(r"^\d+ validation errors? for \w+\s+(Value error,)?", "", text)
    text = re.sub(r"\[type=[^\n]*|For further information visit \S+", "", text)
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
