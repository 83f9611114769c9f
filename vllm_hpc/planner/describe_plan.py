"""What a plan tells of its model and its memory."""

from __future__ import annotations

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.kv_cache import kv_bytes_per_token, state_bytes
from vllm_hpc.planner.memory import Fit
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.count import count_parameters, parameter_range
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.plan import Memory, ModelFacts


def memory_of(fit: Fit | None, problem: PlanningProblem) -> Memory:
    """The memory of a plan, in GiB; nothing where the device is not known."""
    if fit is None or problem.device is None:
        return Memory()
    device = problem.device
    whole = device.gpu.memory_gib if device.gpu else fit.limit / GIB
    return Memory(
        weights_gib=round(fit.weights / GIB, 2),
        kv_gib_per_gpu=round(max(0, fit.kv) / GIB, 2),
        per_gpu_gib=round((fit.rank_weights + fit.reserve) / GIB, 2),
        gpu_gib=round(whole, 2),
        weights_gib_per_gpu=round(fit.rank_weights / GIB, 2),
    )


def facts_of(shape: Shape) -> ModelFacts:
    """What is known of the model."""
    low, high = parameter_range(shape) or (None, None)
    return ModelFacts(
        architecture=shape.architecture,
        parameters=count_parameters(shape),
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        dtype=shape.dtype,
        quantization=shape.quantization.method if shape.quantization else None,
        kv_bytes_per_token=kv_bytes_per_token(shape),
        max_positions=shape.positions,
        parameters_low=low,
        parameters_high=high,
        state_bytes_per_sequence=state_bytes(shape),
        encoder_parameters=shape.encoder.parameters if shape.encoder else None,
        image_tokens=shape.encoder.image_tokens if shape.encoder else None,
    )
