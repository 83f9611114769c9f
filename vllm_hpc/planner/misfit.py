"""Why a plan does not fit, and what would: the fewest GPUs for one replica, or shorter sequences."""

from __future__ import annotations

import msgspec

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import Choice, missing_memory, smallest_that_fits
from vllm_hpc.planner.kv_cache import BLOCK_TOKENS
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.solve_layout import Asked, solve

WHOLE_NODE = 4  # GPUs; if fewer were requested, a node may well have more


def explain_misfit(choice: Choice, problem: PlanningProblem, request: Request, capacity: int | None) -> str | None:
    """Why the choice does not fit, with an alternative that does; None if it fits, or if its memory is unknown.

    ``capacity``: GPUs per node, None if unknown.
    """
    layout, fit = choice.layout, choice.fit
    if fit is None or fit.fits or problem.device is None:
        return None
    gpu = problem.device.gpu
    where = f"GPUs of type {gpu.name}" if gpu else "the CPU"
    lanes = f", attention DP = {layout.attention_dp}" if layout.attention_dp > 1 else ""
    text = f"does not fit on {where} with TP = {layout.tp}, PP = {layout.pp}{lanes}: {missing_memory(fit, problem)}"
    shorter = _shorter(choice, problem)
    instead = _one_replica(layout, problem, request, capacity) if gpu else None
    if instead is None:
        hint = "" if gpu else " (VLLM_CPU_KVCACHE_SPACE, in GiB, is the size of the KV cache)"
        return f"{text}: try {shorter or 'a smaller or a quantised model, or more memory'}{hint}"
    return f"{text}: try {_options(instead)}{f' or {shorter}' if shorter else ''}"


def _one_replica(layout: Layout, problem: PlanningProblem, request: Request, capacity: int | None) -> Layout | None:
    """The fewest GPUs that hold one replica, of lanes where such were asked for."""
    asked = Asked(dp=1, spreads=layout.attention_dp > 1 or request.ep)
    return smallest_that_fits(asked, _node_size(request, capacity, problem), problem, solve)


def _options(layout: Layout) -> str:
    lanes = f" --attention-dp {layout.attention_dp}" if layout.attention_dp > 1 else ""
    size = f"--nodes {layout.nodes} --gpus-per-node {layout.gpus_per_node}"
    return f"{size} --tp {layout.tp} --pp {layout.pp}{lanes} --dp 1"


def _node_size(request: Request, capacity: int | None, problem: PlanningProblem) -> int | None:
    """GPUs per node: the known number, or the requested one if that looks like a whole node."""
    asked = request.gpus_per_node or 0
    is_whole = asked >= WHOLE_NODE or (request.nodes or 1) > 1
    return capacity or (asked if asked and is_whole and not problem.one_node else None)


def _shorter(choice: Choice, problem: PlanningProblem) -> str:
    """The longest sequence that the layout has room for, as an option; empty if it has no room."""
    length = choice.fit.kv_tokens // BLOCK_TOKENS * BLOCK_TOKENS if choice.fit else 0
    load = msgspec.structs.replace(problem.settings.load, max_model_len=length)
    shortened = msgspec.structs.replace(problem, settings=msgspec.structs.replace(problem.settings, load=load))
    fit = shortened.fit(choice.layout) if length else None
    return f"--engine max_model_len={length}" if fit and fit.fits else ""
