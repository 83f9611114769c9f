"""Cards: what a notebook shows of a job, a plan, a script ... as HTML of its own, for light and dark pages."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# The class of a value -> the module here whose ``card`` draws it; nothing else is imported for that.
_CARDS = {
    "vllm_hpc.api.sweep.Sweep": "sweep",
    "vllm_hpc.jobs.job.Job": "job",
    "vllm_hpc.jobs.status.Status": "status",
    "vllm_hpc.jobs.summary.Summary": "summary",
    "vllm_hpc.jobs.drawn_lists.Ranks": "ranks",
    "vllm_hpc.jobs.drawn_lists.Jobs": "jobs",
    "vllm_hpc.jobs.drawn_lists.Statuses": "jobs",
    "vllm_hpc.jobs.submit.Prepared": "prepared",
    "vllm_hpc.spec.plan.Plan": "plan",
    "vllm_hpc.spec.script.Script": "script",
}


def card(value: Any) -> str:
    """The HTML that shows a value: self-contained, with all text of others escaped.

    Raises TypeError for a value that is none of those that draw themselves.
    """
    for kind in type(value).__mro__:
        name = _CARDS.get(f"{kind.__module__}.{kind.__qualname__}")
        if name is not None:
            html: str = import_module(f"vllm_hpc.api.cards.{name}").card(value)
            return html
    raise TypeError(f"{type(value).__name__} has no card")
