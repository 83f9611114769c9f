"""What a node finds before its ranks start: ``vllm_hpc.in_job doctor FOLDER NODE``, in a job of doctor.

It only gathers, and ends no job: what follows shows whether the job runs nevertheless.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import msgspec

from vllm_hpc.engine.doctor import gpus, look, meeting
from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.startup.weights_readahead import free_memory
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.node_report import MARK, VARIABLE, NodeReport, Subject
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.timed_writes import free_gib, time_writes
from vllm_hpc.spec.errors import VllmHpcError
from vllm_hpc.spec.host_path import path_of_image, path_of_model

# Seconds that the other tasks of a node wait for the one that looks.
_LOOK_S = 200.0


def main(argv: list[str]) -> int:
    """Look, and write the report: first what this node has by itself, then what it shares with the others."""
    job, node = JobFolder(argv[0]), int(argv[1] or 0)
    attempt = int(os.environ.get("VLLM_HPC_ATTEMPT", "1"))
    if os.environ.get("SLURM_LOCALID", "0") != "0":  # a task a rank: the first of the node looks
        _wait(job, attempt, node)
        return 0
    report = _look(job, node)
    _write(job, attempt, report)
    _write(job, attempt, _meet(job, attempt, report))
    return 0


def _wait(job: JobFolder, attempt: int, node: int) -> None:
    until = time.monotonic() + _LOOK_S
    while time.monotonic() < until:
        found = read_json(job.doctor_node(attempt, node), NodeReport)
        if found is not None and found.has_met:
            return
        time.sleep(0.1)


def _look(job: JobFolder, node: int) -> NodeReport:
    subject = _subject()
    found: dict[str, Any] = {**_find_gpus(), **_find_network(node == 0), **_find_folder(job)}
    return NodeReport(
        node=node,
        host=node_name(),
        versions=look.versions(),
        interfaces=look.interfaces(),
        wrong_interfaces=look.wrong_interfaces(os.environ),
        memory_gib=round(free_memory() / (1 << 30), 2),
        model=path_of_model(subject.model, os.environ, subject.revision) if subject.model else None,
        image=path_of_image(subject.image) if subject.image else None,
        runtime=look.find_program(subject.runtime) if subject.runtime else "",
        **found,
    )


def _subject() -> Subject:
    try:
        return msgspec.json.decode(os.environ.get(VARIABLE, "{}"), type=Subject)
    except msgspec.DecodeError:  # set to anything else by hand
        return Subject()


def _find_gpus() -> dict[str, Any]:
    try:
        return {"gpus": gpus.find_gpus()}
    except gpus.NoToolError as error:
        return {"gpus_error": str(error)}


def _find_network(is_head: bool) -> dict[str, Any]:
    head, port = os.environ.get("VLLM_HPC_HEAD", ""), os.environ.get("VLLM_HPC_PORT", "0")
    found: dict[str, Any] = {"head": head, "port": int(port) if port.isdecimal() else 0}
    try:
        found["address"], found["interface"] = look.own_address(head, is_head)
    except OSError as error:
        found["network_error"] = str(error)
    return found


def _find_folder(job: JobFolder) -> dict[str, Any]:
    try:
        return {"writes": time_writes(job.path / "state"), "free_gib": round(free_gib(job.path), 1)}
    except OSError as error:
        return {"folder_error": error.strerror or str(error)}


def _meet(job: JobFolder, attempt: int, report: NodeReport) -> NodeReport:
    """The report with what came of the meeting; without it where this node has no folder, and so no secret."""
    try:
        layout = job.job().plan.layout
        point = meeting.MeetingPoint(job, attempt, report.head, report.port, report.node, layout.nodes)
        result = meeting.meet(point)
    except (OSError, VllmHpcError) as error:
        return msgspec.structs.replace(report, has_met=True, folder_error=report.folder_error or str(error))
    return msgspec.structs.replace(report, has_met=True, **result._asdict())


def _write(job: JobFolder, attempt: int, report: NodeReport) -> None:
    """Write it into the job folder; where this node has none, print it: that is how it gets into the job's log."""
    try:
        write_json(job.doctor_node(attempt, report.node), report)
    except OSError:
        if report.has_met:
            print(f"{MARK}{msgspec.json.encode(report).decode()}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
