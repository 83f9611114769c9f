"""The plan of what the planner cannot read: a script, a rehearsal without a model, a model of at most known size."""

from __future__ import annotations

from vllm_hpc.planner import program_plan
from vllm_hpc.planner.by_size import Sized, layout_by_size, misfit
from vllm_hpc.planner.engine_settings import not_modelled, share_of_memory
from vllm_hpc.planner.lanes import asked_of, engine_of, explain_lanes
from vllm_hpc.planner.models.inspect import Knowledge
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.solve_layout import solve, solve_array

_ELEMENT = 2  # bytes: vLLM runs models in 16 bits


def plan_unknown(job: ResolvedJob, known: Knowledge) -> Plan:
    """The plan of a model without a shape. Raises LayoutError if the numbers asked for do not match each other."""
    request, capacity = job.request, job.site.gpus_per_node or (job.device.per_node if job.device else None)
    if job.runs_script:
        layout, reasons = program_plan.layout_of_script(request, job.site.gpus_per_node)
        return Plan(layout=layout, engine={}, reasons=tuple(reasons))
    asked = asked_of(request)
    solver, engine = solve_array if request.array else solve, dict(request.engine)
    if job.is_for_cpu or (known.weights is None and (request.rehearse or not known.is_unsized)):
        layout, reasons = solver(asked, job.site.gpus_per_node)
        told = (*reasons, *explain_lanes(job, layout))
        return Plan(layout=layout, engine={**engine_of(job, layout), **engine}, reasons=told)
    weights = known.weights.loaded_bytes(_ELEMENT) if known.weights else None
    sized = Sized(weights, job.device, share_of_memory(engine.get("gpu_memory_utilization")))
    found = layout_by_size(asked, capacity, sized, solver)
    fits = None if not_modelled(engine, is_quantized=True) else found.fits
    return Plan(
        layout=found.layout,
        engine={**engine_of(job, found.layout), **engine},
        reasons=(*found.reasons, *explain_lanes(job, found.layout)),
        fits=fits,
        misfit=misfit(found) if fits is False else None,
        memory=found.memory,
    )
