"""Layout: pure arithmetic on the numbers that were requested, no I/O.

The torchrun world is ``nodes × procs_per_node`` ranks. It is split into ``dp`` replicas of ``tp × pp`` consecutive
ranks; inside a replica the TP rank varies fastest, as in vLLM (vllm/distributed/parallel_state.py,
initialize_model_parallel: ranks are laid out as PP × TP).
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

import msgspec

from vllm_hpc.spec.bounds import MOST_GPUS, MOST_NODES, MOST_RANKS, Gpus, Nodes, Parts
from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.nearest_layout import nearest_changes
from vllm_hpc.spec.words import counted


class Place(msgspec.Struct, frozen=True):
    """The position of a global rank: its replica, its rank in the replica, and its PP and TP rank."""

    replica: int
    rank: int
    pp: int
    tp: int


class Layout(msgspec.Struct, frozen=True):
    """Nodes, ranks per node, and how they are divided into TP × PP × DP.

    In a job array each task is one replica, and every number except ``dp`` is per task.
    """

    nodes: Nodes
    gpus_per_node: Gpus
    procs_per_node: Gpus
    tp: Parts
    pp: Parts
    dp: Parts
    is_array: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a layout of too many ranks: a job.json may say anything."""
        if self.all_ranks > MOST_RANKS:
            raise ValueError(f"{self.all_ranks} ranks, of at most {MOST_RANKS}")

    @property
    def world_size(self) -> int:
        """Ranks in the torchrun world; in a job array, per task."""
        return self.nodes * self.procs_per_node

    @property
    def has_tp_inside_nodes(self) -> bool:
        """Whether no TP group spans nodes."""
        return self.nodes == 1 or self.procs_per_node % self.tp == 0

    @property
    def tasks(self) -> int:
        """Tasks of the job array, each with its own torchrun world; 1 if the job is not an array."""
        return self.dp if self.is_array else 1

    @property
    def all_ranks(self) -> int:
        """Ranks of the whole job: global ranks are numbered across the tasks of an array."""
        return self.world_size * self.tasks

    @property
    def replica_size(self) -> int:
        """Ranks that hold one copy of the model: TP × PP."""
        return self.tp * self.pp

    @property
    def is_even(self) -> bool:
        """Whether a replica has the same number of ranks on each of its nodes."""
        size, procs = self.replica_size, self.procs_per_node
        return max(size, procs) % min(size, procs) == 0

    def place(self, rank: int) -> Place:
        """The position of global ``rank`` (0-based)."""
        replica, inside = divmod(rank, self.replica_size)
        pp, tp = divmod(inside, self.tp)
        return Place(replica, inside, pp, tp)


class Asked(msgspec.Struct, frozen=True):
    """The five numbers of a layout as the user gave them; None means: compute it."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None


# A model's rule: why it cannot be split with this TP and PP size, or None if it can.
Rule = Callable[[int, int], str | None]


def any_model(tp: int, pp: int) -> str | None:
    """The rule for an unknown model: any split is fine."""
    return None


def solve(
    asked: Asked, capacity: int | None = None, rule: Rule = any_model, advise: bool = True
) -> tuple[Layout, list[str]]:
    """Complete a layout: nodes × GPUs per node = TP × PP × DP.

    ``capacity`` is the number of GPUs per node (the profile's gpus_per_node), None if unknown. Returns the layout
    and the reasons for what was computed. Raises LayoutError, which names the nearest layouts that work unless
    ``advise`` is false (searching for them takes longer than everything else).
    """
    try:
        return _solve(asked, capacity, rule)
    except _Misfit as misfit:
        near = nearest_changes(asked, lambda other: _works(other, capacity, rule), capacity) if advise else []
        nearest = f": try {' or '.join(near)}" if near else ""
        raise LayoutError(f"{misfit}{nearest}") from None


def solve_array(
    asked: Asked, capacity: int | None = None, rule: Rule = any_model, advise: bool = True
) -> tuple[Layout, list[str]]:
    """The layout of a job array: ``dp`` tasks of one replica; other numbers are per task. Raises LayoutError."""
    if asked.dp is None:
        raise LayoutError("--array needs the number of replicas: add --dp, one task for each")
    layout, reasons = solve(msgspec.structs.replace(asked, dp=1), capacity, rule, advise)
    if layout.world_size * asked.dp > MOST_RANKS:
        raise LayoutError(
            f"--dp {asked.dp} tasks of {counted(layout.world_size, 'rank')}: use at most {MOST_RANKS} ranks"
        )
    reasons.append(f"array of {counted(asked.dp, 'task')}, each one replica of {counted(layout.world_size, 'GPU')}")
    return msgspec.structs.replace(layout, dp=asked.dp, is_array=True), reasons


class _Misfit(Exception):  # noqa: N818 - never leaves this module
    """The numbers do not match."""


def _solve(asked: Asked, capacity: int | None, rule: Rule) -> tuple[Layout, list[str]]:
    if asked.gpus_per_node is not None and capacity is not None and asked.gpus_per_node > capacity:
        raise _Misfit(f"--gpus-per-node {asked.gpus_per_node}, but a node has {capacity} GPUs")
    reasons: list[str] = []
    nodes, procs = _hardware(asked, capacity, reasons)
    if nodes > MOST_NODES or procs > MOST_GPUS:
        raise _Misfit(f"{counted(nodes, 'node')} of {counted(procs, 'GPU')}: more than any machine has")
    if nodes * procs > MOST_RANKS:
        raise _Misfit(f"{counted(nodes * procs, 'rank')}: more than any machine has")
    tp, pp, dp = _parallel(asked, nodes * procs, procs, reasons)
    if (why_not := rule(tp, pp)) is not None:
        raise _Misfit(why_not)
    if nodes > 1 and max(tp * pp, procs) % min(tp * pp, procs):
        reasons.append(
            f"a replica of {tp * pp} GPUs does not fill nodes of {procs} evenly: some replicas span two nodes"
        )
    gpus = asked.gpus_per_node or procs
    return Layout(nodes=nodes, gpus_per_node=gpus, procs_per_node=procs, tp=tp, pp=pp, dp=dp), reasons


def _works(asked: Asked, capacity: int | None, rule: Rule) -> bool:
    try:
        _solve(asked, capacity, rule)
    except _Misfit:
        return False
    return True


def _hardware(asked: Asked, capacity: int | None, reasons: list[str]) -> tuple[int, int]:
    """Nodes and ranks per node."""
    replica = (asked.tp or 1) * (asked.pp or 1)
    wanted = replica * (asked.dp or 1)
    if wanted > MOST_RANKS:
        raise _Misfit(f"TP × PP × DP = {wanted}: more than any machine has")
    if asked.nodes and asked.gpus_per_node:
        return asked.nodes, asked.gpus_per_node
    if asked.gpus_per_node:
        nodes = -(-wanted // asked.gpus_per_node)
        reasons.append(f"TP × PP × DP = {wanted}: {counted(nodes, 'node')} of {counted(asked.gpus_per_node, 'GPU')}")
        return nodes, asked.gpus_per_node
    if asked.nodes:
        return asked.nodes, _procs_on(asked, replica, wanted, capacity, reasons)
    if capacity is None or wanted <= capacity:
        where = "one node" if capacity else "one node is assumed, since the number of GPUs per node was not given"
        reasons.append(f"{counted(wanted, 'GPU')} for TP × PP × DP: {where}")
        return 1, wanted
    sizes = [size for size in range(1, capacity + 1) if wanted % size == 0]
    procs = max(sizes, key=lambda size: (_keeps_groups(size, asked.tp or 1), size))
    reasons.append(f"{wanted} GPUs over nodes of {capacity}: {wanted // procs} × {procs}")
    return wanted // procs, procs


def _procs_on(asked: Asked, replica: int, wanted: int, capacity: int | None, reasons: list[str]) -> int:
    """Ranks per node if only the number of nodes was given."""
    nodes = asked.nodes or 1
    open_ended = asked.dp is None or asked.tp is None or asked.pp is None
    if open_ended and capacity is not None:
        unit = wanted if asked.dp else replica
        step = unit // gcd(unit, nodes)  # nodes times size must be a multiple of the unit
        fitting = range(step, capacity + 1, step)
        if fitting:
            best = max(fitting, key=lambda size: (_keeps_groups(size, asked.tp or 1), size))
            if best < capacity:
                reasons.append(f"{best} of the {capacity} GPUs of a node are used: a multiple of {unit} is needed")
            return best
        if asked.dp is None:
            raise _Misfit(f"TP × PP = {replica} does not fit {counted(nodes, 'node')} of {counted(capacity, 'GPU')}")
    if asked.dp is None and nodes % wanted == 0:
        reasons.append(f"the number of GPUs per node was not given: one on each of {counted(nodes, 'node')}")
        return 1
    if wanted % nodes:
        raise _Misfit(f"TP × PP × DP = {wanted} cannot be divided over {nodes} nodes")
    procs = wanted // nodes
    if capacity is not None and procs > capacity:
        raise _Misfit(
            f"TP × PP × DP = {wanted} needs {procs} GPUs per node on {counted(nodes, 'node')}, a node has {capacity}"
        )
    reasons.append(f"TP × PP × DP = {wanted} over {counted(nodes, 'node')}: {counted(procs, 'GPU')} on each")
    return procs


def _keeps_groups(procs: int, tp: int) -> bool:
    """Whether every TP group fills whole nodes, or every node holds whole TP groups."""
    return procs % tp == 0 or tp % procs == 0


def _parallel(asked: Asked, world: int, procs: int, reasons: list[str]) -> tuple[int, int, int]:
    """TP, PP and DP for a world of that many ranks."""
    tp, pp = asked.tp, asked.pp
    if asked.dp is not None and (tp is None or pp is None):
        if world % asked.dp:
            raise _Misfit(f"{world} GPUs cannot be divided into DP = {asked.dp} replicas")
        tp, pp = _split_replica(tp, pp, world // asked.dp, procs)
        where = "inside a node" if tp <= procs else "over nodes"
        reasons.append(f"a replica has {counted(world // asked.dp, 'GPU')}: TP = {tp} {where}, PP = {pp}")
    tp, pp = tp or 1, pp or 1
    dp = asked.dp or world // (tp * pp)
    if tp * pp * dp != world:
        raise _Misfit(
            f"TP × PP × DP = {tp} × {pp} × {dp or 1} does not fill "
            f"{counted(world // procs, 'node')} of {counted(procs, 'GPU')}"
        )
    if asked.dp is None:
        reasons.append(f"{counted(world, 'GPU')} / (TP × PP = {tp * pp}): DP = {dp}")
    return tp, pp, dp


def _split_replica(tp: int | None, pp: int | None, size: int, procs: int) -> tuple[int, int]:
    """TP and PP of a replica of ``size`` ranks: given values are kept, else TP inside a node and PP across nodes."""
    given = tp or pp
    if given:
        if size % given:
            raise _Misfit(f"a replica of {counted(size, 'GPU')} cannot be split by {'TP' if tp else 'PP'} = {given}")
        return (tp, size // tp) if tp else (size // given, given)
    inside = max(ranks for ranks in range(1, min(size, procs) + 1) if size % ranks == 0)
    return inside, size // inside
