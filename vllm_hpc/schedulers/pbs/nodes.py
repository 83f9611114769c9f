"""What part of a node belongs to a job's GPUs, from what pbsnodes tells of the nodes.

PBS gives a job one core a chunk, and little memory, unless it asks for more; with neither, vLLM is slow or is killed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from vllm_hpc.schedulers.client import Ask, ClientError, call_client
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import NodePart
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.words import counted

# Vnodes, which are summed up here: of a host with two vnodes of two GPUs each, plain ``pbsnodes -a`` says 2 (OpenPBS
# 23.06.06; src/lib/Libifl/pbsD_stathost.c adds up only what is assigned to a job).
_ARGV = ["pbsnodes", "-a", "-v", "-F", "json"]
OUT_OF_SERVICE = re.compile(r"down|offline|stale|unknown|unresolvable|maintenance|provisioning")
_SIZE = re.compile(r"(\d+)([kmgtp]?)b", re.IGNORECASE)
_ADVICE = "cpus_per_node and mem_per_node in the profile, or --cpus-per-rank and --mem, say what to ask for"


class Host(NamedTuple):
    """What the vnodes of a host that are in service have together; ``memory`` in MiB, 0 where it is not told."""

    gpus: int
    cores: int
    memory: int
    queues: frozenset[str]

    def plus(self, other: Host) -> Host:
        """This one with another vnode of it."""
        gpus, cores, memory = self.gpus + other.gpus, self.cores + other.cores, self.memory + other.memory
        return Host(gpus, cores, memory, self.queues | other.queues)


def node_part(job: ResolvedJob, layout: Layout, ask: Ask = call_client) -> tuple[NodePart, str]:
    """The cores and the memory to ask for on each node where nobody says, and a reason; it never raises.

    It is the share of its GPUs in the smallest of the nodes in service that have as many.
    """
    cores, memory = _wanted(job)
    if not (cores or memory):
        return NodePart(), ""
    try:
        hosts = _with_gpus(parse_pbsnodes(ask(_ARGV)), layout.gpus_per_node, job.request.partition)
    except (ClientError, ValueError) as error:
        return NodePart(), f"cores and memory are not those of the GPUs' part of a node ({error}): {_ADVICE}"
    if not hosts:
        has = counted(layout.gpus_per_node, "GPU")
        return NodePart(), f"pbsnodes shows no node in service with {has} (ngpus): {_ADVICE}"
    part = _least(hosts, None if job.site.exclusive or job.site.whole_nodes else layout.gpus_per_node)
    part = NodePart(part.cores if cores else None, part.memory_mb if memory else None)
    said = [f"{counted(part.cores, 'core')}"] if part.cores else []
    said += [f"{part.memory_mb / 1024:.1f} GiB"] if part.memory_mb else []
    return part, f"asks for {' and '.join(said)} on each node, the GPUs' part of the smallest that pbsnodes shows"


def _wanted(job: ResolvedJob) -> tuple[bool, bool]:
    """Whether cores, and memory, are to be found out: where GPUs are asked for by number, and nobody says."""
    request, site = job.request, job.site
    if site.gpu_request == "queue" or site.gpu_flag == "none":
        return False, False
    has_cores = request.cpus_per_rank or site.cpus_per_node
    return not has_cores, not (request.mem or site.mem_per_node or site.mem_per_gpu)


def parse_pbsnodes(text: str) -> list[Host]:
    """The hosts in ``pbsnodes -a -v -F json``, in its order. Raises ValueError."""
    try:
        nodes = json.loads(text, strict=False)["nodes"]
        hosts: dict[str, Host] = {}
        for name, vnode in _in_service(nodes):
            before = hosts.get(name, Host(0, 0, 0, frozenset()))
            hosts[name] = before.plus(vnode)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("pbsnodes' answer is not the JSON of its -F json") from None
    return list(hosts.values())


def _in_service(nodes: dict[str, Any]) -> Iterator[tuple[str, Host]]:
    """Each vnode that is in service, with the name of its host."""
    for name, node in nodes.items():
        has = node.get("resources_available", {})
        if OUT_OF_SERVICE.search(str(node.get("state", ""))):
            continue
        queues = frozenset([str(node["queue"])]) if "queue" in node else frozenset[str]()
        yield str(has.get("host", name)), Host(count(has, "ngpus"), count(has, "ncpus"), mebibytes(has), queues)


def count(has: dict[str, Any], name: str) -> int:
    """A number; 0 for what a vnode has not, or shares with another (``@other``)."""
    value = str(has.get(name, ""))
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0


def mebibytes(has: dict[str, Any]) -> int:
    """The memory in MiB; 0 where it is not told."""
    size = _SIZE.fullmatch(str(has.get("mem", "")))
    return int(size[1]) << 10 * " kmgtp".index(size[2].lower() or " ") >> 20 if size else 0


def _with_gpus(hosts: list[Host], gpus: int, queue: str | None) -> list[Host]:
    """Those that may run the job: of hosts that belong to queues, only the named queue's, if it has some."""
    own = [host for host in hosts if queue in host.queues] or hosts
    return [host for host in own if host.gpus >= gpus and host.cores]


def _least(hosts: list[Host], gpus: int | None) -> NodePart:
    """What each of them has for as many GPUs, None: for all of its own. No memory where one does not tell it."""
    shares = [(host, gpus or host.gpus) for host in hosts]
    cores = min(host.cores * number // host.gpus for host, number in shares)
    memory = min(host.memory * number // host.gpus for host, number in shares)
    return NodePart(cores or None, memory or None)
