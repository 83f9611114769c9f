"""A profile's queue tables: what a queue takes, and the profile as it is for a job in one."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from vllm_hpc.spec.gpus import find_gpu
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.profile import TAKES_AWAY, Profile, Queue
from vllm_hpc.spec.values import parse_walltime
from vllm_hpc.spec.words import counted

# Lists of a queue are added to the profile's; all else that it says takes the place of what the profile says.
_ADDED = ("directives", "chunk", "resources")
_REPLACED = tuple(
    key for key in Queue.__struct_fields__ if key in Profile.__struct_fields__ and key not in (*_ADDED, "description")
)


def in_queue(site: Profile, name: str) -> Profile:
    """The profile for a job in that queue. A queue's ``partition`` is its name, unless it says another; "": none."""
    queue = site.queues[name]
    changes: dict[str, Any] = {key: value for key in _REPLACED if (value := getattr(queue, key)) is not None}
    changes["partition"] = partition_of(site, name) or None
    for key in _ADDED:
        changes[key] = (*getattr(site, key), *getattr(queue, key))
    for key in [key for key in TAKES_AWAY if key in changes]:
        changes |= {name: None for name in TAKES_AWAY[key] if name not in changes}
    return msgspec.structs.replace(site, **changes)


def partition_of(site: Profile, name: str) -> str:
    """What the scheduler calls a queue; empty if it is not to be named."""
    partition = site.queues[name].partition
    return name if partition is None else partition


def queues_called(site: Profile, given: str) -> list[str]:
    """The tables that a name stands for: the one of that name, or those with that partition."""
    if given in site.queues:
        return [given]
    return [name for name in site.queues if partition_of(site, name) == given]


class Misfit(NamedTuple):
    """Why a queue does not take a job, and the option that would have to be another."""

    why: str
    option: str


def misfit(queue: Queue, layout: Layout, time: str | None, gpu: tuple[str | None, str | None]) -> Misfit | None:
    """Why the queue does not take a job of that layout and walltime; None if it does.

    ``gpu`` is that of --gpu, and the one that nodes of the queue have.
    """
    nodes, gpus = layout.nodes, layout.nodes * layout.gpus_per_node
    least, most = queue.min_nodes or 1, queue.max_nodes
    if nodes < least or (most is not None and nodes > most):
        return Misfit(f"takes {_range(least, most)}, not {nodes}", "--nodes")
    if queue.max_gpus is not None and gpus > queue.max_gpus:
        return Misfit(f"takes at most {counted(queue.max_gpus, 'GPU')}, not {gpus}", "--nodes")
    if time is not None and queue.max_time is not None and parse_walltime(time) > parse_walltime(queue.max_time):
        return Misfit(f"takes jobs of at most {queue.max_time}, not {time}", "--time")
    asked, there = gpu
    if asked is not None and there is not None and find_gpu(asked) != find_gpu(there):
        return Misfit(f"has {there}, not {asked}", "--gpu")
    return None


def limits(queue: Queue) -> str:
    """What a queue takes, in words."""
    said = [_range(queue.min_nodes or 1, queue.max_nodes)] if queue.min_nodes or queue.max_nodes else []
    said += [f"at most {counted(queue.max_gpus, 'GPU')}"] if queue.max_gpus else []
    said += [f"at most {queue.max_time}"] if queue.max_time else []
    said += [queue.gpu] if queue.gpu else []
    return ", ".join(said) or "its limits are not in the profile"


def billed_whole(site: Profile, layout: Layout) -> str | None:
    """What to tell of a job that is billed for more GPUs than it uses; None if it is not."""
    if not site.whole_nodes or not site.gpus_per_node or site.gpus_per_node <= layout.procs_per_node:
        return None
    return (
        f"nodes are billed whole here: {counted(site.gpus_per_node, 'GPU')} each, of which the job uses "
        f"{layout.procs_per_node}: more replicas (--dp) cost nothing"
    )


def _range(least: int, most: int | None) -> str:
    if most is None:
        return f"{counted(least, 'node')} or more"
    return counted(most, "node") if least == most else f"{least} to {counted(most, 'node')}"
