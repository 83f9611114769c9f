"""Chooses the layout for a known model: the smallest TP, then PP, that fits with room to keep the engine busy.

The other GPUs become replicas: four replicas of an 8B model gave 3.5 times the tokens/s of TP=2 × PP=2 on the same
four H100. With few concurrent sequences a larger TP is faster: an estimate decides (planner/time_estimate.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.engine_settings import round_up
from vllm_hpc.planner.memory import Fit, weigh
from vllm_hpc.planner.possible_layouts import WORTH_S, Candidate, Solver, possible_layouts
from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.solve_layout import Asked

# How much larger the KV cache must be than needed before max_model_len is rounded up or more sequences run at once:
# predictions were up to 5 % off (docs/planner.md).
ROOM = 1.1
# The longest max_model_len to round up to if the memory is unknown: 1 GiB of KV cache for an 8B model.
MOST_LENGTH_UNKNOWN = 8192
# With room for fewer sequences, rows wait for KV cache as soon as some are longer than the average.
SOME_SEQUENCES = 32
SOME_ROOM = 0.6  # or this share of the roomiest layout's, if none has room to be busy
RUNNERS_UP = 2  # with smaller replicas, and one with larger ones


class Choice(msgspec.Struct, frozen=True):
    """The chosen layout, the reasons, its memory, and the runners-up."""

    layout: Layout
    fit: Fit | None
    reasons: tuple[str, ...]
    runners_up: tuple[str, ...] = ()


def choose(asked: Asked, capacity: int | None, problem: PlanningProblem, solve: Solver) -> Choice:
    """Complete a layout for a model. Raises LayoutError if the numbers do not match each other or the model."""
    candidates = possible_layouts(asked, capacity, problem, solve)
    if not candidates:  # solve says which number is wrong
        layout, reasons = solve(asked, capacity, problem.rule, True)
        if why := problem.experts_rule(layout):
            raise LayoutError(why)
        candidates = [Candidate(layout, reasons, problem)]
    best = _best(candidates)
    place = next(number for number, candidate in enumerate(candidates) if candidate is best)
    nearest = [*reversed(candidates[:place][-RUNNERS_UP:]), *candidates[place + 1 : place + 2]]
    runners_up = tuple(_why_not(other, best) for other in nearest)
    is_asked = asked.tp is not None or asked.pp is not None
    return Choice(best.layout, best.fit, (*best.reasons, *_why(best, candidates, is_asked)), runners_up)


def with_rounded_length(
    choice: Choice, problem: PlanningProblem, given: dict[str, Any]
) -> tuple[Choice, PlanningProblem]:
    """Round max_model_len up if the layout has room for such a sequence, or if it is too short to matter.

    ``given`` has the arguments of --engine.
    """
    roomy = msgspec.structs.replace(problem, settings=round_up(problem.settings, problem.shape, given))
    fit, length = roomy.fit(choice.layout), roomy.settings.load.max_model_len
    has_room = fit.fits and fit.kv_tokens >= ROOM * length if fit else length <= MOST_LENGTH_UNKNOWN
    if not has_room:
        return choice, problem
    return msgspec.structs.replace(choice, fit=fit), roomy


def smallest_that_fits(asked: Asked, capacity: int | None, problem: PlanningProblem, solve: Solver) -> Layout | None:
    """The first layout that holds a replica, from small to large ones; None if not even MOST_REPLICA GPUs do."""
    for candidate in possible_layouts(asked, capacity, problem, solve):
        if candidate.fit and candidate.fit.fits:
            return candidate.layout
    return None


def _best(candidates: list[Candidate]) -> Candidate:
    """The first with room to be busy, else the roomiest, unless another is much faster; if none fits, the closest."""
    if candidates[0].fit is None:
        return _unchecked(candidates)
    busy = _first_busy(candidates)
    if busy:
        return _faster(candidates, busy)
    roomiest = _roomiest(candidates)
    if roomiest:
        return _fastest(candidates, roomiest)
    return max(candidates, key=lambda candidate: candidate.fit.kv if candidate.fit else 0)


def _unchecked(candidates: list[Candidate]) -> Candidate:
    """Where memory is not checked: the smallest replica that holds the weights; without their size, a whole node."""
    holding = [one.problem.holds(one.layout.replica_size) for one in candidates]
    if None in holding:
        return max(candidates, key=lambda one: (one.layout.nodes == 1, one.layout.tp))
    return candidates[holding.index(True)] if True in holding else candidates[-1]


def _first_busy(candidates: list[Candidate]) -> Candidate | None:
    return next((candidate for candidate in candidates if candidate.is_busy), None)


def _roomiest(candidates: list[Candidate]) -> Candidate | None:
    fitting = [candidate for candidate in candidates if candidate.fit and candidate.fit.fits]
    return max(fitting, key=lambda candidate: candidate.room, default=None)


def _faster(candidates: list[Candidate], busy: Candidate) -> Candidate:
    """``busy``, or a later candidate on as many GPUs, if each step from one to the next is much faster."""
    best = busy
    for one in candidates:
        if one.is_on_as_many(busy) and (one.is_busy or one.concurrent >= SOME_SEQUENCES) and one.saves_much(best):
            best = one
    return best


def _fastest(candidates: list[Candidate], roomiest: Candidate) -> Candidate:
    """If none has room to be busy: the fastest on as many GPUs with not much less room, or the roomiest."""
    others = [one for one in candidates if one.is_on_as_many(roomiest) and one.room >= SOME_ROOM * roomiest.room]
    best = min(others, key=lambda one: one.seconds or float("inf"), default=roomiest)
    return best if best.saves_much(roomiest) else roomiest


def _why(best: Candidate, candidates: list[Candidate], is_asked: bool) -> list[str]:
    fit, length = best.fit, best.problem.settings.sequence_tokens
    if fit is None:
        return _why_unchecked(best, is_asked)
    if not fit.fits:
        return []
    room = f"room for {fit.kv_tokens / length:.0f} sequences of {length} tokens at once in each {best.layout.unit}"
    first = _first_busy(candidates) or _roomiest(candidates)
    if first and first is not best and first.seconds and best.seconds:
        saved = f"about {best.seconds:.0f} s of generation, {first.seconds:.0f} s with {first.cut}"
        return [f"{best.cut}: the fastest by estimate: {saved}; {room}"]
    if not best.is_busy:
        return [f"{best.cut}: {room}; {best.problem.busy_at(best.layout):.0f} would keep it busy"]
    smallest = "the smallest that stays busy: " if len(candidates) > 1 and not is_asked else ""
    return [f"{best.cut}: {smallest}{room}"]


def _why_unchecked(best: Candidate, is_asked: bool) -> list[str]:
    if is_asked or best.layout.replica_size == 1:
        return []
    problem, cut = best.problem, best.cut
    if not problem.is_sized:
        return [f"{cut}: the size of the model is not known, so a replica has all GPUs of a node"]
    total, _ = weigh(problem.shape, problem.weights, problem.settings.load)
    whole = (problem.gpu_bytes or 0) / GIB
    return [f"{cut}: the weights have {total / GIB:.0f} GiB, and GPUs of {whole:.0f} GiB are assumed"]


def _why_not(other: Candidate, best: Candidate) -> str:
    """Why a candidate lost, with its numbers."""
    if other.fit is None or best.fit is None:
        return f"{other.cut}: more ranks in a replica than needed"
    if not other.fit.fits:
        return f"{other.cut}: does not fit: {missing_memory(other.fit, other.problem)}"
    if other.is_on_as_many(best) and other.seconds and best.seconds and abs(other.seconds - best.seconds) > 1:
        told = f"{other.cut}: about {other.seconds:.0f} s of generation, {best.seconds:.0f} s with the chosen one"
        return told if other.seconds > best.seconds else f"{told}: {_why_not_faster(other, best)}"
    if not other.is_busy and other.room < best.room:
        return (
            f"{other.cut}: room for {other.concurrent:.0f} sequences at once, {best.concurrent:.0f} with the chosen one"
        )
    return f"{other.cut}: fits too, with fewer replicas or more ranks in each, which communicate in every layer"


def _why_not_faster(other: Candidate, best: Candidate) -> str:
    if other.room < best.room and not other.is_busy:
        return f"it has room for {other.room:.0f} sequences at once in total, the chosen one for {best.room:.0f}"
    saved = (best.seconds or 0.0) - (other.seconds or 0.0)
    is_larger = other.layout.tp > best.layout.tp
    return (
        "a larger group takes longer to start"
        if is_larger and saved < WORTH_S
        else "the estimate is too rough for that"
    )


def missing_memory(fit: Fit, problem: PlanningProblem) -> str:
    """What is missing, in GiB."""
    if fit.asked_kv and fit.kv < fit.asked_kv:
        return f"a KV cache of {fit.asked_kv / GIB:.1f} GiB was requested, but {max(0, fit.kv) / GIB:.1f} GiB are left"
    used = fit.rank_weights + fit.reserve
    if used >= fit.limit:
        weights, reserve, limit = (size / GIB for size in (fit.rank_weights, fit.reserve, fit.limit))
        return f"weights {weights:.1f} GiB + reserve {reserve:.1f} GiB are more than {limit:.1f} GiB"
    longest = problem.settings.load.max_model_len
    held = f"{max(0, fit.kv) / GIB:.1f} GiB for KV cache hold {fit.kv_tokens} tokens"
    return f"{held}, less than one sequence of {longest}"
