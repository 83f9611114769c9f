"""Reasons why a Slurm job is pending that waiting does not cure, and what to change.

Slurm accepts such a job if the site's EnforcePartLimits is NO (the default), and keeps it forever (man squeue, JOB
REASON CODES). ReqNodeNotAvail, Resources, Priority and the like are not listed: they go away by themselves.
"""

from __future__ import annotations

_TIME = "lower --time, or choose another --partition"
_QOS = "lower --time, or choose another --qos"
_SIZE = "lower --nodes, or choose another --partition"
HOPELESS = {
    "PartitionTimeLimit": _TIME,
    "PartitionNodeLimit": _SIZE,
    "PartitionConfig": "choose another --partition, or lower --nodes and --time to what it allows",
    "BadConstraints": "lower --mem, --cpus-per-rank or --gpus-per-node, or change --constraint: no node has all of it",
    "AccountNotAllowed": "choose another --account or --partition",
    "QOSNotAllowed": "choose another --qos or --partition",
    "DependencyNeverSatisfied": "the job that it depends on has failed: submit it without that --directive",
    "InvalidAccount": "choose another --account: 'sacctmgr show assoc user=$USER' lists yours",
    "InvalidQOS": "choose another --qos: 'sacctmgr show qos' lists them",
    "AssocMaxWallDurationPerJobLimit": "lower --time, or choose another --account",
    "QOSMaxWallDurationPerJobLimit": _QOS,
    "AssocMaxNodePerJobLimit": "lower --nodes, or choose another --account",
    "QOSMaxNodePerJobLimit": "lower --nodes, or choose another --qos",
}


def explain_reason(reason: str) -> str:
    """A reason as squeue's %r prints it, followed by what to do if the job cannot start as requested."""
    advice = HOPELESS.get(reason)
    return f"{reason}: cannot start as requested: {advice} (and cancel this job)" if advice else reason
