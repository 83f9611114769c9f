"""What published models need of a GPU, for tests of choices and estimates."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.published_models import PUBLISHED
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import Choice
from vllm_hpc.planner.engine_settings import choose_settings
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import find_gpu

MODELS = {model.name: read_shape(model.config, model.name) for model in PUBLISHED}


def problem_of(name: str, gpu: str | None, workload: Workload | None = None, **engine: Any) -> PlanningProblem:
    device = Device(find_gpu(gpu), "--gpu") if gpu else None
    shape = MODELS[name]
    if workload and shape.positions == 2048:  # Hugging Face's default: the list of sizes has no context
        shape = msgspec.structs.replace(shape, positions=131072)
    return PlanningProblem(shape, None, device, choose_settings(shape, device, workload, engine, 1.0), workload)


def cut(choice: Choice) -> tuple[int, int, int]:
    return choice.layout.tp, choice.layout.pp, choice.layout.dp


def of_rows(rows: int, output: int, prompt: int = 256) -> Workload:
    return Workload(rows=rows, longest=prompt + output, prompt_tokens=prompt * rows, output_tokens=output * rows)
