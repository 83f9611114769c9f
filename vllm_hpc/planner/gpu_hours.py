"""Estimates what an input will cost: a range of GPU-hours and its basis."""

from __future__ import annotations

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.history import Measured
from vllm_hpc.planner.memory import Fit
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Cost
from vllm_hpc.spec.words import counted

# Runs took 0.88 to 1.13 times the estimate, which is fitted to them, and 1.5 to 2 times the previous one, which was
# not and ignored Python's part and experts (docs/planner.md): the range leaves room for what was not measured.
ESTIMATE_SPREAD = (0.8, 2.0)
# For TP groups without NVLink and replicas over several nodes, which were not measured.
ROUGH_SPREAD = (0.5, 5.0)
# A measured rate counts prompt and output tokens together; for an input with another mix it holds within this factor.
MEASURED_SPREAD = (0.5, 2.0)
# Import, load and compile before the first token (docs/performance.md): a small model with its compiled code in the
# cache took 21 s, a first start up to 2 minutes; large checkpoints and slow disks take longer.
START_S = (20.0, 300.0)


def estimate(
    problem: PlanningProblem, layout: Layout, fit: Fit | None, workload: Workload, measured: Measured | None
) -> Cost | None:
    """GPU-hours for an input on that layout. None on the CPU, or if neither a rate nor the GPU is known."""
    gpu = problem.device.gpu if problem.device else None
    estimated = problem.rough_seconds(layout, fit)
    if measured is not None:
        seconds = (workload.prompt_tokens + workload.output_tokens) / measured.tokens_per_s_per_gpu
        low, high = MEASURED_SPREAD
        basis = f"the rate of {counted(measured.jobs, 'earlier job')} of this model, GPU and layout"
    elif gpu is not None and estimated is not None:
        seconds = estimated * layout.all_ranks
        is_near = (layout.tp == 1 or gpu.link) and layout.tp * layout.pp <= layout.procs_per_node
        low, high = ESTIMATE_SPREAD if is_near else ROUGH_SPREAD
        basis = f"an estimate for {gpu.name}, times {low:g} to {high:g} (no earlier job to compare with)"
    else:
        return None
    outputs = "as if every row used its max_tokens" if workload.output_tokens else "nothing generated"
    inputs = f"prompt tokens from {'a sample of the input' if workload.is_sample else 'bytes'}"
    return Cost(
        gpu_hours_low=_hours(low * seconds + START_S[0] * layout.all_ranks),
        gpu_hours_high=_hours(high * seconds + START_S[1] * layout.all_ranks),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        basis=f"{basis}; {inputs}, {outputs}; start-up of {START_S[0]:.0f} to {START_S[1]:.0f} s per GPU",
    )


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 4 if seconds < 360 else 2)
