"""Distributed vLLM batch inference on HPC clusters.

    import vllm_hpc

    job = vllm_hpc.submit("demo", input="prompts.jsonl", tp=1)
    job.wait()
    for row in job.results():
        print(row.get("text"))  # a row that failed has "error" instead

To look before you leap: ``prepared = vllm_hpc.prepare("demo", nodes=2, tp=16)`` has ``.plan`` and ``.script``, and
``prepared.submit()`` submits just that. Names are loaded when first used: ``import vllm_hpc`` costs nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_hpc.api.functions import find_job as find_job
    from vllm_hpc.api.functions import list_jobs as list_jobs
    from vllm_hpc.api.functions import plan as plan
    from vllm_hpc.api.functions import prepare as prepare
    from vllm_hpc.api.functions import render as render
    from vllm_hpc.api.functions import submit as submit
    from vllm_hpc.api.live import attach as attach
    from vllm_hpc.api.sweep import Sweep as Sweep
    from vllm_hpc.api.sweep_submit import sweep as sweep
    from vllm_hpc.api.tune import tune as tune
    from vllm_hpc.jobs.job import Job as Job
    from vllm_hpc.jobs.status import Status as Status
    from vllm_hpc.jobs.submit import Prepared as Prepared
    from vllm_hpc.jobs.summary import Summary as Summary
    from vllm_hpc.spec.errors import CollectError as CollectError
    from vllm_hpc.spec.errors import FailedError as FailedError
    from vllm_hpc.spec.errors import InputError as InputError
    from vllm_hpc.spec.errors import JobFailedError as JobFailedError
    from vllm_hpc.spec.errors import JobNotFoundError as JobNotFoundError
    from vllm_hpc.spec.errors import LayoutError as LayoutError
    from vllm_hpc.spec.errors import ModelError as ModelError
    from vllm_hpc.spec.errors import ProfileError as ProfileError
    from vllm_hpc.spec.errors import RefusedError as RefusedError
    from vllm_hpc.spec.errors import RequestError as RequestError
    from vllm_hpc.spec.errors import StillRunning as StillRunning
    from vllm_hpc.spec.errors import SubmitError as SubmitError
    from vllm_hpc.spec.errors import TemplateError as TemplateError
    from vllm_hpc.spec.errors import VllmHpcError as VllmHpcError
    from vllm_hpc.spec.plan import Plan as Plan
    from vllm_hpc.spec.rank_context import RankContext as RankContext
    from vllm_hpc.spec.request import Request as Request
    from vllm_hpc.spec.script import Script as Script

__version__ = "0.1.0"

# In the image of a container, a folder of vllm-hpc bundle: what ranks import beside vLLM, for an image that lacks it.
# It comes last, so that the image's own packages are the ones that are used.
_bundle = os.environ.get("VLLM_HPC_BUNDLE")
if _bundle and f"{_bundle}/last" not in sys.path:
    sys.path.append(f"{_bundle}/last")

# All of spec/errors.py, which has them as a tree.
_ERRORS = (
    "CollectError", "FailedError", "InputError", "JobFailedError", "JobNotFoundError", "LayoutError", "ModelError",
    "ProfileError", "RefusedError", "RequestError", "StillRunning", "SubmitError", "TemplateError", "VllmHpcError",
)  # fmt: skip
_FUNCTIONS = ("find_job", "list_jobs", "plan", "prepare", "render", "submit")
_HOMES = {
    **dict.fromkeys(_ERRORS, "vllm_hpc.spec.errors"),
    **dict.fromkeys(_FUNCTIONS, "vllm_hpc.api.functions"),
    "Job": "vllm_hpc.jobs.job",
    "Plan": "vllm_hpc.spec.plan",
    "Prepared": "vllm_hpc.jobs.submit",
    "RankContext": "vllm_hpc.spec.rank_context",
    "Request": "vllm_hpc.spec.request",
    "attach": "vllm_hpc.api.live",
    "Script": "vllm_hpc.spec.script",
    "Status": "vllm_hpc.jobs.status",
    "Summary": "vllm_hpc.jobs.summary",
    "Sweep": "vllm_hpc.api.sweep",
    "sweep": "vllm_hpc.api.sweep_submit",
    "tune": "vllm_hpc.api.tune",
}
__all__ = [
    "Job", "Plan", "Prepared", "RankContext", "Request", "Script", "Status", "Summary", "Sweep", "attach", "sweep",
    "tune", *_FUNCTIONS, *_ERRORS,
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
