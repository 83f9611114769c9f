"""Where collect writes: the job's own folder, or the one of --output, which must not hold other results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import as_path


class Outputs(NamedTuple):
    """Where the outputs of a job go."""

    rows: Path
    summary: Path


class _Origin(msgspec.Struct, frozen=True):
    """What a summary.json says of the job that it is of."""

    uuid: str = ""
    job: str = ""


def find_outputs(folder: JobFolder, output: str | os.PathLike[str] | None) -> Outputs:
    """The files to write; the folder ``output`` is made if there is none. Raises RequestError."""
    path = None if output is None else _folder_of(os.fspath(output))
    if path is None or _is_same(path, folder.path):
        if not folder.is_mine:
            raise RequestError(
                f"{str(folder.path)!r} is a job of another user: add --output DIR, a folder of your own for "
                "outputs.jsonl and summary.json"
            )
        return Outputs(folder.outputs, folder.summary)
    outputs = Outputs(path / folder.outputs.name, path / folder.summary.name)
    _check_free(folder, outputs, str(output))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output {str(output)!r} must be a folder that can be written: {error.strerror}") from None
    return outputs


def _folder_of(output: str) -> Path:
    if not output:
        raise RequestError("--output must be a folder, not '': name one, or leave it out")
    return Path(os.path.abspath(as_path(output, "--output")))  # noqa: PTH100 - links stay as the user wrote them


def _check_free(folder: JobFolder, outputs: Outputs, given: str) -> None:
    """Refuse a folder whose results are not this job's: they would be lost. Raises RequestError."""
    if os.path.lexists(outputs.rows.with_name(folder.job_json.name)):
        raise RequestError(f"--output {given!r} is the folder of another job: name another folder")
    # What a program has left goes there, too.
    more = (
        [outputs.rows.with_name(one.name) for one in (folder.artefacts, folder.ranks)] if folder.job().program else []
    )
    there = next(filter(os.path.lexists, (*outputs, *more)), None)
    if there is None:
        return
    origin = read_json(outputs.summary, _Origin) or _Origin()
    if not origin.job:
        raise RequestError(f"--output {given!r} has a file {there.name} that is not of this job: name another folder")
    if not _is_of(folder, origin):
        raise RequestError(f"--output {given!r} has the results of {Path(origin.job).name}: name another folder")


def _is_of(folder: JobFolder, origin: _Origin) -> bool:
    """Whether that is the job; those of earlier versions have no uuid, and are known by their folder."""
    if folder.uuid or origin.uuid:
        return folder.uuid == origin.uuid
    return _is_same(Path(origin.job), folder.path)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
