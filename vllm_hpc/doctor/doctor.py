"""The checks in their order: this machine first, then the nodes if nothing here stands in a job's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_hpc.doctor.login import NEEDED, Looked, look_here, look_without_job
from vllm_hpc.doctor.on_nodes import Change, look_at_nodes
from vllm_hpc.planner.queues import resolve_options
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.job_definition import JOB_DEFINITION
from vllm_hpc.spec.values import as_path


def examine(
    model: str | None = None,
    *,
    on_nodes: bool = False,
    begin: Callable[[Path], None] = lambda folder: None,
    change: Change = lambda status: None,
    tell: Callable[[list[Finding]], None] = lambda findings: None,
    **options: Any,
) -> list[Finding]:
    """Check this machine, and with ``on_nodes`` a real allocation, for jobs with these options of ``submit``.

    ``tell`` gets the findings as they come, ``begin`` the folder of the job, ``change`` what becomes of it. Raises
    RefusedError for options or a profile that no job could have.
    """
    if model is not None and (as_path(model, "model folder") / JOB_DEFINITION).is_file():
        raise RequestError(f"doctor takes a model, and {model!r} is a job definition: name its model, and its options")
    here = _look(model, options)
    found = list(here.findings)
    tell(found)
    if not on_nodes:
        return found
    if here.prepared is None or any(one.status == "fail" and one.check in NEEDED for one in found):
        rest = [Finding("nodes", "skip", "not tried: no job can be submitted", "correct what failed first")]
    else:
        rest = look_at_nodes(here.prepared.job, here.prepared.plan.layout, here.model, begin, change)
    tell(rest)
    return [*found, *rest]


def _look(model: str | None, options: dict[str, Any]) -> Looked:
    try:
        job, _ = resolve_options(None, {**options, "rehearse": True})
    except LayoutError as error:
        return look_without_job(error)
    return look_here(job, model)
