"""What a program or a script changes in a job and its plan."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.jobfolder.missing_rows import intake_of
from vllm_hpc.jobfolder.store_input import Intake, NoRows
from vllm_hpc.planner.lanes import asked_of
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.program import FoundProgram, Program
from vllm_hpc.spec.programs.find import find_program, find_script
from vllm_hpc.spec.rehearsal import NO_MODEL
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import FilledRequest, Model, ResolvedJob
from vllm_hpc.spec.solve_layout import Asked, solve
from vllm_hpc.spec.words import counted

# Engine arguments of which some values have vLLM compile the model or capture CUDA graphs: neither calls a hook.
_COMPILE = ("compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "optimization_level")
_EAGER = "enforce_eager"
_EAGER_MODE = "eager mode, without CUDA graphs or compiled code"


def find_code(request: Request, site: Profile) -> FoundProgram | None:
    """The code of --program or --script; None without either. Raises RequestError."""
    if request.script is not None:
        has_image = request.container is not None or site.container is not None
        return find_script(request.script, request.script_args, is_newer_python=has_image)
    return None if request.program is None else find_program(request.program)


def model_of(given: Given) -> Model:
    """The job's model; of a script, none. Raises ModelError."""
    request = given.request
    if given.program is not None and given.program.program.is_script:
        return Model(NO_MODEL, given.program.program.name.removesuffix(".py"))
    return find_model(request.model, request.rehearse, request.engine)


def settled(filled: FilledRequest, found: FoundProgram | None) -> FilledRequest:
    """The request of a job with this program: one that drives the engine is run once, unless it may be again.

    Raises RequestError for options that do not go with it.
    """
    if found is None:
        return filled
    program, request = found.program, filled.request
    if program.drives_engine:
        _check_driving(program, request)
        if not request.requeue_script:
            if request.max_requeues and filled.is_asked("max_requeues"):
                raise RequestError(
                    f"--max-requeues {request.max_requeues}: the {program.title} is run again only with "
                    "--requeue-script: add that, or leave it out"
                )
            return msgspec.structs.replace(filled, request=msgspec.structs.replace(request, max_requeues=0))
    elif request.requeue_script:
        raise RequestError(
            f"--requeue-script is for what drives the engine, and {program.name} has no run: its rows are run again "
            "as those of any other job: leave it out"
        )
    return filled


def check_ranks_run_it(job: ResolvedJob) -> None:
    """Refuse workers of vLLM's own for a program, which the ranks run. Raises RequestError."""
    if job.program is not None and job.is_native and not job.runs_script:
        option = job.origin("launcher")
        raise RequestError(
            f"--program with the launcher native ({option}): the ranks that run it would not hold the model: use "
            "--launcher torchrun"
        )


def _check_driving(program: Program, request: Request) -> None:
    what = program.option if program.is_script else f"--program {program.name}, which has run,"
    if request.array:
        raise RequestError(f"{what} and --array: it is one run of all ranks: leave --array out")
    if request.rehearse:
        raise RequestError(f"{what} and --rehearse: it needs the engine itself: leave --rehearse out")


def intake_for(job: ResolvedJob) -> Intake:
    """The input of a job; none where a program drives the engine and was given none."""
    request = job.request
    if job.drives_engine and request.input is None and request.rows_missing_from is None:
        return NoRows()
    return intake_of(request)


def layout_of_script(request: Request, capacity: int | None) -> tuple[Layout, list[str]]:
    """One world of nodes × GPUs ranks, by default of one rank; of TP × PP × DP if that is given. Raises LayoutError."""
    asked = asked_of(request)
    if (asked.tp, asked.pp, asked.dp) == (None, None, None):
        on_each = request.gpus_per_node or (capacity if request.nodes else None) or 1
        asked = Asked(nodes=request.nodes or 1, gpus_per_node=on_each, dp=1)
    layout, reasons = solve(asked, capacity)
    world = f"{counted(layout.world_size, 'rank')} of one torch.distributed world, {layout.procs_per_node} on each node"
    is_open = (request.tp, request.pp, request.dp) == (None, None, None)
    return layout, [f"a script: {world}; its model, memory and engine are its own", *([] if is_open else reasons)]


def with_hooks(job: ResolvedJob) -> ResolvedJob:
    """The job in eager mode if its program needs hooks. Raises RequestError for arguments against it."""
    if job.program is None or not job.program.program.needs_hooks or job.request.rehearse:
        return job
    engine: dict[str, Any] = job.request.engine
    against = [name for name in _COMPILE if engine.get(name) is not None]
    if engine.get(_EAGER, True) is not True:
        against = [_EAGER]
    if against:
        place = job.origins.get(f"engine.{against[0]}")
        raise RequestError(
            f"--engine {against[0]}{f' ({place})' if place else ''}: {_name(job)} needs hooks, which are called "
            f"only in {_EAGER_MODE}: leave it out"
        )
    return job.asking(engine={**engine, _EAGER: True})


def check_hooks(job: ResolvedJob, layout: Layout) -> None:
    """Refuse hooks where vLLM needs its traced graph, which calls none. Raises LayoutError."""
    if _needs_hooks(job) and job.is_for_cpu and layout.pp > 1:
        raise LayoutError(
            f"PP {layout.pp} on the CPU: {_name(job)} needs hooks, but there vLLM runs pipeline stages as compiled "
            "graphs, which call none: use --pp 1"
        )


def explain(job: ResolvedJob) -> list[str]:
    """The plan's reasons that are about a program."""
    if job.program is None or job.runs_script:
        return []
    program = job.program.program
    does = "drives the engine: no rows out" if program.drives_engine else "runs beside the rows, on every rank"
    said = [f"program {program.name} ({program.source}) {does}"]
    if _needs_hooks(job):
        said.append(f"{_EAGER_MODE}: {program.name} needs hooks")
    return said


def _needs_hooks(job: ResolvedJob) -> bool:
    return job.program is not None and job.program.program.needs_hooks and not job.request.rehearse


def _name(job: ResolvedJob) -> str:
    assert job.program is not None
    return job.program.program.name
