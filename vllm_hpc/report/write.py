"""report: writes the page of a job, or of two, and the metrics beside it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.metrics import write_metrics
from vllm_hpc.jobfolder.private import is_private, private_files
from vllm_hpc.jobs.diff import Side, diff_outputs
from vllm_hpc.report.facts import Compared, Facts
from vllm_hpc.report.gather import gather
from vllm_hpc.report.page import render
from vllm_hpc.spec.errors import FailedError, RequestError, VllmHpcError
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.write_file import replacing

# Up to this size of both outputs together they are compared while a report is made: a few seconds.
_CHEAP_BYTES = 64 << 20


def write_report(
    folder: JobFolder, output: str | os.PathLike[str] | None = None, compare: JobFolder | None = None
) -> tuple[Path, Facts]:
    """Write the page into the job's folder, or to ``output``, as another user's job needs. Returns the path, the facts.

    Raises JobNotFoundError, RequestError, FailedError.
    """
    folder.job()  # of a folder that has gone, that is what to say
    target = _target(folder, output)
    facts = gather(folder)
    other = gather(compare) if compare is not None else None
    page = render(facts, other, compare_jobs(folder, compare, facts, other) if compare and other else None)
    with private_files(is_private(folder.path)):
        try:
            with replacing(target) as file:
                file.write(page.encode(errors="replace"))
        except OSError as error:
            raise FailedError(
                f"cannot write {str(target)!r}: {error.strerror}: name another file with --output"
            ) from None
        if folder.is_mine:
            with suppress(OSError):  # a full disk: the page is there
                write_metrics(folder, facts.status.state)
    return target, facts


def facts_of(folder: JobFolder, compare: JobFolder | None = None) -> dict[str, Any]:
    """What ``--json`` prints: the facts; with another job ``{"jobs": [...], "compared": {...}}``."""
    facts = gather(folder)
    if compare is None:
        found: dict[str, Any] = msgspec.to_builtins(facts)
        return found
    other = gather(compare)
    return {"jobs": [facts, other], "compared": compare_jobs(folder, compare, facts, other)}


def compare_jobs(folder: JobFolder, compare: JobFolder, facts: Facts, other: Facts) -> Compared:
    """The settings that differ, and how many rows are equal where both outputs are collected, and small."""
    one, two = facts.settings, other.settings
    settings = {
        name: (one.get(name), two.get(name)) for name in dict.fromkeys([*one, *two]) if one.get(name) != two.get(name)
    }
    files = [folder.outputs, compare.outputs]
    try:
        size = sum(file.stat().st_size for file in files)
    except OSError:
        return Compared(settings=settings, note="To compare row by row: vllm-hpc diff JOB1 JOB2, which collects both.")
    if size > _CHEAP_BYTES:
        return Compared(settings=settings, note="To compare row by row: vllm-hpc diff JOB1 JOB2.")
    try:
        found = diff_outputs(Side(facts.name, files[0]), Side(other.name, files[1]), (), 0, None)
    except VllmHpcError as error:
        return Compared(settings=settings, note=f"The rows cannot be compared: {error}")
    return Compared(settings=settings, compared=found.compared, equal=found.equal)


def _target(folder: JobFolder, output: str | os.PathLike[str] | None) -> Path:
    if output is None:
        if not folder.is_mine:
            raise RequestError(
                f"{str(folder.path)!r} is a job of another user: add --output FILE, a file of your own for the report"
            )
        return folder.path / "report.html"
    given = os.fspath(output)
    if not given:
        raise RequestError("--output must be a file, not '': name one, or leave it out")
    target = Path(os.path.abspath(as_path(given, "--output")))  # noqa: PTH100 - links stay as the user wrote them
    if target.is_dir():
        raise RequestError(f"--output must be a file, not the folder {given!r}: add a name, such as report.html")
    return target
