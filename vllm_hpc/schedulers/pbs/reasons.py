"""What PBS's messages and codes mean: why a job waits, how it ended, why qsub refused it."""

from __future__ import annotations

import re
from typing import Any

from vllm_hpc.schedulers.client import plain
from vllm_hpc.schedulers.scheduler import JobState

# An Exit_status below zero is PBS's own reason (src/include/job.h, JOB_EXEC_*); from 256 on it is 256 plus a signal.
_TIMEOUT = -29
_LIMITS = {-24: "ncpus", -25: "ncpus", -26: "virtual memory", -27: "memory", -28: "CPU time"}
_TERMINATED = 256 + 15
_RELEASE = ": 'qrls ID' releases it"
_HINTS = [
    (r"unknown queue", "'qstat -Q' lists the queues: name one with --queue"),
    (r"unknown resource", "the site may need another gpu_request, chunk or resources in the profile"),
    (r"illegal attribute or resource value", "'qmgr -c \"list queue\"' and 'pbsnodes -a' show what you can request"),
    (r"node\(s\) specification error", "gpus= in nodes= is TORQUE syntax: try gpu_request = 'select' in the profile"),
    (
        r"project|account",
        "give the project to charge with --account; account_flag in the profile is the flag that the site expects",
    ),
    (
        r"cannot send environment",
        "a variable of -v is not set where the job is submitted, or the quotes of its value do not end",
    ),
    (
        r"rejected by all possible destinations",
        "none of the queues that it routes to accepts a job of this size or time: 'qstat -Qf' shows the limits",
    ),
    (r"(queue|server) is not (enabled|started)", "choose another --queue, or wait for this one"),
    (r"bad uid|access from host not allowed", "PBS takes no jobs from this machine: submit on a login node"),
    (r"bad gid", "you are not in that group on this machine: check 'id' and --account"),
    (r"maximum number of|would exceed .*limit", "wait for a job of yours to end, or cancel one"),
    (
        r"hook|filter|request rejected by '",
        "a hook of the site refused the job: see its message or the site's documentation",
    ),
    (
        r"exceeds? .*(queue|server)|resource limits",
        "request less, or choose another --queue: 'qstat -Qf' shows the limits",
    ),
    (r"unauthorized|not permitted|access .*denied", "choose another --queue, or ask the site for access"),
    (r"directive error|illegal -|usage: qsub", "qsub does not accept that line of --directive or of the profile"),
    (
        r"cannot connect|connection refused|unknown host|no default server",
        "nothing was submitted; try again when the server is up",
    ),
]  # fmt: skip
# What the scheduler puts into the comment of a job that waits in vain: "Can Never Run: " and a reason (OpenPBS 23.06,
# src/scheduler/job_info.cpp, fctt and translate_fail_code), or only a reason from which that follows.
_NEVER = re.compile(r"can never run|no node .* large enough|not enough total nodes", re.IGNORECASE)
# Requested, available and in total (src/scheduler/check.cpp); amounts have a unit, as in 64gb.
_AMOUNTS = re.compile(r"\(R: (\d+)(\w*) A: \S+ T: (\d+)(\w*)\)")
_ADVICE = [
    (r"zero shares", "that --account has no share of this machine: name another"),
    (r"\(\S+ != \S+\)", "no node has what chunk, resources or --directive name: 'pbsnodes -a' shows what nodes have"),
    (
        r"no (select|place)\b|invalid (placement|job|state)|in an invalid state|bad requested",
        "PBS does not understand the request: see chunk and resources in the profile, and --directive",
    ),
    (r"prime ?time|dedicated time", "choose another --queue, or a shorter --time"),
    (r"", "lower --nodes, --gpus-per-node, --cpus-per-rank or --mem, or choose another --queue"),
]


def explain(words: str) -> str:
    """What to do about qsub's refusal; empty if nothing is known."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, words, re.IGNORECASE)), "")


def waiting_reason(fields: dict[str, Any]) -> str:
    """Why a job waits, and what to do if waiting does not help."""
    state, comment = fields.get("job_state"), plain(str(fields.get("comment", "")))
    if state == "H":
        depend = fields.get("depend")
        # Hold_Types: u(ser), o(perator), s(ystem). PBS itself holds a job that has failed too often.
        said = f" until {depend}" if depend else f": {comment}" if comment else ""
        return f"waits: held{said}{_RELEASE if 'u' in str(fields.get('Hold_Types', '')) else ''}"
    if state == "W":
        return f"waits until {fields.get('Execution_Time', 'its time')}"
    if _never_runs(comment):
        advice = next(advice for pattern, advice in _ADVICE if re.search(pattern, comment, re.IGNORECASE))
        return f"waits: {comment}: cannot start as requested: {advice} (and cancel this job)"
    # For an array's task, PBS shows the comment of the whole array.
    return f"waits: {comment}" if comment and not comment.startswith("Job Array Began") else "waits"


def _never_runs(comment: str) -> bool:
    """Whether a comment says that waiting does not help."""
    amounts = _AMOUNTS.search(comment)
    is_too_much = amounts is not None and amounts[2] == amounts[4] and int(amounts[1]) > int(amounts[3])
    return is_too_much or _NEVER.search(comment) is not None


def exit_state(code: object, comment: str) -> JobState:
    """How a job ended that PBS calls finished. A job that never ran has no Exit_status."""
    if code is None:
        return JobState("cancelled", f"PBS deleted it before it ran{f' ({plain(comment)})' if comment else ''}")
    if not isinstance(code, int) or isinstance(code, bool):
        return JobState("unknown", f"PBS says Exit_status {code!r}")
    words = f"PBS says Exit_status {code}"
    if code == 0:
        return JobState("completed", words)
    if code == _TIMEOUT:
        return JobState("timeout", f"{words}: the walltime was reached")
    if code == _TERMINATED:
        return JobState("cancelled", f"{words}: it was deleted")
    if code in _LIMITS:
        return JobState("failed", f"{words}: it used more {_LIMITS[code]} than it requested")
    if code > 256:
        return JobState("failed", f"{words}: killed by signal {code - 256}")
    return JobState("failed", words)
