"""Distributed vLLM batch inference on HPC clusters.

    import vllm_hpc

    job = vllm_hpc.submit("demo", input="prompts.jsonl", tp=1)
    job.wait()
    for row in job.results():
        print(row["text"])

To look before you leap: ``prepared = vllm_hpc.prepare("demo", nodes=2, tp=16)`` has ``.plan`` and ``.script``, and
``prepared.submit()`` submits just that. Names are loaded when first used: ``import vllm_hpc`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job as Job
    from vllm_hpc.jobs.job import find_job as find_job
    from vllm_hpc.jobs.submit import Prepared as Prepared
    from vllm_hpc.jobs.submit import prepare as prepare
    from vllm_hpc.jobs.submit import submit as submit
    from vllm_hpc.spec.errors import VllmHpcError as VllmHpcError
    from vllm_hpc.spec.request import Request as Request
    from vllm_hpc.tuning.tune import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "Job": "vllm_hpc.jobs.job",
    "Prepared": "vllm_hpc.jobs.submit",
    "Request": "vllm_hpc.spec.request",
    "VllmHpcError": "vllm_hpc.spec.errors",
    "find_job": "vllm_hpc.jobs.job",
    "prepare": "vllm_hpc.jobs.submit",
    "submit": "vllm_hpc.jobs.submit",
    "tune": "vllm_hpc.tuning.tune",
}
__all__ = ["Job", "Prepared", "Request", "VllmHpcError", "find_job", "prepare", "submit", "tune"]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
