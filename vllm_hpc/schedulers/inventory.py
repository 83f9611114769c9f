"""What a cluster has, as its scheduler tells it: the partitions or queues, their nodes and their limits.

Each scheduler has an ``inventory.py`` that asks its clients; profile_text.py writes a profile of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vllm_hpc.spec.gpus import names_of_gpu
from vllm_hpc.spec.profile import Queue

# Partitions of these names are for tries, for jobs that may be cut, or for somebody else.
_NOT_FOR_ALL = re.compile(
    r"debug|test|dev(el\w*)?|interact\w*|int|preempt\w*|scaveng\w*|stand-?by|stdby|backfill\w*|demand|viz\w*|visu\w*"
    r"|jhub|jupyter\w*|tutorial|train(ing)?|repair|maint\w*|admin|express|urgent|low(prio\w*)?|spot|idle"
)
_WORD = re.compile(r"[a-zA-Z]+")


class FoundQueue(msgspec.Struct, frozen=True, kw_only=True):
    """A table [profiles.NAME.queues.QUEUE]: its values, where each is from, by key, and what an admin should know.

    ``gpu_advice``: what to write of its GPU, where the scheduler does not tell which it is.
    """

    name: str
    queue: Queue
    sources: Mapping[str, str]
    is_default: bool = False
    notes: tuple[str, ...] = ()
    gpu_advice: str = ""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster's scheduler tells.

    ``name``: of the cluster; ``keys``: those of the profile itself. ``partitions``: all that there are. ``left_out``:
    those without a table, and why.
    """

    scheduler: str
    name: str
    said_by: str
    queues: tuple[FoundQueue, ...]
    partitions: tuple[str, ...]
    left_out: Mapping[str, str] = {}
    keys: Mapping[str, Any] = {}
    sources: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What an admin should know beside the profile: what was left out, and notes, by queue."""
        by_queue = {found.name: list(found.notes) for found in self.queues if found.notes}
        notes = [*self.notes, *self.gpu_advice()]
        return {"left_out": dict(self.left_out), "notes": notes, "queue_notes": by_queue}

    def gpu_advice(self) -> list[str]:
        """What to write of GPUs that are not told: one line for each kind."""
        return list(dict.fromkeys(found.gpu_advice for found in self.queues if found.gpu_advice))


class NodeKind(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of a partition with the same GPUs: how many, and the least that one of them has for jobs.

    0 and "" stand for what is not told. ``words``: whatever may say more of the GPU, such as features.
    """

    nodes: int
    gpus: int = 0
    gpu_type: str = ""
    cores: int = 0
    memory_mb: int = 0
    unavailable: int = 0
    most_memory_mb: int = 0
    words: frozenset[str] = frozenset()

    def plus(self, other: NodeKind) -> NodeKind:
        """Both together, of the same GPUs."""
        return NodeKind(
            nodes=self.nodes + other.nodes,
            gpus=self.gpus,
            gpu_type=self.gpu_type,
            cores=min(self.cores, other.cores),
            memory_mb=min(self.memory_mb, other.memory_mb),
            unavailable=self.unavailable + other.unavailable,
            most_memory_mb=max(self.most_memory_mb or self.memory_mb, other.most_memory_mb or other.memory_mb),
            words=self.words & other.words,
        )


def merged(kinds: Iterable[NodeKind]) -> list[NodeKind]:
    """One kind for each type and number of GPUs, that with the most nodes first."""
    found: dict[tuple[str, int], NodeKind] = {}
    for kind in kinds:
        key = (kind.gpu_type, kind.gpus)
        found[key] = found[key].plus(kind) if key in found else kind
    return sorted(found.values(), key=lambda kind: -kind.nodes)


def table_names(partition: str, kinds: list[NodeKind]) -> list[str]:
    """A name for the table of each kind of a partition: the partition's, and where it has several, their GPUs'."""
    if len(kinds) == 1:
        return [partition]
    types = [kind.gpu_type for kind in kinds]
    return [
        f"{partition}-{kind.gpu_type or 'gpu'}{f'-{kind.gpus}' if types.count(kind.gpu_type) > 1 else ''}"
        for kind in kinds
    ]


def words_of_nodes(kind: NodeKind) -> list[str]:
    """What an admin should know of these nodes, beside their values."""
    said = []
    if kind.most_memory_mb > kind.memory_mb:
        said.append(f"mem_per_node is that of its smallest nodes: the largest have {kind.most_memory_mb}M")
    if kind.unavailable:
        said.append(f"nodes out of service then: {kind.unavailable} of {kind.nodes}")
    return said


def gpu_of(kind: NodeKind) -> tuple[str | None, str]:
    """A name for the key ``gpu``, and None with what to choose from if what is told fits several, or none."""
    names = names_of_gpu({kind.gpu_type, *kind.words}) if kind.gpus else []
    if len(names) == 1:
        return names[0], ""
    if not kind.gpus:
        return None, ""
    choice = (
        " or ".join(f'"{name}"' for name in names)
        if names
        else '"h100-80" or another name of --gpu, or gpu_memory_gib = 80'
    )
    which = f"GPU {kind.gpu_type!r}" if kind.gpu_type else "the GPU"
    return None, f"say which {which} is, so that plan can check memory: gpu = {choice}"


def make_queue(partition: str | None, values: Iterable[tuple[str, Any, str]]) -> tuple[Queue, dict[str, str]]:
    """A table of values, each as key, value and source, and the sources; a value that no table can have is no limit.

    Slurm stands for "no limit" with 4294967295, too.
    """
    kept = [(key, value, source) for key, value, source in values if value and _is_value(key, value)]
    queue = Queue(partition=partition, **{key: value for key, value, _ in kept})
    return queue, {key: source for key, _, source in kept}


def _is_value(key: str, value: Any) -> bool:
    try:
        msgspec.convert({key: value}, Queue)
    except msgspec.ValidationError:
        return False
    return True


def why_by_request(name: str) -> str:
    """Why a partition of that name is not for jobs that do not ask for it; empty if nothing in its name says so."""
    word = next((word for word in _WORD.findall(name) if _NOT_FOR_ALL.fullmatch(word.lower())), None)
    return f"by its name ({word})" if word else ""
