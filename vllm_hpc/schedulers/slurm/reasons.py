"""Reasons why a Slurm job is pending that waiting does not cure, and what to do.

Slurm accepts a job that cannot run if the site's EnforcePartLimits is NO (the default), and keeps it forever; one that
is held waits for its release. ReqNodeNotAvail, Resources, Priority, Licenses, BeginTime, Dependency, a limit on what a
user or a group runs at once, and the like are not listed: they go away by themselves.

Names are those of src/common/job_state_reason.c, sentences those that slurmctld writes into state_desc (Slurm 22.05 to
26.05): squeue prints a job's sentence instead of the name if it has one.
"""

from __future__ import annotations

import re

HOPELESS = {
    "PartitionTimeLimit": "lower --time, or choose another --partition",
    "PartitionNodeLimit": "lower --nodes, or choose another --partition",
    "PartitionConfig": "choose another --partition, or lower --nodes and --time to what it allows",
    "BadConstraints": "lower --mem, --cpus-per-rank or --gpus-per-node, or change --constraint: no node has all of it",
    "MaxMemPerLimit": "lower --mem, or choose another --partition",
    "AccountNotAllowed": "choose another --account or --partition",
    "QOSNotAllowed": "choose another --qos or --partition",
    "DependencyNeverSatisfied": "the job that it depends on has failed: submit it without that --directive",
    "InvalidAccount": "choose another --account: 'sacctmgr show assoc user=$USER' lists yours",
    "InvalidQOS": "choose another --qos: 'sacctmgr show qos' lists them",
}
_SENTENCES = [
    (r"Job's QOS not (known|permitted)", HOPELESS["QOSNotAllowed"]),
    (r"Job's account not (known|permitted)", HOPELESS["AccountNotAllowed"]),
    (r"not in group permitted to use this partition", "choose another --partition, or ask the site for access"),
]
_HELD = [
    (r"JobHeldAdmin|.*, holding job", "ask the site why"),
    (
        r"JobHoldMaxRequeue|launch failure limit exceeded.*",
        "nodes failed to start it too often: tell the site; 'scontrol release {id}' tries again",
    ),
    (
        r"(launch|user env retrieval) failed requeued held",
        "a node failed to start it: 'scontrol release {id}' tries again; tell the site if that fails too",
    ),
    (
        r"Reservation ?(Deleted|Invalid)|Reservation .* (was deleted|is invalid)|RESV_DEL_HOLD",
        "its reservation is gone: cancel this job, and submit it without that --directive",
    ),
    (
        r"BurstBufferOperation|burst_buffer/.*|Burst buffer pre_run error",
        "its burst buffer failed: cancel this job, and correct --bb or --bbf in --directive",
    ),
    (
        r"JobHeldUser|job requeued in (held|special exit) state|REQUEUE_HOLD|SPECIAL_EXIT",
        "'scontrol release {id}' lets it run",
    ),
]
# States of a job that somebody must release; its reason may be missing.
HELD_STATES = frozenset({"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
# Names of limits, such as QOSMaxGRESPerJob, AssocGrpCPUMinutesLimit, MaxSubmitJobsPerAccount.
_LIMIT = re.compile(
    r"(?P<whose>QOS|Assoc|)(?P<kind>Grp|Max|Min)(?P<what>[A-Z][A-Za-z]*?)(?P<run>Run)?(?P<minutes>Minutes|Mins)?"
    r"(?:Per(?P<per>Job|Node|User|Account))?(?:Limit|NotSatisfied)?"
)
_ANY_SIZE = "--nodes or --gpus-per-node"
_OPTIONS = {
    "cpu": "--cpus-per-rank or --nodes", "gres": _ANY_SIZE, "mem": "--mem", "memory": "--mem", "node": "--nodes",
    "wall": "--time", "wallduration": "--time", "license": "--licenses in --directive", "bb": "--bb in --directive",
}  # fmt: skip
_COUNTS_OF_JOBS = frozenset({"job", "jobs", "submitjob", "submitjobs"})


def explain_reason(reason: str, job_id: str = "ID") -> str:
    """A reason as squeue's %r prints it, followed by what to do if waiting does not help."""
    for pattern, advice in _HELD:
        if re.fullmatch(pattern, reason, re.DOTALL):
            return f"{reason}: held: {advice.format(id=job_id)}"
    advice = HOPELESS.get(reason) or next((advice for words, advice in _SENTENCES if re.search(words, reason)), "")
    advice = advice or _advise_waiting(reason)
    return f"{reason}: cannot start as requested: {advice} (and cancel this job)" if advice else reason


def advise_refused(limit: str) -> str:
    """What to do if sbatch refuses a job for exceeding this limit; empty if it is not the name of one."""
    match = _LIMIT.fullmatch(limit)
    if match is None:
        return ""
    if match["what"].lower() in _COUNTS_OF_JOBS:
        return f"as many jobs are queued as your {_whose(match)} allows: wait for one to end, or cancel one"
    return _change(match)


def _advise_waiting(reason: str) -> str:
    """What to change in a job that waits for this limit; empty if the limit is on what runs at the same time."""
    match = _LIMIT.fullmatch(reason)
    if match is None or match["what"].lower() in _COUNTS_OF_JOBS:
        return ""
    if match["per"] in ("Job", "Node") or match["kind"] == "Min":
        return _change(match)
    if match["kind"] == "Grp" and match["minutes"] and not match["run"]:
        return f"the hours of this {_whose(match)} are used up: choose another one"
    return ""


def _change(match: re.Match[str]) -> str:
    options = _OPTIONS.get(match["what"].lower(), _ANY_SIZE)
    if match["minutes"]:
        options = f"--time, {_ANY_SIZE}"
    return f"{'raise' if match['kind'] == 'Min' else 'lower'} {options}, or choose another {_whose(match)}"


def _whose(match: re.Match[str]) -> str:
    return "--account" if match["whose"] == "Assoc" else "--qos"
