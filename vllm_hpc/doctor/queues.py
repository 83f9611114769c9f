"""What a scheduler says of its partitions or queues, and whether one takes a job of that size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from vllm_hpc.schedulers.client import Ask, ClientError
from vllm_hpc.schedulers.pbs import inventory_answers as pbs
from vllm_hpc.schedulers.pbs.inventory import hosts_of
from vllm_hpc.schedulers.pbs.nodes import count
from vllm_hpc.schedulers.slurm import inventory_answers as slurm
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.values import parse_walltime
from vllm_hpc.spec.words import counted

_MOST_NAMED = 8


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition or queue takes; None: no limit is known. ``why_closed``: why it takes no jobs.

    ``destinations``: the queues that one of PBS's passes jobs on to; ``is_routed_only``: only such a one may send here.
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
    return {one["PartitionName"]: _slurm_limits(one) for one in slurm.ask_partitions(ask)}


def ask_pbs(ask: Ask) -> Limits:
    """PBS's queues. Raises ClientError where it does not list them; of the server and nodes it may tell nothing."""
    queues, hosts, default = pbs.ask_queues(ask), list[pbs.Host](), ""
    with suppress(ClientError):
        hosts = pbs.ask_hosts(ask)
    with suppress(ClientError):
        default = next((str(one.get("default_queue", "")) for one in pbs.ask_servers(ask).values()), "")
    return pbs_limits(queues, default, hosts)


ASKED: dict[str, Callable[[Ask], Limits]] = {"slurm": ask_slurm, "pbs": ask_pbs}


def _slurm_limits(fields: slurm.Fields) -> QueueLimits:
    state = fields.get("State", "UP")
    return QueueLimits(
        name=fields["PartitionName"],
        is_default=fields.get("Default") == "YES",
        why_closed="" if state == "UP" else f"its state is {state}",
        min_nodes=slurm.number(fields.get("MinNodes", "")) or None,
        max_nodes=slurm.number(fields.get("MaxNodes", "")) or None,
        all_nodes=slurm.number(fields.get("TotalNodes", "")) or None,
        max_time_s=slurm.seconds_of(fields.get("MaxTime", "")) or None,
    )


def pbs_limits(
    queues: Mapping[str, pbs.Fields], default: str = "", hosts: Sequence[pbs.Host] = ()
) -> dict[str, QueueLimits]:
    """The queues of ``qstat -Qf``, with the hosts that each may use: those of its own, else those that are nobody's."""
    return {name: _pbs_limits(name, fields, name == default, hosts) for name, fields in queues.items()}


def _pbs_limits(name: str, fields: pbs.Fields, is_default: bool, hosts: Sequence[pbs.Host]) -> QueueLimits:
    own = hosts_of(name, fields, hosts)
    destinations = tuple(pbs.destinations(fields))
    closed = [word for word in ("enabled", "started") if str(fields.get(word, "True")).strip() != "True"]
    least, most = pbs.table_of(fields, "resources_min"), pbs.table_of(fields, "resources_max")
    longest = pbs.clock(most.get("walltime"))
    return QueueLimits(
        name=name,
        is_default=is_default,
        is_routed_only=str(fields.get("from_route_only")) == "True",
        destinations=destinations,
        why_closed=f"it is not {' and not '.join(closed)}" if closed else "",
        min_nodes=count(least, "nodect") or None,
        max_nodes=count(most, "nodect") or None,
        all_nodes=len(own) if own and not destinations else None,
        max_time_s=parse_walltime(longest) if longest else None,
    )


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
