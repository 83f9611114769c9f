"""Completes a layout from the numbers that were given: pure arithmetic, no I/O."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import NamedTuple

import msgspec

from vllm_hpc.spec.bounds import MOST_GPUS, MOST_NODES, MOST_RANKS
from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.nearest_layout import nearest_changes
from vllm_hpc.spec.words import counted


class _Numbers(msgspec.Struct, frozen=True):
    nodes: int | None = None
    gpus_per_node: int | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    attention_dp: int | None = None


class Asked(_Numbers, frozen=True, kw_only=True):
    """The six numbers of a layout as the user gave them; None means: compute it.

    Without ``attention_dp`` a replica has one lane. ``spreads`` (--ep): then one replica has all GPUs, if ``dp`` says
    nothing else.
    """

    spreads: bool = False

    @property
    def replica(self) -> int:
        """GPUs of a replica, as far as they are given."""
        return (self.tp or 1) * (self.pp or 1) * (self.attention_dp or 1)

    @property
    def cut(self) -> str:
        """What the GPUs are divided into, in words."""
        return CUT if self.attention_dp is None and not self.spreads else CUT_WITH_LANES

    @property
    def replica_cut(self) -> str:
        """The same of a replica's."""
        return self.cut.removesuffix(" × DP")


CUT, CUT_WITH_LANES = "TP × PP × DP", "TP × PP × attention DP × DP"

# A model's rule: why it cannot be split with this TP and PP size, or None if it can.
Rule = Callable[[int, int], str | None]


def any_model(tp: int, pp: int) -> str | None:
    """The rule for an unknown model: any split is fine."""
    return None


def solve(
    asked: Asked, capacity: int | None = None, rule: Rule = any_model, advise: bool = True
) -> tuple[Layout, list[str]]:
    """Complete a layout: nodes × GPUs per node = TP × PP × attention DP × DP.

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
    parts = _parallel(asked, nodes * procs, procs, reasons)
    if (why_not := rule(parts.tp, parts.pp)) is not None:
        raise _Misfit(why_not)
    gpus = asked.gpus_per_node or procs
    layout = Layout(nodes=nodes, gpus_per_node=gpus, procs_per_node=procs, **parts._asdict())
    size = layout.replica_size
    if nodes > 1 and not layout.is_even:
        reasons.append(f"a replica of {size} GPUs does not fill nodes of {procs} evenly: some replicas span two nodes")
    return layout, reasons


def _works(asked: Asked, capacity: int | None, rule: Rule) -> bool:
    try:
        _solve(asked, capacity, rule)
    except _Misfit:
        return False
    return True


def _hardware(asked: Asked, capacity: int | None, reasons: list[str]) -> tuple[int, int]:
    """Nodes and ranks per node."""
    replica = asked.replica
    wanted = replica * (asked.dp or 1)
    if wanted > MOST_RANKS:
        raise _Misfit(f"{asked.cut} = {wanted}: more than any machine has")
    if asked.nodes and asked.gpus_per_node:
        return asked.nodes, asked.gpus_per_node
    if asked.gpus_per_node:
        nodes = -(-wanted // asked.gpus_per_node)
        reasons.append(f"{asked.cut} = {wanted}: {counted(nodes, 'node')} of {counted(asked.gpus_per_node, 'GPU')}")
        return nodes, asked.gpus_per_node
    if asked.nodes:
        return asked.nodes, _procs_on(asked, replica, wanted, capacity, reasons)
    if capacity is None or wanted <= capacity:
        where = "one node" if capacity else "one node is assumed, since the number of GPUs per node was not given"
        reasons.append(f"{counted(wanted, 'GPU')} for {asked.cut}: {where}")
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
            where = f"{counted(nodes, 'node')} of {counted(capacity, 'GPU')}"
            raise _Misfit(f"{asked.replica_cut} = {replica} does not fit {where}")
    if asked.dp is None and nodes % wanted == 0:
        reasons.append(f"the number of GPUs per node was not given: one on each of {counted(nodes, 'node')}")
        return 1
    if wanted % nodes:
        raise _Misfit(f"{asked.cut} = {wanted} cannot be divided over {nodes} nodes")
    procs = wanted // nodes
    if capacity is not None and procs > capacity:
        raise _Misfit(
            f"{asked.cut} = {wanted} needs {procs} GPUs per node on {counted(nodes, 'node')}, a node has {capacity}"
        )
    reasons.append(f"{asked.cut} = {wanted} over {counted(nodes, 'node')}: {counted(procs, 'GPU')} on each")
    return procs


def _keeps_groups(procs: int, tp: int) -> bool:
    """Whether every TP group fills whole nodes, or every node holds whole TP groups."""
    return procs % tp == 0 or tp % procs == 0


class _Parts(NamedTuple):
    """What the ranks are divided into."""

    tp: int
    pp: int
    attention_dp: int
    dp: int

    @property
    def lane(self) -> int:
        return self.tp * self.pp

    @property
    def size(self) -> int:
        return self.lane * self.attention_dp * self.dp


def _parallel(asked: Asked, world: int, procs: int, reasons: list[str]) -> _Parts:
    """TP, PP, attention DP and DP for a world of that many ranks."""
    tp, pp, lanes = asked.tp, asked.pp, asked.attention_dp
    if asked.dp is not None and not (asked.spreads and lanes is None) and (tp is None or pp is None):
        if world % (asked.dp * (lanes or 1)):
            what = f"DP = {asked.dp} replicas" + (f" of {lanes} lanes" if lanes else "")
            raise _Misfit(f"{world} GPUs cannot be divided into {what}")
        size = world // asked.dp // (lanes or 1)
        tp, pp = _split_replica(tp, pp, size, procs)
        where = "inside a node" if tp <= procs else "over nodes"
        reasons.append(f"a {'lane' if lanes else 'replica'} has {counted(size, 'GPU')}: TP = {tp} {where}, PP = {pp}")
    parts = _filled(asked, _Parts(tp or 1, pp or 1, lanes or 1, asked.dp or 1), world, reasons)
    if parts.size != world:
        numbers = (parts.tp, parts.pp, *([parts.attention_dp] * (asked.cut != CUT)), parts.dp)
        raise _Misfit(
            f"{asked.cut} = {' × '.join(map(str, numbers))} does not fill "
            f"{counted(world // procs, 'node')} of {counted(procs, 'GPU')}"
        )
    return parts


def _filled(asked: Asked, parts: _Parts, world: int, reasons: list[str]) -> _Parts:
    """The parts with the one that fills the world, where none was given: lanes with --ep, else replicas."""
    if asked.spreads and asked.attention_dp is None:
        parts = parts._replace(attention_dp=max(1, world // (parts.lane * parts.dp)))
        of = "a replica" if parts.pp == 1 else "each of its stages"
        reasons.append(
            f"--ep: experts over the {counted(parts.tp * parts.attention_dp, 'GPU')} of {of}, attention DP = "
            f"{parts.attention_dp} (GPUs / TP × PP = {parts.lane})"
        )
    elif asked.dp is None:
        replica = parts.lane * parts.attention_dp
        parts = parts._replace(dp=max(1, world // replica))
        reasons.append(f"{counted(world, 'GPU')} / ({asked.replica_cut} = {replica}): DP = {parts.dp}")
    return parts


def _split_replica(tp: int | None, pp: int | None, size: int, procs: int) -> tuple[int, int]:
    """TP and PP of a replica of ``size`` ranks: given values are kept, else TP inside a node and PP across nodes."""
    given = tp or pp
    if given:
        if size % given:
            raise _Misfit(f"a replica of {counted(size, 'GPU')} cannot be split by {'TP' if tp else 'PP'} = {given}")
        return (tp, size // tp) if tp else (size // given, given)
    inside = max(ranks for ranks in range(1, min(size, procs) + 1) if size % ranks == 0)
    return inside, size // inside
