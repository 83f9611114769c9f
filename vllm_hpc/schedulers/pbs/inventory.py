"""What a PBS cluster has, from ``qstat -Q``, ``qstat -B`` and ``pbsnodes``: queues, GPUs, limits. qmgr is not asked.

A job goes to a queue that takes jobs from users. A routing queue passes each on to the first of its
``route_destinations`` whose limits it keeps: so it gets a table for each of these, and all name the routing queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

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
from vllm_hpc.schedulers.pbs.inventory_answers import (
    AMOUNT,
    Fields,
    Host,
    ask_hosts,
    ask_queues,
    ask_servers,
    clock,
    destinations,
    table_of,
)
from vllm_hpc.schedulers.pbs.nodes import count
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import parse_walltime


class _Limits(NamedTuple):
    """What a job must keep; 0 and "" where there is no limit. ``usual`` is the walltime of a job that asks for none."""

    least: int
    most: int
    gpus: int
    longest: str
    usual: str


def take_inventory(ask: Ask) -> Inventory:
    """Ask PBS. Raises ClientError where it does not answer, RequestError where it tells of no queue."""
    queues = ask_queues(ask)
    servers: Mapping[str, Fields] = {}
    with suppress(ClientError):
        servers = ask_servers(ask)
    hosts = ask_hosts(ask)
    if not queues:
        raise RequestError("qstat -Q shows no queue: ask as a user who may submit jobs")
    return assemble(queues, servers, hosts)


def assemble(queues: Mapping[str, Fields], servers: Mapping[str, Fields], hosts: list[Host]) -> Inventory:
    """The inventory, from what the clients have told."""
    server, about = next(iter(servers.items()), ("", {}))
    default = str(about.get("default_queue", ""))
    knows_gpus = any(host.kind.gpus for host in hosts)
    found: list[FoundQueue] = []
    left_out: dict[str, str] = {}
    for name, fields in queues.items():
        tables, why = _tables(name, queues, hosts, knows_gpus)
        if why:
            left_out[name] = why
        found += [_marked(table, name == default, fields) for table in tables]
    found.sort(key=lambda table: (table.queue.by_request, not table.is_default))
    keys, sources, notes = _site_keys(knows_gpus)
    return Inventory(
        scheduler="pbs",
        name=server.split(".")[0] or "cluster",
        said_by=f"PBS {about.get('pbs_version', '')}".strip(),
        queues=tuple(found),
        partitions=tuple(queues),
        left_out=left_out,
        keys=keys,
        sources=sources,
        notes=notes,
    )


def _site_keys(knows_gpus: bool) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    note = "PBS does not tell whether -A, -P or -W group_list names who pays: account_flag (docs/pbs.md)"
    if knows_gpus:
        return {"gpu_request": "select"}, {"gpu_request": "pbsnodes tells of ngpus"}, (note,)
    fill = "no node tells of ngpus: if nodes have GPUs, say how many (gpus_per_node) and which (gpu)"
    return {"gpu_request": "queue"}, {"gpu_request": "pbsnodes tells of no ngpus: the queue implies them"}, (fill, note)


def _tables(
    name: str, queues: Mapping[str, Fields], hosts: list[Host], knows_gpus: bool
) -> tuple[list[FoundQueue], str]:
    """The tables of a queue, or why it has none."""
    fields = queues[name]
    for key in ("enabled", "started"):
        if str(fields.get(key, "True")) != "True":
            return [], f"it is not {key}"
    if str(fields.get("from_route_only")) == "True":
        return [], ""  # it is part of a routing queue's tables
    if str(fields.get("queue_type", "Execution")).lower().startswith("r"):
        return _routed(name, queues, hosts, knows_gpus)
    own = hosts_of(name, fields, hosts)
    if why := _why_no_gpus(fields, own, knows_gpus):
        return [], why
    kinds = _kinds(own, knows_gpus)
    names = table_names(name, kinds)
    limits = _limits([fields])
    return [_table(one, name, kind, limits, own) for one, kind in zip(names, kinds, strict=True)], ""


def _routed(
    name: str, queues: Mapping[str, Fields], hosts: list[Host], knows_gpus: bool
) -> tuple[list[FoundQueue], str]:
    """A table for each destination with limits or nodes of its own: the first that takes a job gets it."""
    ends = [end for end in destinations(queues[name]) if end in queues]
    known = [end for end in ends if str(queues[end].get("enabled", "True")) == "True"]
    tables: list[FoundQueue] = []
    for end in known:
        own = hosts_of(end, queues[end], hosts)
        if _why_no_gpus(queues[end], own, knows_gpus):
            continue
        limits = _limits([queues[name], queues[end]])
        kinds = _kinds(own, knows_gpus)
        for table_name, kind in zip(table_names(end, kinds), kinds, strict=True):
            table = _table(f"{name}-{table_name}", name, kind, limits, own)
            if table.queue not in [one.queue for one in tables]:
                tables.append(table)
    if len(tables) == 1:
        queue = msgspec.structs.replace(tables[0].queue, partition=None)
        tables = [msgspec.structs.replace(tables[0], name=name, queue=queue)]
    return tables, "" if tables else "none of its destinations has nodes with GPUs, or takes jobs"


def hosts_of(name: str, fields: Fields, hosts: Sequence[Host]) -> list[Host]:
    """The hosts that a queue's jobs may get: those that belong to it, and those that default_chunk asks for."""
    own = [host for host in hosts if name in host.queues] or [host for host in hosts if not host.queues]
    for key, value in _asked_for(fields):
        named = [host for host in own if key in host.has]
        if value.lower() == "true":
            own = [host for host in named if "True" in host.has[key]]
        elif value.lower() == "false":
            own = [host for host in own if "True" not in host.has.get(key, ())]
        elif named:
            own = [host for host in named if value in host.has[key]]
    return own


def _asked_for(fields: Fields) -> Iterator[tuple[str, str]]:
    chunk = fields.get("default_chunk", {})
    for key, value in chunk.items() if isinstance(chunk, dict) else ():
        if isinstance(value, str) and not AMOUNT.fullmatch(value):
            yield key, value


def _why_no_gpus(fields: Fields, hosts: list[Host], knows_gpus: bool) -> str:
    if not knows_gpus:
        return ""
    if str(table_of(fields, "resources_max").get("ngpus")) == "0":
        return "resources_max.ngpus = 0"
    return "" if any(host.kind.gpus for host in hosts) else "its nodes have no GPU (ngpus)"


def _kinds(hosts: list[Host], knows_gpus: bool) -> list[NodeKind]:
    kinds = merged(host.kind for host in hosts if host.kind.gpus or not knows_gpus)
    return kinds or [NodeKind(nodes=0)]


def _limits(chain: list[Fields]) -> _Limits:
    """The limits of a queue, and of the routing queue before it."""
    most, least, usual = ([table_of(one, f"resources_{which}") for one in chain] for which in ("max", "min", "default"))
    times = [text for one in most if (text := clock(one.get("walltime")))]
    return _Limits(
        max(count(one, "nodect") for one in least),
        min((number for one in most if (number := count(one, "nodect"))), default=0),
        min((number for one in most if (number := count(one, "ngpus"))), default=0),
        min(times, key=parse_walltime, default=""),
        next((text for one in usual if (text := clock(one.get("walltime")))), ""),
    )


def _table(name: str, queue: str, kind: NodeKind, limits: _Limits, hosts: list[Host]) -> FoundQueue:
    gpu, advice = gpu_of(kind)
    values = (*_values(kind, limits, hosts), ("gpu", gpu, f"from {kind.gpu_type}"))
    made, sources = make_queue(queue if name != queue else None, values)
    notes = tuple(words_of_nodes(kind))
    return FoundQueue(name=name, queue=made, sources=sources, notes=notes, gpu_advice=advice)


def _values(kind: NodeKind, limits: _Limits, hosts: list[Host]) -> Iterator[tuple[str, Any, str]]:
    yield "min_nodes", limits.least if limits.least > 1 else None, "resources_min.nodect"
    nodes = [(kind.nodes, "the hosts that there are")] if kind.nodes else []
    nodes += [(limits.most, "resources_max.nodect")] if limits.most else []
    yield "max_nodes", *min(nodes, default=(None, ""))
    yield "max_gpus", limits.gpus, "resources_max.ngpus"
    yield "max_time", limits.longest, "resources_max.walltime"
    yield "time", limits.usual, "resources_default.walltime"
    yield "gpus_per_node", kind.gpus, "ngpus"
    if kind.gpus:
        yield "cpus_per_node", kind.cores, "ncpus"
        yield "mem_per_node", f"{kind.memory_mb}M" if kind.memory_mb else None, "mem"
    yield (
        "whole_nodes" if kind.gpus else "exclusive",
        bool(hosts) and all(host.is_whole for host in hosts),
        "sharing = *_excl",
    )


def _marked(table: FoundQueue, is_default: bool, fields: Fields) -> FoundQueue:
    """The table with whether jobs go there only when asked to."""
    enabled = [name for name in ("acl_user_enable", "acl_group_enable") if str(fields.get(name)) == "True"]
    why = f"not for everybody: {enabled[0]}" if enabled else why_by_request(table.queue.partition or table.name)
    if not why or (is_default and not enabled):
        return msgspec.structs.replace(table, is_default=is_default)
    queue = msgspec.structs.replace(table.queue, by_request=True)
    return msgspec.structs.replace(
        table, queue=queue, sources={**table.sources, "by_request": why}, is_default=is_default
    )
