"""What a scheduler says of its partitions or queues, and whether one takes a job of that size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vllm_hpc.doctor.finding import Finding
from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.pbs.inventory_answers import Fields, Host, clock, parse_hosts, told
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import parse_walltime
from vllm_hpc.spec.words import counted

_MOST_NAMED = 8


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition or queue takes; None: no limit is known. ``why_closed``: why it takes no jobs.

    ``destinations``: the queues that one of PBS's passes jobs on to. ``is_routed_only``: it takes jobs from such a one
    alone.
    """

    name: str
    is_default: bool = False
    is_routed_only: bool = False
    destinations: tuple[str, ...] = ()
    why_closed: str = ""
    min_nodes: int | None = None
    max_nodes: int | None = None
    all_nodes: int | None = None
    max_time_s: int | None = None


Limits = Mapping[str, QueueLimits]


def ask_slurm(ask: Ask) -> Limits:
    """Slurm's partitions. Raises ClientError."""
    return parse_slurm(ask(["scontrol", "show", "partition", "--oneliner"]))


def ask_pbs(ask: Ask) -> Limits:
    """PBS's queues. Raises ClientError where it does not list them; of the server and nodes it may tell nothing."""
    queues = told(ask, ["qstat", "-Q", "-f"], "Queue")
    server = next(iter(_told(ask, ["qstat", "-B", "-f"], "Server").values()), {})
    hosts = parse_hosts(_told(ask, ["pbsnodes", "-a", "-v"], "nodes"))
    return pbs_limits(queues, str(server.get("default_queue", "")), hosts)


def _told(ask: Ask, argv: list[str], table: str) -> dict[str, Fields]:
    try:
        return told(ask, argv, table)
    except ClientError:
        return {}


ASKED: dict[str, Callable[[Ask], Limits]] = {"slurm": ask_slurm, "pbs": ask_pbs}


def parse_slurm(text: str) -> dict[str, QueueLimits]:
    """Lines of ``scontrol show partition --oneliner``."""
    found: dict[str, QueueLimits] = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))
        name = fields.get("PartitionName")
        if name:
            state = fields.get("State", "UP")
            found[name] = QueueLimits(
                name=name,
                is_default=fields.get("Default") == "YES",
                why_closed="" if state == "UP" else f"its state is {state}",
                min_nodes=_number(fields.get("MinNodes")),
                max_nodes=_number(fields.get("MaxNodes")),
                all_nodes=_number(fields.get("TotalNodes")),
                max_time_s=_seconds(fields.get("MaxTime")),
            )
    return found


def pbs_limits(queues: Mapping[str, Fields], default: str = "", hosts: Sequence[Host] = ()) -> dict[str, QueueLimits]:
    """The queues of ``qstat -Qf``, with the hosts that each may use: those of its own, else those that are nobody's."""
    return {name: _pbs_limits(name, fields, name == default, hosts) for name, fields in queues.items()}


def _pbs_limits(name: str, fields: Fields, is_default: bool, hosts: Sequence[Host]) -> QueueLimits:
    own = [host for host in hosts if name in host.queues] or [host for host in hosts if not host.queues]
    routes = str(fields.get("route_destinations", ""))
    destinations = tuple(one.strip().partition("@")[0] for one in routes.split(",") if one.strip())
    closed = [word for word in ("enabled", "started") if str(fields.get(word, "True")).strip() != "True"]
    return QueueLimits(
        name=name,
        is_default=is_default,
        is_routed_only=str(fields.get("from_route_only")) == "True",
        destinations=destinations,
        why_closed=f"it is not {' and not '.join(closed)}" if closed else "",
        min_nodes=_number(_resource(fields, "min", "nodect")),
        max_nodes=_number(_resource(fields, "max", "nodect")),
        all_nodes=len(own) if own and not destinations else None,
        max_time_s=_seconds(clock(_resource(fields, "max", "walltime"))),
    )


def _resource(fields: Fields, which: str, name: str) -> str | None:
    table: Any = fields.get(f"resources_{which}")
    return str(table[name]) if isinstance(table, dict) and name in table else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _seconds(text: str | None) -> int | None:
    """Seconds of a limit; None for UNLIMITED and what is no walltime."""
    try:
        return parse_walltime((text or "").strip(), "the limit")
    except RequestError:
        return None


def judge_queue(queues: Limits, asked: str | None, nodes: int, time_s: int | None) -> Finding:
    """Whether the partition or queue that a job asks for, or the default one, is there and takes it.

    Slurm takes a list of several: one that takes the job is enough.
    """
    names = [one for one in (asked or "").split(",") if one] or [one.name for one in queues.values() if one.is_default]
    if not names:
        if any(one.is_default for one in queues.values()) or not queues:
            return Finding("partition", "skip", "the scheduler lists none")
        return Finding("partition", "skip", f"the scheduler's default; there are {_named(queues)}")
    unknown = [name for name in names if name not in queues]
    if unknown:
        words = f"there is no {unknown[0]!r}; there are {_named(queues)}"
        return Finding("partition", "fail", words, "name one of them with --partition, or in the profile")
    refusals = {name: list(_refusals(queues, name, nodes, time_s)) for name in names}
    takes = next((name for name, why in refusals.items() if not why), None)
    if takes is not None:
        return Finding("partition", "ok", f"{takes} takes {counted(nodes, 'node')}{_limits(queues[takes])}")
    others = [name for name in queues if not list(_refusals(queues, name, nodes, time_s))]
    advice = f"these do: {', '.join(others[:_MOST_NAMED])}" if others else "ask for fewer nodes, or a shorter --time"
    return Finding("partition", "fail", f"{names[0]} does not take the job: {'; '.join(refusals[names[0]])}", advice)


def _refusals(queues: Limits, name: str, nodes: int, time_s: int | None) -> Iterator[str]:
    """Why a queue does not take the job, or none of those that it passes jobs on to."""
    queue = queues[name]
    if queue.is_routed_only:
        routes = [one.name for one in queues.values() if name in one.destinations]
        yield f"only {' or '.join(routes) or 'a routing queue'} passes jobs on to it"
    yield from _own_refusals(queue, nodes, time_s)
    ends = [queues[end] for end in queue.destinations if end in queues]
    why_not = {end.name: list(_own_refusals(end, nodes, time_s)) for end in ends}
    if why_not and all(why_not.values()):
        said = [f"{end}: {why[0]}" for end, why in why_not.items()]
        yield f"none of the queues that it passes jobs on to takes it ({'; '.join(said[:_MOST_NAMED])})"


def _own_refusals(queue: QueueLimits, nodes: int, time_s: int | None) -> Iterator[str]:
    if queue.why_closed:
        yield queue.why_closed
    if queue.min_nodes is not None and nodes < queue.min_nodes:
        yield f"it starts at {counted(queue.min_nodes, 'node')}, not {nodes}"
    most = [limit for limit in (queue.max_nodes, queue.all_nodes) if limit is not None]
    if most and nodes > min(most):
        yield f"it has at most {counted(min(most), 'node')}, not {nodes}"
    if time_s is not None and queue.max_time_s is not None and time_s > queue.max_time_s:
        yield f"its walltime is at most {_clock(queue.max_time_s)}, not {_clock(time_s)}"


def _limits(queue: QueueLimits) -> str:
    return f", up to {_clock(queue.max_time_s)}" if queue.max_time_s is not None else ""


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _named(queues: Limits) -> str:
    names = list(queues)
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )
