"""More sequences at once than vLLM captures CUDA graphs for, where the rows are many enough to pay for the start."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from vllm_hpc.planner.batch_gain import STEP, gain_of, start_s
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import ROOM, Choice
from vllm_hpc.planner.engine_settings import with_sequences
from vllm_hpc.planner.memory import Fit
from vllm_hpc.spec.vllm_defaults import LARGEST_GRAPH, names_graphs

_NAMES_OF_MEMORY = frozenset({"gpu_memory_utilization", "kv_cache_memory_bytes"})


class _More(NamedTuple):
    """A number of sequences: seconds of generation that it saves, and of the start that it costs."""

    saved: float
    cost: float
    fit: Fit
    problem: PlanningProblem


def with_more_sequences(
    choice: Choice, problem: PlanningProblem, given: dict[str, Any]
) -> tuple[Choice, PlanningProblem]:
    """Run as many sequences at once, not LARGEST_GRAPH, as save most by the estimate, if the KV cache holds them.

    If --engine (``given``) or a small GPU decides the number of sequences, graphs or memory, nothing changes; nor if
    the time cannot be estimated.
    """
    is_ours = problem.settings.engine.get("max_num_seqs") == LARGEST_GRAPH
    is_theirs = names_graphs(given) or not _NAMES_OF_MEMORY.isdisjoint(given)
    seconds = problem.rough_seconds(choice.layout, choice.fit)
    if not is_ours or is_theirs or seconds is None:
        return choice, problem
    numbers = range(2 * LARGEST_GRAPH, gain_of(problem.shape).most + 1, STEP)
    worth = [more for number in numbers if (more := _more(choice, problem, seconds, number)) and more.saved > more.cost]
    if not worth:
        return choice, problem
    best = max(worth, key=lambda more: more.saved - more.cost)
    return msgspec.structs.replace(choice, fit=best.fit), best.problem


def _more(choice: Choice, problem: PlanningProblem, seconds: float, number: int) -> _More | None:
    """What ``number`` sequences at once change; None if the KV cache or a step's tokens do not hold them."""
    settings, load = problem.settings, problem.settings.load
    cost = start_s(problem.shape, number)
    more = msgspec.structs.replace(problem, settings=with_sequences(settings, number))
    fit = more.fit(choice.layout)  # sampling more sequences takes memory too
    tokens = max(number * settings.sequence_tokens, load.max_model_len)
    if load.max_num_batched_tokens < number or not fit or not fit.fits or fit.kv_tokens < ROOM * tokens:
        return None
    saved = seconds - (more.rough_seconds(choice.layout, fit) or seconds)
    why = f"many short rows: about {saved:.0f} s less of generation, up to {cost:.0f} s more of a first start"
    told = msgspec.structs.replace(problem, settings=with_sequences(settings, number, why))
    return _More(saved, cost, fit, told)
