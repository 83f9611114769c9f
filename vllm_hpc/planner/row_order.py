"""Chooses the order in which a job's rows run: the input's, or one in which rows that begin alike are neighbours.

vLLM computes a beginning that is in its KV cache only once. Rows in a shuffled file find it there only if it was used
not long before; sorted ones always do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder import sorted_copy
from vllm_hpc.jobfolder.row_order import MOST_ROWS
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner.workload import BYTES_PER_TOKEN, Workload
from vllm_hpc.rows.families import Sharing
from vllm_hpc.rows.prefix import is_shared
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.row_order import INPUT, PREFIX, Order
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.words import counted, in_bytes

# The KV cache, in tokens, where its size is not known.
_ASSUMED_ROOM = 1 << 17
# The least share of the prompt tokens for which a large input that stays where it is is copied in another order.
_WORTH_A_COPY = 0.1


def with_order(planned: Callable[[ResolvedJob], Plan], job: ResolvedJob, rows: Workload | None, intake: Intake) -> Plan:
    """The plan of a job with the order of its rows, and why, where that makes a difference. Raises RequestError.

    A plan counts on rows that begin alike being neighbours, where they may be; without room for that, it is made again.
    """
    plan, asked = planned(job), job.request.order
    sharing = _sharing(job, rows)
    if rows is None or sharing is None:
        return plan if asked != PREFIX or rows is None else _unsorted(plan, job, rows)
    room = plan.kv_tokens or _ASSUMED_ROOM
    order, why = _choose(rows, sharing, asked, room)
    if order == PREFIX and (too_small := _no_room(job, intake, rows, sharing.gain(room))):
        plan, order, why = planned(job.asking(order=INPUT)), INPUT, too_small
    return msgspec.structs.replace(plan, order=order, reasons=(*plan.reasons, *([why] if why else ())))


def may_sort(job: ResolvedJob, rows: Workload | None) -> bool:
    """Whether rows may run in another order than the input's, if that is faster."""
    if rows is None or _sharing(job, rows) is None:
        return False
    return job.request.order == PREFIX or (job.request.order is None and not rows.unseeded)


def _sharing(job: ResolvedJob, rows: Workload | None) -> Sharing | None:
    """What rows share that another order could bring together; None if nothing, or no other order is possible."""
    found = rows.sharing if rows and rows.rows <= MOST_ROWS else None
    return found if found and found.shared and not why_unshared(job) else None


def _unsorted(plan: Plan, job: ResolvedJob, rows: Workload) -> Plan:
    """The plan where --order prefix has nothing to do. Raises RequestError."""
    if obstacle := why_unshared(job):
        raise RequestError(f"--order prefix: {obstacle}, so vLLM shares no beginnings of prompts: leave it out")
    if rows.sharing is None:
        raise RequestError(
            "--order prefix: no room to sort in the folder of temporary files: set TMPDIR to another one"
        )
    why = "no two rows begin alike" if rows.rows <= MOST_ROWS else f"no more than {MOST_ROWS} rows can be sorted"
    return msgspec.structs.replace(plan, reasons=(*plan.reasons, f"order input: {why}"))


def why_unshared(job: ResolvedJob) -> str | None:
    """Why vLLM does not share the beginnings of prompts in this job; None if it does."""
    request = job.request
    if job.drives_engine or job.runs_script:
        return "the program drives the engine"
    if request.engine.get("enable_prefix_caching") is False:
        return "--engine enable_prefix_caching=false"
    if request.engine.get("runner") == "pooling":
        return "--engine runner=pooling"
    if not is_shared(request.sampling):
        return "--sampling has prompt_logprobs, or cuts prompts"
    return None


def _choose(rows: Workload, sharing: Sharing, asked: Order | None, room: int) -> tuple[Order, str | None]:
    of_all = f"{_millions(sharing.gain(room))} of {_millions(sharing.total)} prompt tokens"
    if asked == PREFIX:
        return PREFIX, f"order prefix, as asked: saves {of_all}, by computing what rows begin with once"
    if not sharing.is_scattered(room):
        return INPUT, None
    if asked == INPUT:
        return INPUT, f"order input, as asked: --order prefix would save {of_all}"
    if rows.unseeded:
        return INPUT, (
            f"order input: {counted(rows.unseeded, 'row')} are sampled without a seed of their own, and their answers "
            f"would change with the order: --order prefix would save {of_all}"
        )
    return PREFIX, (
        f"order prefix: rows that begin alike run next to each other, which saves {of_all}; results come in the "
        "input's order"
    )


def _no_room(job: ResolvedJob, intake: Intake, rows: Workload, gain: int) -> str | None:
    """Why the copy of the input in another order is not made; None if it is. Raises RequestError."""
    asked = job.request.order
    total = rows.sharing.total if rows.sharing else 0
    size = max(intake.size, rows.prompt_tokens * BYTES_PER_TOKEN)  # a template makes prompts longer than their rows
    if intake.referenced and asked is None and gain < _WORTH_A_COPY * total:
        return f"order input: --order prefix would save {_millions(gain)} prompt tokens, and copy {in_bytes(size)}"
    folder = Path(as_path(job.request.job_dir, "--job-dir")).absolute()
    if sorted_copy.has_room(folder, size):
        return None
    needed = in_bytes(int(sorted_copy.ROOM * size))
    if asked == PREFIX:
        raise RequestError(
            f"--order prefix needs {needed} for a copy in {str(folder)!r}: use --order input, or make room"
        )
    return f"order input: --order prefix would save {_millions(gain)} prompt tokens, but needs {needed} in {folder}"


def _millions(tokens: int) -> str:
    return f"{tokens / 1e6:.2f} million" if tokens >= 100_000 else str(tokens)
