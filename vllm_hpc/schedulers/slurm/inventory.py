"""What a Slurm cluster has, from sinfo, scontrol, and sacctmgr where it answers: partitions, GPUs, limits.

A node's ``Gres=gpu:a100:4(S:0-3)`` has the type that ``--gpus-per-node=a100:4`` takes. What jobs may have of a node is
less than the node: CPUEfctv leaves out CoreSpecCount, and of RealMemory MemSpecLimit is the daemons' (man slurm.conf).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.inventory import (
    FoundQueue,
    Inventory,
    NodeKind,
    gpu_of,
    make_queue,
    merged,
    table_names,
    why_by_request,
    words_of_nodes,
)
from vllm_hpc.schedulers.slurm.associations import ask_associations
from vllm_hpc.schedulers.slurm.inventory_answers import (
    Fields,
    NodeGroup,
    ask_partitions,
    first_host,
    number,
    parse_config,
    parse_nodes,
    parse_sinfo,
    seconds_of,
)
from vllm_hpc.spec.errors import RequestError

_NODES = ["sinfo", "--all", "--exact", "--noheader", "--format=%R|%D|%c|%m|%G|%T|%f|%N"]
_CONFIG = ["scontrol", "show", "config"]
_QOS = ["sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name,MaxWall,MaxTRES"]
# How many nodes are asked for by name: one of each kind.
_MOST_SAMPLES = 64


def take_inventory(ask: Ask) -> Inventory:
    """Ask Slurm. Raises ClientError where it does not answer, RequestError where it tells of no partition."""
    settings = parse_config(ask(_CONFIG))
    partitions = ask_partitions(ask)
    lines = ask(_NODES)
    qos = _limits_of_qos(ask) if settings.get("AccountingStorageType", "").endswith("slurmdbd") else {}
    accounts = _accounts(ask) if qos or "slurmdbd" in settings.get("AccountingStorageType", "") else []
    nodes = parse_nodes(_ask_samples(lines, ask))
    if not partitions:
        raise RequestError("scontrol shows no partition: ask as a user who may submit jobs")
    return assemble(settings, partitions, parse_sinfo(lines, nodes), qos, accounts)


def _ask_samples(sinfo: str, ask: Ask) -> str:
    """What scontrol tells of one node of each kind; empty where it tells nothing (PrivateData)."""
    kinds: dict[str, str] = {}
    for parts in (line.strip().split("|") for line in sinfo.splitlines()):
        if len(parts) == 8 and parts[7]:
            kinds.setdefault("|".join(parts[2:5]), first_host(parts[7]))
    names = [*dict.fromkeys(kinds.values())][:_MOST_SAMPLES]
    try:
        return ask(["scontrol", "--oneliner", "show", "node", ",".join(names)]) if names else ""
    except ClientError as error:
        return error.output


def _limits_of_qos(ask: Ask) -> dict[str, tuple[str, str]]:
    """MaxWall and MaxTRES (of a job) of each quality of service; none where sacctmgr does not answer."""
    try:
        rows = [line.split("|") for line in ask(_QOS).splitlines()]
    except ClientError:
        return {}
    return {row[0]: (row[1], row[2]) for row in rows if len(row) >= 3}


def _accounts(ask: Ask) -> list[str]:
    """The accounts that the user may charge; none where sacctmgr does not answer."""
    with suppress(ClientError):
        return sorted({one.account for one in ask_associations(ask)})
    return []


def assemble(
    settings: Fields,
    partitions: list[Fields],
    groups: list[NodeGroup],
    qos: Mapping[str, tuple[str, str]] = {},
    accounts: Iterable[str] = (),
) -> Inventory:
    """The inventory, from what the clients have told."""
    by_partition: dict[str, list[NodeGroup]] = defaultdict(list)
    for group in groups:
        by_partition[group.partition].append(group)
    has_gpus = any(group.kinds for group in groups)
    why = {one["PartitionName"]: _why_left_out(one, by_partition[one["PartitionName"]], has_gpus) for one in partitions}
    usable = [fields for fields in partitions if not why[fields["PartitionName"]]]
    site = _Site(qos, has_gpus, _lowest_tier(usable, settings))
    queues = [queue for fields in usable for queue in _queues(fields, by_partition[fields["PartitionName"]], site)]
    queues.sort(key=lambda queue: (queue.queue.by_request, not queue.is_default))
    cons_tres = "cons_tres" in settings.get("SelectType", "") + settings.get("SelectTypeParameters", "").lower()
    keys, sources = _site_keys(settings, has_gpus, cons_tres)
    return Inventory(
        scheduler="slurm",
        name=settings.get("ClusterName", "cluster"),
        said_by=f"Slurm {settings.get('SLURM_VERSION', '')}".strip(),
        queues=tuple(queues),
        partitions=tuple(fields["PartitionName"] for fields in partitions),
        left_out={name: reason for name, reason in why.items() if reason},
        keys=keys,
        sources=sources,
        notes=tuple(_notes(settings, list(accounts))),
    )


class _Site(NamedTuple):
    """What counts for all partitions. ``lowest``: the PriorityTier whose jobs give way, None if none do."""

    qos: Mapping[str, tuple[str, str]]
    has_gpus: bool
    lowest: int | None


def _lowest_tier(partitions: list[Fields], settings: Fields) -> int | None:
    """The lowest PriorityTier, if some that are for everybody's work have a higher one, and it preempts."""
    tiers = {
        number(fields.get("PriorityTier", ""))
        for fields in partitions
        if not (_why_closed(fields) or why_by_request(fields["PartitionName"]))
    }
    is_on = settings.get("PreemptType", "") == "preempt/partition_prio"
    return min(tiers) if is_on and len(tiers) > 1 else None


def _why_left_out(fields: Fields, groups: list[NodeGroup], has_gpus: bool) -> str:
    state = fields.get("State", "UP")
    if state != "UP":
        return f"its State is {state}"
    if fields.get("RootOnly") == "YES":
        return "RootOnly=YES"
    if not groups:
        return "sinfo shows no node of it (powered down, or hidden from you)"
    if has_gpus and not any(group.kinds for group in groups):
        sliced = any(group.has_slices for group in groups)
        return "its GPUs are slices (MIG), between which ranks cannot talk" if sliced else "its nodes have no GPU"
    return ""


def _site_keys(settings: Fields, has_gpus: bool, cons_tres: bool) -> tuple[dict[str, Any], dict[str, str]]:
    if not has_gpus:
        return {"gpu_flag": "none"}, {"gpu_flag": "no node has a Gres gpu"}
    if cons_tres:
        return {}, {}
    return {"gpu_flag": "gres"}, {"gpu_flag": f"SelectType={settings.get('SelectType', '')} knows no --gpus-per-node"}


def _notes(settings: Fields, accounts: list[str]) -> Iterator[str]:
    if "(null)" not in settings.get("JobSubmitPlugins", "(null)"):
        yield f"JobSubmitPlugins={settings['JobSubmitPlugins']}: it may ask for more than sinfo tells (account, qos)"
    if accounts:
        shown = ", ".join(accounts[:10]) + (" ..." if len(accounts) > 10 else "")
        yield f'your accounts (sacctmgr): {shown}; where each user must name one: required = ["account"]'


def _queues(fields: Fields, groups: list[NodeGroup], site: _Site) -> Iterator[FoundQueue]:
    """A table for each kind of GPU that the partition has."""
    kinds = merged(kind for group in groups for kind in (group.kinds if site.has_gpus else (group.kind,)))
    for kind, name in zip(kinds, table_names(fields["PartitionName"], kinds), strict=True):
        yield _queue(fields, kind, name, site)


def _queue(fields: Fields, kind: NodeKind, name: str, site: _Site) -> FoundQueue:
    partition = fields["PartitionName"]
    gpu, advice = gpu_of(kind)
    values = (
        *_limits(fields, kind, site),
        *_node_values(fields, kind),
        ("by_request", *_by_request(fields, partition, site)),
        ("gpu", gpu, f"from {', '.join(sorted({kind.gpu_type, *kind.words} - {''}))}"),
    )
    made, sources = make_queue(partition if name != partition else None, values)
    notes = [*words_of_nodes(kind), *_said_of(fields)]
    return FoundQueue(
        name=name,
        queue=made,
        sources=sources,
        is_default=fields.get("Default") == "YES",
        notes=tuple(notes),
        gpu_advice=advice,
    )


def _limits(fields: Fields, kind: NodeKind, site: _Site) -> Iterator[tuple[str, Any, str]]:
    """min_nodes, max_nodes, max_gpus and max_time, of the partition and of its own quality of service."""
    least = number(fields.get("MinNodes", ""))
    yield "min_nodes", least if least > 1 else None, "MinNodes"
    wall, tres = site.qos.get(fields.get("QoS", ""), ("", ""))
    qos = f"of QoS {fields.get('QoS', '')}"
    granted = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
    nodes = [(kind.nodes, "the nodes that there are")]
    nodes += [(most, "MaxNodes")] if (most := number(fields.get("MaxNodes", ""))) else []
    nodes += [(most, f"MaxTRES {qos}")] if (most := number(granted.get("node", ""))) else []
    yield "max_nodes", *min(nodes)
    gpus = number(granted.get(f"gres/gpu:{kind.gpu_type}", "") or granted.get("gres/gpu", ""))
    yield "max_gpus", gpus if kind.gpus else None, f"MaxTRES {qos}"
    times = [
        (seconds, text, source)
        for text, source in ((fields.get("MaxTime", ""), "MaxTime"), (wall, f"MaxWall {qos}"))
        if (seconds := seconds_of(text))
    ]
    if times:
        yield "max_time", *min(times)[1:]
    yield "time", fields.get("DefaultTime") if seconds_of(fields.get("DefaultTime", "")) else None, "DefaultTime"


def _node_values(fields: Fields, kind: NodeKind) -> Iterator[tuple[str, Any, str]]:
    yield "gpus_per_node", kind.gpus or None, "Gres"
    yield "gpu_type", kind.gpu_type or None, "Gres"
    cores = [(kind.cores, "CPUs, without CoreSpecCount"), (number(fields.get("MaxCPUsPerNode", "")), "MaxCPUsPerNode")]
    memory = [(kind.memory_mb, "RealMemory - MemSpecLimit"), (number(fields.get("MaxMemPerNode", "")), "MaxMemPerNode")]
    if kind.gpus:  # both are said for a node with its GPUs
        yield "cpus_per_node", *_least(cores)
        least, source = _least(memory)
        yield "mem_per_node", f"{least}M" if least else None, source
    is_whole = fields.get("OverSubscribe", "").upper() == "EXCLUSIVE"
    yield "whole_nodes" if kind.gpus else "exclusive", is_whole, "OverSubscribe=EXCLUSIVE"


def _least(values: list[tuple[int, str]]) -> tuple[int, str]:
    """The least of what is told, and by what; 0 stands for nothing."""
    return min((one for one in values if one[0]), default=(0, ""))


def _why_closed(fields: Fields) -> str:
    """Why a partition is not open to everybody; empty if it is."""
    limited = [name for name in ("AllowAccounts", "AllowGroups") if fields.get(name, "ALL") != "ALL"]
    if limited:
        return f"not for everybody: {limited[0]}={fields[limited[0]]}"
    return "Hidden=YES" if fields.get("Hidden") == "YES" else "ReqResv=YES" if fields.get("ReqResv") == "YES" else ""


def _by_request(fields: Fields, partition: str, site: _Site) -> tuple[bool, str]:
    """Whether jobs should go there only when asked to, and why."""
    if closed := _why_closed(fields):
        return True, closed
    if fields.get("Default") == "YES":
        return False, ""
    if number(fields.get("PriorityTier", "")) == site.lowest and fields.get("PreemptMode", "OFF") != "OFF":
        return True, f"PreemptMode={fields['PreemptMode']} and the lowest PriorityTier: its jobs may be cut"
    why = why_by_request(partition)
    return bool(why), why


def _said_of(fields: Fields) -> Iterator[str]:
    for name in ("AllowQos", "JobDefaults", "DenyAccounts", "DenyQos"):
        if fields.get(name, "ALL") not in ("ALL", "(null)", "none", ""):
            yield f"{name}={fields[name]}"
