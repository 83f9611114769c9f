"""The card of a job: its status, and its first error."""

from __future__ import annotations

from contextlib import suppress

from markupsafe import Markup

from vllm_hpc.api.cards.elements import folded, frame, said, section, tag
from vllm_hpc.api.cards.status import parts_of
from vllm_hpc.jobs.failure import first_error
from vllm_hpc.jobs.in_words import look
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.errors import VllmHpcError

# States of a job in which a rank may have raised. While it runs, an error of an attempt before is told by no rank.
_MAY_HAVE_FAILED = ("FAILED", "PARTIAL", "TIMEOUT", "PREEMPTED", "UNKNOWN")


def card(job: Job) -> str:
    """A job as it is now; of a folder that has gone or cannot be read, it says so."""
    return card_of(job, look(job.folder))


def card_of(job: Job, status: Status) -> str:
    """The same with a status that is known already, for who watches the job."""
    return frame(*parts_of(status, "Job", *_error(job, status)))


def _error(job: Job, status: Status) -> list[Markup]:
    error = None
    if status.scheduler and status.state in _MAY_HAVE_FAILED:
        with suppress(VllmHpcError, OSError):  # removed meanwhile
            error = first_error(job.folder)
    if error is None:
        return []
    line, traceback = error
    parts: list[Markup] = []
    if line not in status.reason:
        parts.append(section("First error", tag("div", said(line), class_="vh-said vh-bad")))
    if traceback:
        parts.append(folded("Traceback", tag("pre", said(_end_of(traceback)), class_="vh-code vh-wrap")))
    return parts


def _end_of(traceback: str, most: int = 3500) -> str:
    """Its end, where the error is."""
    return traceback if len(traceback) <= most else f"…\n{traceback[-most:]}"
