"""The card of a job that is watched: that of the job (api/cards), with what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from vllm_hpc.api.cards.elements import frame, note
from vllm_hpc.api.cards.job import card_of
from vllm_hpc.api.cards.status import parts_of
from vllm_hpc.jobs.in_words import describe_status
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import rate

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.watch import View


def text(view: View) -> str:
    """The same for what shows no HTML."""
    speed = rate(view.status.tokens_per_s or None)
    first = f"Job {describe_status(view.status)}" + (f", {speed} tokens/s" if speed else "")
    return "\n".join([first, *(f"! {one_line(alarm)}" for alarm in view.alarms)])


def html(job: Job, view: View) -> str:
    """Its card, with the worst replica first; of a job that has ended, with its first error."""
    if view.status.is_final:
        return card_of(job, view.status)
    status = replace(view.status, replicas=view.replicas)
    late = [view.fit] if "after the walltime" in view.fit else []
    alarms = (note(one_line(one), "bad") for one in [*late, *view.alarms])
    return frame(*parts_of(status, "Job", *alarms, is_redrawn=True))
