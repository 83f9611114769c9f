"""Compares a profile's queues with what the cluster has: its partitions, limits, GPUs, cores and memory."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hpc.schedulers.ask_cluster import ask_cluster
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.inventory import Inventory
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.profile import Profile, Queue
from vllm_hpc.spec.queues import in_queue, partition_of
from vllm_hpc.spec.values import megabytes, parse_walltime
from vllm_hpc.spec.words import counted

_MOST_NAMES = 20


class Clusters:
    """What schedulers tell of this cluster, each asked once; a text where one cannot be asked."""

    def __init__(self) -> None:
        self._known: dict[str, Inventory | str] = {}

    def told_by(self, scheduler: str) -> Inventory | str:
        """The inventory, or why there is none."""
        if scheduler not in self._known:
            try:
                self._known[scheduler] = ask_cluster(scheduler)
            except (RequestError, ClientError) as error:
                self._known[scheduler] = str(error)
        return self._known[scheduler]


def check_cluster(site: Profile, clusters: Clusters) -> Iterator[Finding]:
    """What the cluster says of the profile's partitions, where it can be asked."""
    if site.scheduler in (None, "local"):
        return
    told = clusters.told_by(site.scheduler)
    if isinstance(told, str):
        yield Finding("cluster", "skip", told)
        return
    faults = list(_against(site, told))
    yield from faults
    if not faults:
        yield Finding(
            "cluster",
            "ok",
            f"{told.said_by} of {told.name} has the partitions, with these limits, GPUs, cores and memory",
        )


def _against(site: Profile, told: Inventory) -> Iterator[Finding]:
    tables = {name: partition_of(site, name) for name in site.queues}
    if site.partition and site.partition not in (*tables, *tables.values()):
        tables[site.partition] = site.partition
    for name, partition in tables.items():
        named = [one for one in partition.split(",") if one] if told.scheduler == "slurm" else [partition]
        if unknown := [one for one in named if one and one not in told.partitions]:
            has = ", ".join(told.partitions[:_MOST_NAMES])
            advice = f"the cluster has {has}{' ...' if len(told.partitions) > _MOST_NAMES else ''}"
            yield Finding("cluster", "fail", f"queue {name}: there is no partition {unknown[0]!r}", advice)
        elif left_out := [one for one in named if one in told.left_out]:
            yield Finding("cluster", "warn", f"queue {name}: {told.left_out[left_out[0]]}")
        else:
            there = [one.queue for one in told.queues if (one.queue.partition or one.name) in named]
            has_table = name in site.queues
            own = in_queue(site, name) if has_table else site
            yield from _limits(name, site.queues[name] if has_table else Queue(), own, there)
            yield from _nodes(name, own, there)


def _limits(name: str, queue: Queue, site: Profile, there: list[Queue]) -> Iterator[Finding]:
    """Where the table promises more than the cluster's partition takes, or other GPUs."""
    most = max((one.max_nodes for one in there if one.max_nodes), default=None)
    if most and queue.max_nodes and queue.max_nodes > most:
        yield _more(name, "max_nodes", queue.max_nodes, most)
    longest = [one.max_time for one in there if one.max_time]
    limit = max(longest, key=parse_walltime, default=None) if len(longest) == len(there) else None
    if limit and queue.max_time and parse_walltime(queue.max_time) > parse_walltime(limit):
        yield _more(name, "max_time", queue.max_time, limit)
    gpus = {one.gpus_per_node for one in there if one.gpus_per_node}
    if gpus and site.gpus_per_node and site.gpus_per_node > max(gpus):
        yield _more(name, "gpus_per_node", site.gpus_per_node, max(gpus))
    types = {one.gpu_type for one in there if one.gpu_type}
    if there and site.gpu_type and site.gpu_type not in types:
        has = " or ".join(sorted(types)) or "none"
        yield Finding("cluster", "fail", f"queue {name}: gpu_type is {site.gpu_type}, and the cluster has {has}")


def _nodes(name: str, site: Profile, there: list[Queue]) -> Iterator[Finding]:
    """Where a job would ask for more cores or memory of a node than there are; of a kind the least node's are told."""
    alike = [one for one in there if site.gpu_type in (None, one.gpu_type)]
    cores = max((one.cpus_per_node for one in alike if one.cpus_per_node), default=None)
    memory = max((one.mem_per_node for one in alike if one.mem_per_node), key=megabytes, default=None)
    gpus = site.gpus_per_node or 1
    if cores and site.cpus_per_node and site.cpus_per_node > cores:
        yield _more(name, "cpus_per_node", site.cpus_per_node, cores)
    if cores and site.cpus_per_rank and site.cpus_per_rank * gpus > cores:
        yield _too_much(name, "cpus_per_rank", site.cpus_per_rank, gpus, f"{cores} cores", cores // gpus)
    for key, value in (("mem_per_node", site.mem_per_node), ("mem", site.mem)):
        if memory and value and megabytes(value) > megabytes(memory):
            yield _more(name, key, value, memory)
    if memory and site.mem_per_gpu and megabytes(site.mem_per_gpu) * gpus > megabytes(memory):
        yield _too_much(name, "mem_per_gpu", site.mem_per_gpu, gpus, memory, f"{megabytes(memory) // gpus}M")


def _too_much(name: str, key: str, says: object, gpus: int, has: str, most: object) -> Finding:
    """Of a key whose value counts once for each GPU."""
    found = f"queue {name}: {key} is {says}, which nodes with {has} do not have for {counted(gpus, 'GPU')}"
    return Finding("cluster", "warn", found, f"set {key} to at most {most}")


def _more(name: str, key: str, says: object, has: object) -> Finding:
    found = f"queue {name}: {key} is {says}, and the cluster's is {has}"
    return Finding("cluster", "warn", found, f"set {key} to {has}")
