"""The layouts that agree with what was asked for and that the model allows, from small to large replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import msgspec

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.memory import Fit
from vllm_hpc.planner.parallelism import allowed_tp
from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.solve_layout import Asked, Rule

Solver = Callable[[Asked, int | None, Rule, bool], tuple[Layout, list[str]]]

ASSUMED_NODE = 8  # GPUs per node, for the choice of TP if not given
ASSUMED = f"the number of GPUs per node was not given: {ASSUMED_NODE} are assumed"
MOST_REPLICA = 512  # ranks; the largest models need 16
# What a layout must save, by the estimate, to replace another one: TP=4 took 8 to 12 s longer to start than four
# replicas (docs/performance.md), and the estimated advantage of a larger TP over a smaller one on the same GPUs was up
# to a tenth too large (docs/planner.md).
WORTH_S, WORTH_SHARE = 12.0, 0.15


class Candidate(msgspec.Struct, frozen=True, dict=True):
    """A layout with its reasons, and how it scores."""

    layout: Layout
    reasons: list[str]
    problem: PlanningProblem

    @cached_property
    def fit(self) -> Fit | None:
        """Its memory, None if the device is unknown."""
        return self.problem.fit(self.layout)

    @property
    def concurrent(self) -> float:
        """Sequences of average length that a lane runs at once."""
        return self.problem.concurrent(self.fit) if self.fit else 0.0

    @property
    def room(self) -> float:
        """Concurrent sequences over all lanes."""
        return self.concurrent * self.layout.lanes

    @property
    def is_busy(self) -> bool:
        """Whether it fits with room to keep the engine busy."""
        return self.fit is not None and self.fit.fits and self.concurrent >= self.problem.busy_at(self.layout)

    @cached_property
    def seconds(self) -> float | None:
        """The estimate of its time, None if that is not accurate enough to compare."""
        return self.problem.seconds(self.layout, self.fit)

    def is_on_as_many(self, other: Candidate) -> bool:
        """Whether both use the same number of GPUs."""
        return self.layout.all_ranks == other.layout.all_ranks

    def saves_much(self, other: Candidate) -> bool:
        """Whether it is much faster, by the estimates of both."""
        if self.seconds is None or other.seconds is None:
            return False
        return saves_much(self.seconds, other.seconds)

    @property
    def cut(self) -> str:
        """How it divides the GPUs, in words."""
        return self.layout.cut


def saves_much(seconds: float, of: float) -> bool:
    """Whether a layout of so many seconds is worth changing one that takes ``of`` for."""
    return of - seconds >= max(WORTH_S, WORTH_SHARE * of)


def possible_layouts(asked: Asked, capacity: int | None, problem: PlanningProblem, solve: Solver) -> list[Candidate]:
    """The layouts that agree with what was asked, from small to large replicas.

    First TP inside a node, up to the model's maximum; then PP over nodes, if memory is known. If the size of a replica
    was given (by DP), or none of these keeps it busy, every split. With --ep, every number of lanes.
    """
    node = asked.gpus_per_node or capacity or ASSUMED_NODE
    allowed = allowed_tp(problem.shape, problem.settings.load.quantization)
    tps = [asked.tp] if asked.tp else [tp for tp in allowed if tp <= node]
    if asked.spreads and asked.attention_dp is None:
        return list(_solved(_in_lanes(asked, tps, capacity), bool(asked.tp), capacity, problem, solve))
    found = list(_solved([_cut(asked, tp, asked.pp or 1) for tp in tps], bool(asked.tp), capacity, problem, solve))
    if asked.attention_dp is not None and asked.attention_dp > 1 and asked.pp is None:
        return found  # PP and lanes together have never been run: only where both are asked for
    if found and asked.pp is None and (problem.device is not None or problem.holds(tps[-1]) is False):
        stages = range(2, min(problem.shape.layers, MOST_REPLICA // tps[-1]) + 1)
        found += _solved([_cut(asked, tps[-1], pp) for pp in stages], bool(asked.tp), capacity, problem, solve)
    if (not found and asked.dp) or (found and found[0].fit and not any(one.is_busy for one in found)):
        found += list(_solved(_all_cuts(asked, problem, allowed, node), bool(asked.tp), capacity, problem, solve))
    once: dict[Layout, Candidate] = {}
    for candidate in found:
        once.setdefault(candidate.layout, candidate)
    return list(once.values())


def is_open(asked: Asked, capacity: int | None) -> bool:
    """Whether nobody says how many nodes there are, or how many GPUs a node has."""
    return capacity is None and asked.nodes is None and asked.gpus_per_node is None


def _cut(asked: Asked, tp: int, pp: int) -> Asked:
    return msgspec.structs.replace(asked, tp=tp, pp=pp)


def _in_lanes(asked: Asked, tps: list[int], capacity: int | None) -> list[Asked]:
    """A replica of lanes for each TP: over the GPUs that were given, or over ever more of them, two at least."""
    if asked.gpus_per_node or (asked.nodes and capacity):
        return [_cut(asked, tp, asked.pp or 1) for tp in tps]
    lanes = [1 << power for power in range(MOST_REPLICA.bit_length())]
    cuts = [
        msgspec.structs.replace(asked, tp=tp, pp=asked.pp or 1, attention_dp=count) for tp in tps for count in lanes
    ]
    return sorted((one for one in cuts if 1 < one.replica <= MOST_REPLICA), key=lambda one: (one.replica, one.tp))


def _solved(
    cuts: list[Asked], spans: bool, capacity: int | None, problem: PlanningProblem, solve: Solver
) -> Iterator[Candidate]:
    """The layouts of these that are possible; ``spans``: a TP group may, since its size was given."""
    for asked in cuts:
        # No node has as many GPUs as the largest models need.
        node = ASSUMED_NODE if is_open(asked, capacity) and asked.replica > ASSUMED_NODE else capacity
        try:
            layout, reasons = solve(asked, node, problem.rule, False)
        except LayoutError:
            continue
        if (problem.one_node and layout.nodes > 1) or problem.experts_rule(layout):
            continue
        if not spans and not layout.has_tp_inside_nodes:
            continue  # a TP group would communicate over the network in every layer
        if node != capacity:
            reasons = [ASSUMED, *reasons]
        yield Candidate(layout, reasons, problem)


def _all_cuts(asked: Asked, problem: PlanningProblem, allowed: list[int], node: int) -> list[Asked]:
    """Every TP and PP, smallest replica first; among equal sizes TP inside a node first, then the smallest PP."""
    tps = [asked.tp] if asked.tp else allowed
    pps = [asked.pp] if asked.pp else range(1, min(problem.shape.layers, MOST_REPLICA) + 1)
    cuts = [(tp, pp) for tp in tps for pp in pps if tp * pp <= MOST_REPLICA]
    ordered = sorted(cuts, key=lambda cut: (cut[0] * cut[1], cut[0] > node, cut[1]))
    return [_cut(asked, *cut) for cut in ordered]
