"""Write a new job's folder: all that the ranks and the scheduler need."""

from __future__ import annotations

import platform
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import submitit

from vllm_hpc import __version__
from vllm_hpc.jobfolder.chunks import chunk_size
from vllm_hpc.jobfolder.file_system import check_file_system
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.passed import write_passed
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JOB_RECORD_VERSION, JobRecord
from vllm_hpc.jobfolder.row_order import store_order
from vllm_hpc.jobfolder.sorted_copy import write_sorted
from vllm_hpc.schedulers.lifecycle import sha256
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import JOB_DEFINITION
from vllm_hpc.spec.ownership import write_mine
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.row_order import INPUT, PREFIX

if TYPE_CHECKING:
    from vllm_hpc.jobs.submit import Prepared


def write_folder(folder: JobFolder, prepared: Prepared) -> None:
    """Write everything that the ranks and the scheduler need; job.json last, since it makes the folder a job."""
    check_file_system(folder.path)
    request = prepared.request
    rows = prepared.intake.store(folder)
    plan = _store_order(folder, prepared, rows)
    script = folder.path / get_scheduler(prepared.scheduler).script
    write_mine(script, prepared.script.encode(), 0o755)
    write_mine(folder.lifecycle, prepared.lifecycle.encode())
    if prepared.job.passes_by_file:
        write_passed(folder, request.pass_env)
    if prepared.job.chat_template is not None:
        write_mine(folder.chat_template, prepared.job.chat_template.encode())
    if prepared.definition is not None:
        write_mine(folder.path / JOB_DEFINITION, prepared.definition)
    program = prepared.job.program
    if program is not None and program.content is not None:
        write_mine(folder.copy_of(program.program), program.content)
    record = JobRecord(
        version=JOB_RECORD_VERSION,
        request=request,
        origins=prepared.job.origins,
        profile_files=prepared.job.profile_files,
        queue=prepared.job.queue,
        plan=plan,
        scheduler=prepared.scheduler,
        model=prepared.job.model.path,
        sampling=_sampling(request),
        rows=rows,
        created_at=time.time(),
        adapters=prepared.adapters,
        versions=_versions(),
        uuid=uuid.uuid4().hex,
        script_sha256=sha256(prepared.script),
        chat_template_sha256=sha256(prepared.job.chat_template or ""),
        passes_by_file=prepared.job.passes_by_file,
        program=program.program if program else None,
    )
    write_json(folder.job_json, record)


def _store_order(folder: JobFolder, prepared: Prepared, rows: int) -> Plan:
    """Store the order in which the rows run, if it is not the input's. Returns the plan with the order that it is."""
    plan, beginnings = prepared.plan, prepared.intake.beginnings
    if plan.order == INPUT:
        return plan
    if beginnings is None or beginnings.rows != rows:
        changed = "order input: the input has changed since it was planned"
        return msgspec.structs.replace(plan, order=INPUT, reasons=(*plan.reasons, changed))
    size = chunk_size(rows, plan.layout.lanes, plan.layout.is_array)
    try:
        write_sorted(folder, store_order(folder, beginnings.ordered(), size))
    except OSError as error:  # a quota, which no free space tells of, or a full TMPDIR
        return _without_order(folder, prepared, error)
    finally:
        beginnings.close()
    return plan


def _without_order(folder: JobFolder, prepared: Prepared, error: OSError) -> Plan:
    """The plan in the input's order, for no other one could be stored. Raises RequestError if another was asked for."""
    why = f"no other could be stored: {error.filename or folder.path}: {error.strerror}"
    if prepared.request.order == PREFIX:
        raise RequestError(f"--order prefix: {why}: make room, or use --order input")
    for path in (folder.order, folder.order_rows, folder.sorted_json, folder.sorted, folder.sorted_zst):
        path.unlink(missing_ok=True)
    reasons = [one for one in prepared.plan.reasons if not one.startswith("order prefix")]
    return msgspec.structs.replace(prepared.plan, order=INPUT, reasons=(*reasons, f"order input: {why}"))


def _sampling(request: Request) -> dict[str, Any]:
    """The job's SamplingParams: --sampling, and the sampling options that have their own name."""
    own = {key: getattr(request, key) for key in ("max_tokens", "temperature", "top_p")}
    return {**request.sampling, **{key: value for key, value in own.items() if value is not None}}


def _versions() -> dict[str, str]:
    """The versions that submitted the job; ranks/rank-<r>.json has the vllm and torch that ran it."""
    return {
        "vllm-hpc": __version__,
        "python": platform.python_version(),
        "submitit": submitit.__version__,
        "host": platform.node(),
    }
