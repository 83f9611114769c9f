"""Replicas of several lanes (--attention-dp, --ep): what was asked for, what does not go with it, what vLLM is told."""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import Choice, choose
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.possible_layouts import Solver, saves_much
from vllm_hpc.schedulers.launchers import NATIVE
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.solve_layout import Asked
from vllm_hpc.spec.vllm_defaults import EXPERT_PARALLEL
from vllm_hpc.spec.words import counted


def asked_of(request: Request) -> Asked:
    """The numbers of a layout that were asked for."""
    one = request
    return Asked(one.nodes, one.gpus_per_node, one.tp, one.pp, one.dp, one.attention_dp, spreads=one.ep)


def has_lanes(request: Request) -> bool:
    """Whether replicas of several lanes, or experts over their ranks, were asked for."""
    return request.ep or (request.attention_dp or 1) > 1


def given_beside(request: Request) -> dict[str, Any]:
    """--engine's arguments without the one that lanes have anyway."""
    return {name: value for name, value in request.engine.items() if name != EXPERT_PARALLEL or not has_lanes(request)}


def check_lanes(job: ResolvedJob, shape: Shape | None) -> None:
    """Refuse what replicas of several lanes cannot have. Raises RequestError, LayoutError."""
    request = job.request
    if not has_lanes(request):
        return
    option = "--ep" if request.ep else f"--attention-dp {request.attention_dp}"
    if shape is not None and shape.experts is None:
        raise LayoutError(
            f"{option} is for mixtures of experts, and {shape.architecture} has none: use --dp, whose replicas do not "
            "wait for each other"
        )
    if job.is_native:
        raise RequestError(f"{option} needs a rank for each GPU, and --launcher {NATIVE} has one a node: leave one out")
    for other in ("program", "reproducible"):
        if getattr(request, other):
            raise RequestError(f"{option} does not go with --{other}: leave one of them out")


def suggest_lanes(job: ResolvedJob, choice: Choice, problem: PlanningProblem, solve: Solver) -> list[str]:
    """What --ep would give on the same GPUs, if it is much faster by the estimate.

    It is not chosen by itself: the loop of lanes has not been run on GPUs yet.
    """
    layout, request = choice.layout, job.request
    seconds = problem.seconds(layout, choice.fit)
    if problem.shape.experts is None or layout.attention_dp > 1 or layout.all_ranks == 1 or not seconds:
        return []
    if has_lanes(request) or job.is_native or request.program or request.reproducible or layout.is_array:
        return []
    if (request.pp or 1) > 1:  # never run together
        return []
    asked = Asked(layout.nodes, layout.procs_per_node, request.tp, request.pp, request.dp, spreads=True)
    try:
        other = choose(asked, None, problem, solve)
    except LayoutError:
        return []
    found = problem.seconds(other.layout, other.fit)
    if not found or not saves_much(found, seconds):
        return []
    return [
        f"with --ep: {other.layout.cut}, about {found:.0f} s of generation by estimate in place of {seconds:.0f} s; "
        "not chosen unasked, since it has not been measured"
    ]


def engine_of(job: ResolvedJob, layout: Layout) -> dict[str, Any]:
    """vLLM's arguments for such a layout, but for what --engine says."""
    is_spread = layout.attention_dp > 1 or (job.request.ep and layout.tp > 1)
    return {EXPERT_PARALLEL: True} if is_spread and not job.is_for_cpu else {}


def explain_lanes(job: ResolvedJob, layout: Layout) -> list[str]:
    """The reasons of a plan with several lanes in a replica."""
    if layout.attention_dp == 1:
        spread = layout.tp > 1
        return ["--ep: a replica has one GPU, which holds all experts"] if job.request.ep and not spread else []
    lanes = counted(layout.attention_dp, "lane")
    size = counted(layout.lane_size, "GPU")
    said = [f"attention DP {layout.attention_dp}: each replica has {lanes} of {size}, which run rows of their own"]
    if job.is_for_cpu and not job.request.rehearse:
        said.append(
            "vLLM's CPU back-end has no expert parallelism: the experts are split over the ranks, and lanes need a "
            "plug-in for what they exchange (docs/experts.md)"
        )
    return said
