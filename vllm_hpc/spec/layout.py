"""Layout: pure arithmetic over what was asked, no I/O.

The torchrun world is ``nodes × procs_per_node`` ranks. It is cut into ``dp`` replicas of ``tp × pp`` consecutive
ranks; inside a replica the TP rank runs fastest, as in vLLM (vllm/distributed/parallel_state.py,
initialize_model_parallel: ranks are laid out as PP × TP).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import msgspec

from vllm_hpc.spec.errors import LayoutError

MOST_NODES = 100_000  # above the largest machine; keeps a slip of the keyboard out of the arithmetic
MOST_GPUS = 1024  # on one node; there are systems with 72 in one NVLink domain
OPTIONS = {"nodes": "--nodes", "gpus_per_node": "--gpus-per-node", "tp": "--tp", "pp": "--pp", "dp": "--dp"}


class Place(msgspec.Struct, frozen=True):
    """Where a global rank stands: its replica, its rank in that, and its PP and TP rank."""

    replica: int
    rank: int
    pp: int
    tp: int


class Layout(msgspec.Struct, frozen=True):
    """Nodes, ranks per node, and how they are shared out as TP × PP × DP.

    Of a job array, ``nodes`` and all else but ``dp`` are each task's, and each task is one replica.
    """

    nodes: int
    gpus_per_node: int
    procs_per_node: int
    tp: int
    pp: int
    dp: int
    is_array: bool = False

    @property
    def world_size(self) -> int:
        """Ranks in the torchrun world; of an array, in each task's."""
        return self.nodes * self.procs_per_node

    @property
    def has_tp_inside_nodes(self) -> bool:
        """No TP group lies across nodes."""
        return self.nodes == 1 or self.procs_per_node % self.tp == 0

    @property
    def tasks(self) -> int:
        """Tasks of the job array, each a world of its own; 1 where it is none."""
        return self.dp if self.is_array else 1

    @property
    def all_ranks(self) -> int:
        """Ranks of the job: global ranks count through the tasks of an array."""
        return self.world_size * self.tasks

    @property
    def replica_size(self) -> int:
        """Ranks that hold one copy of the model: TP × PP."""
        return self.tp * self.pp

    def place(self, rank: int) -> Place:
        """Where global ``rank`` (0-based) stands."""
        replica, inside = divmod(rank, self.replica_size)
        pp, tp = divmod(inside, self.tp)
        return Place(replica, inside, pp, tp)


class Asked(msgspec.Struct, frozen=True):
    """The five numbers of a layout as they were asked; None is computed."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None


# What a model says of a TP and a PP size: why it cannot be cut so, None where it can.
Rule = Callable[[int, int], str | None]


def any_model(tp: int, pp: int) -> str | None:
    """The rule of a model that nothing is known of."""
    return None


def solve(
    asked: Asked, capacity: int | None = None, rule: Rule = any_model, advise: bool = True
) -> tuple[Layout, list[str]]:
    """Complete a layout: nodes × GPUs per node = TP × PP × DP.

    ``capacity`` is how many GPUs a node has (the profile's gpus_per_node), None where nobody said. Returns the
    layout and the reasons for what was computed. Raises LayoutError, which names the nearest layouts that work, unless
    ``advise`` is false: to look for them takes longer than all else.
    """
    try:
        return _solve(asked, capacity, rule)
    except _Misfit as misfit:
        nearest = f": try {' or '.join(_nearest(asked, capacity, rule))}" if advise else ""
        raise LayoutError(f"{misfit}{nearest}") from None


def solve_array(
    asked: Asked, capacity: int | None = None, rule: Rule = any_model, advise: bool = True
) -> tuple[Layout, list[str]]:
    """The layout of a job array: ``dp`` tasks, one replica each; the other numbers are a task's. Raises LayoutError."""
    if asked.dp is None:
        raise LayoutError("--array needs the number of replicas: add --dp, one task for each")
    layout, reasons = solve(msgspec.structs.replace(asked, dp=1), capacity, rule, advise)
    reasons.append(f"array of {asked.dp} task(s), each one replica of {layout.world_size} GPU(s)")
    return msgspec.structs.replace(layout, dp=asked.dp, is_array=True), reasons


class _Misfit(Exception):  # noqa: N818 - never leaves this module
    """The numbers do not go together."""


def _solve(asked: Asked, capacity: int | None, rule: Rule) -> tuple[Layout, list[str]]:
    if asked.gpus_per_node is not None and capacity is not None and asked.gpus_per_node > capacity:
        raise _Misfit(f"--gpus-per-node {asked.gpus_per_node}, but a node has {capacity} GPUs")
    reasons: list[str] = []
    nodes, procs = _hardware(asked, capacity, reasons)
    if nodes > MOST_NODES or procs > MOST_GPUS:
        raise _Misfit(f"{nodes} node(s) of {procs} GPU(s) are more than any machine has")
    tp, pp, dp = _parallel(asked, nodes * procs, procs, reasons)
    if (why_not := rule(tp, pp)) is not None:
        raise _Misfit(why_not)
    if nodes > 1 and max(tp * pp, procs) % min(tp * pp, procs):
        reasons.append(
            f"a replica of {tp * pp} GPUs does not fill nodes of {procs} evenly: some replicas span two nodes"
        )
    gpus = asked.gpus_per_node or procs
    return Layout(nodes=nodes, gpus_per_node=gpus, procs_per_node=procs, tp=tp, pp=pp, dp=dp), reasons


def _hardware(asked: Asked, capacity: int | None, reasons: list[str]) -> tuple[int, int]:
    """Nodes and ranks per node."""
    replica = (asked.tp or 1) * (asked.pp or 1)
    wanted = replica * (asked.dp or 1)
    if asked.nodes and asked.gpus_per_node:
        return asked.nodes, asked.gpus_per_node
    if asked.gpus_per_node:
        nodes = -(-wanted // asked.gpus_per_node)
        reasons.append(f"{nodes} node(s) of {asked.gpus_per_node} hold TP × PP × DP = {wanted}")
        return nodes, asked.gpus_per_node
    if asked.nodes:
        return asked.nodes, _procs_on(asked, replica, wanted, capacity, reasons)
    if capacity is None or wanted <= capacity:
        where = "one node" if capacity else "one node is assumed, since the number of GPUs per node was not given"
        reasons.append(f"{wanted} GPU(s) for TP × PP × DP: {where}")
        return 1, wanted
    sizes = [size for size in range(1, capacity + 1) if wanted % size == 0]
    procs = max(sizes, key=lambda size: (_keeps_groups(size, asked.tp or 1), size))
    reasons.append(f"{wanted} GPUs over nodes of {capacity}: {wanted // procs} × {procs}")
    return wanted // procs, procs


def _procs_on(asked: Asked, replica: int, wanted: int, capacity: int | None, reasons: list[str]) -> int:
    """Ranks per node where only the number of nodes was given."""
    nodes = asked.nodes or 1
    open_ended = asked.dp is None or asked.tp is None or asked.pp is None
    if open_ended and capacity is not None:
        unit = wanted if asked.dp else replica
        fitting = [size for size in range(1, capacity + 1) if (nodes * size) % unit == 0]
        if fitting:
            best = max(fitting, key=lambda size: (_keeps_groups(size, asked.tp or 1), size))
            if best < capacity:
                reasons.append(f"{best} of the {capacity} GPUs of a node are used: a multiple of {unit} is needed")
            return best
        if asked.dp is None:
            raise _Misfit(f"TP × PP = {replica} does not fit {nodes} node(s) of {capacity} GPUs")
    if asked.dp is None and nodes % wanted == 0:
        reasons.append(f"the number of GPUs per node was not given: one on each of {nodes} node(s)")
        return 1
    if wanted % nodes:
        raise _Misfit(f"TP × PP × DP = {wanted} cannot be shared out over {nodes} nodes")
    procs = wanted // nodes
    if capacity is not None and procs > capacity:
        raise _Misfit(f"TP × PP × DP = {wanted} needs {procs} GPUs on each of {nodes} node(s), which have {capacity}")
    reasons.append(f"TP × PP × DP = {wanted} over {nodes} node(s): {procs} GPU(s) on each")
    return procs


def _keeps_groups(procs: int, tp: int) -> bool:
    """Whether no TP group lies on two nodes in part: it fills whole nodes, or nodes hold whole groups."""
    return procs % tp == 0 or tp % procs == 0


def _parallel(asked: Asked, world: int, procs: int, reasons: list[str]) -> tuple[int, int, int]:
    """TP, PP and DP over a world of that many ranks."""
    tp, pp = asked.tp, asked.pp
    if asked.dp is not None and (tp is None or pp is None):
        if world % asked.dp:
            raise _Misfit(f"{world} GPUs cannot be shared out over DP = {asked.dp} replicas")
        tp, pp = _split_replica(tp, pp, world // asked.dp, procs)
        where = "inside a node" if tp <= procs else "over nodes"
        reasons.append(f"a replica has {world // asked.dp} GPU(s): TP = {tp} {where}, PP = {pp}")
    tp, pp = tp or 1, pp or 1
    dp = asked.dp or world // (tp * pp)
    if tp * pp * dp != world:
        raise _Misfit(
            f"TP × PP × DP = {tp} × {pp} × {dp or 1} does not fill {world // procs} node(s) of {procs} GPU(s)"
        )
    if asked.dp is None:
        reasons.append(f"{world} GPU(s) / (TP × PP = {tp * pp}) give DP = {dp} replica(s)")
    return tp, pp, dp


def _split_replica(tp: int | None, pp: int | None, size: int, procs: int) -> tuple[int, int]:
    """TP and PP of a replica of ``size`` ranks: what is given stays, else TP inside a node and PP across nodes."""
    given = tp or pp
    if given:
        if size % given:
            raise _Misfit(f"a replica of {size} GPU(s) cannot be cut by {'TP' if tp else 'PP'} = {given}")
        return (tp, size // tp) if tp else (size // given, given)
    inside = max(ranks for ranks in range(1, min(size, procs) + 1) if size % ranks == 0)
    return inside, size // inside


def _nearest(asked: Asked, capacity: int | None, rule: Rule) -> list[str]:
    """The least changes of one option that give a layout, at most two, as '--option value'.

    Where no single change does, options are left out besides, as few as possible: '--option value without --other'.
    """
    given = [name for name in OPTIONS if getattr(asked, name) is not None]
    for leave_out in range(len(given)):
        found = []
        for left in combinations(given, leave_out):
            fewer = msgspec.structs.replace(asked, **dict.fromkeys(left))
            without = " without " + " and ".join(OPTIONS[name] for name in left) if left else ""
            for name in given:
                if name not in left and (change := _one_change(fewer, name, capacity, rule)):
                    found.append((change[0], f"{change[1]}{without}"))
        if found:
            return [text for _, text in sorted(found, key=lambda change: change[0])[:2]]
    return []


def _one_change(asked: Asked, name: str, capacity: int | None, rule: Rule) -> tuple[float, str] | None:
    """The nearest value of one option that gives a layout with the others as they are, after its distance."""
    value = getattr(asked, name)
    limit = max(64, 2 * value, 2 * (asked.nodes or 1) * (asked.gpus_per_node or capacity or 1))
    candidates = [v for v in range(1, min(limit, 4096) + 1) if v != value]
    for distance, candidate in sorted((_distance(name, value, v), v) for v in candidates):
        try:
            _solve(msgspec.structs.replace(asked, **{name: candidate}), capacity, rule)
        except _Misfit:
            continue
        return distance, f"{OPTIONS[name]} {candidate}"
    return None


def _distance(name: str, value: int, candidate: int) -> float:
    """How far a change is, as a ratio: hardware is not changed lightly, and attention heads come in powers of two."""
    ratio = max(candidate / value, value / candidate)
    odd = name in ("tp", "pp") and candidate & (candidate - 1)
    return ratio * (4 if name == "gpus_per_node" else 2 if odd else 1)
