"""The script of a job that is resumed, as today's profile has it: a profile that was mended helps old jobs.

Its layout, engine arguments and sampling stay as they were: they decide the answers. A script that was edited by hand
stays too, and so does one whose profile is not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.jobfolder.asked import asked_of
from vllm_hpc.jobfolder.input import read_index
from vllm_hpc.jobfolder.own_folder import OwnJobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.planner.make_plan import check_scheduler
from vllm_hpc.planner.queues import check_required, in_fitting_queue
from vllm_hpc.planner.resolve import find_site
from vllm_hpc.schedulers.containers.choose import check_is_there
from vllm_hpc.schedulers.lifecycle import lifecycle_text, sha256
from vllm_hpc.schedulers.own_script import read_script
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.script import render_job
from vllm_hpc.spec.errors import ProfileError, RequestError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.no_secrets import check_script
from vllm_hpc.spec.profile_layers import FoundProfile
from vllm_hpc.spec.program import FoundProgram
from vllm_hpc.spec.request import Request, convert_options
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.write_file import replacing

# What decides the answers, and what was done with the input: a resume does not change it, whatever the profile says.
_KEPT = ("engine", "sampling", "input", "rows_missing_from", "chat_template", "lora", "name", "job_dir")


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a resume asks for instead of what the submission did; None: nothing else."""

    time: str | None = None
    account: str | None = None
    partition: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The options that were given."""
        return {key: value for key in self.__struct_fields__ if (value := getattr(self, key)) is not None}


NO_CHANGES = Changes()


class Anew(NamedTuple):
    """A script for the next attempts, not written yet. ``script`` None: it stays as it is. ``note``: what to tell."""

    script: str | None = None
    lifecycle: str = ""
    record: JobRecord | None = None
    note: str | None = None


def render_again(folder: OwnJobFolder, changes: Changes) -> Anew:
    """The job's script with today's profile and these changes. Writes nothing. Raises RefusedError."""
    record = folder.job()
    if not changes.given and record.request.profile is None:
        return Anew()
    found, why_not = _profile(record, changes)
    path = folder.path / get_scheduler(record.scheduler).script
    old = read_script(path).decode()
    if why_not is None and sha256(old) != record.script_sha256:
        why_not = f"{path} was edited since the submission"
    if why_not is not None:
        if changes.given:
            options = " and ".join(f"--{'queue' if key == 'partition' else key}" for key in changes.given)
            raise RequestError(f"{options} would render the script anew, but {why_not}")
        return Anew(note=f"the script stays as it was submitted: {why_not}")
    job = _resolve(record, found, changes)
    lifecycle = lifecycle_text()
    if job.site.container is not None:
        check_is_there(job.site.container)
    needs = [] if job.site.container is None else _outside(folder, record)
    script = render_job(job, record.plan, folder, lifecycle, needs)
    check_script(script, "the script, from a template,")
    if _without_title(script) == _without_title(old):
        return Anew()
    new = msgspec.structs.replace(
        record,
        request=job.request,
        queue=job.queue,
        origins=job.origins,
        script_sha256=sha256(script),
        passes_by_file=job.passes_by_file,
    )
    what = "today's profile" if record.request.profile else "the options given"
    return Anew(script, lifecycle, new, f"the script is rendered anew, with {what}: {path}")


def write_again(folder: OwnJobFolder, anew: Anew) -> None:
    """Put the new script into the folder; job.json last, so that a script without it counts as edited."""
    if anew.script is None or anew.record is None:
        return
    script = folder.path / get_scheduler(anew.record.scheduler).script
    for path, text, mode in ((folder.lifecycle, anew.lifecycle, 0o644), (script, anew.script, 0o755)):
        with replacing(path, mode) as file:
            file.write(text.encode())
    write_json(folder.job_json, anew.record)


def _outside(folder: OwnJobFolder, record: JobRecord) -> list[Path]:
    """The folders that ranks read, and that are not in the job's: for an image. Raises InputError."""
    inputs = [Path(part.path) for part in read_index(folder).parts]
    code = record.program.folders if record.program else ()
    return [*(one.parent for one in inputs if one.is_absolute()), *(Path(one.path) for one in record.adapters), *code]


def _profile(record: JobRecord, changes: Changes) -> tuple[FoundProfile, str | None]:
    """Today's profile, and why it is not to be used."""
    if not record.origins or not record.script_sha256:
        return FoundProfile(), "it was submitted by vllm-hpc 0.1: submit a new job, with --rows-missing-from this one"
    try:
        found = find_site(record.request.profile, {*_origins(record), *changes.given})
    except ProfileError as error:
        return FoundProfile(), str(error)
    files = {str(layer.file) for layer in found.layers}
    if missing := [file for file in record.profile_files if file not in files and Path(file).exists()]:
        return found, f"{missing[0]}, of its profile, does not count in {Path.cwd()}: resume it where it was submitted"
    return found, None


def _resolve(record: JobRecord, found: FoundProfile, changes: Changes) -> ResolvedJob:
    """The job as it was asked for, at today's site, with its layout and scheduler. Raises RefusedError."""
    layout = record.plan.layout
    options: dict[str, Any] = {key: value for key, value in asked_of(record).items() if key not in _KEPT}
    options |= {key: getattr(layout, key) for key in ("nodes", "gpus_per_node", "tp", "pp", "dp")}
    options |= {"model": record.model, "scheduler": record.scheduler, **changes.given}
    given = Given(
        convert_options(options),
        {**_origins(record), **{key: f"--{key}" for key in changes.given}},
        program=FoundProgram(record.program) if record.program else None,
    )
    job = in_fitting_queue(given, found, layout)
    check_required(job)
    check_scheduler(job, layout)
    return msgspec.structs.replace(job, request=_with_kept(job.request, record.request))


def _origins(record: JobRecord) -> dict[str, str]:
    """Where the values that were asked for are from."""
    profile = f"profile {record.request.profile!r}"
    return {key: origin for key, origin in record.origins.items() if origin != profile}


def _with_kept(new: Request, old: Request) -> Request:
    layout = ("model", "nodes", "gpus_per_node", "tp", "pp", "dp", "scheduler")
    return msgspec.structs.replace(new, **{key: getattr(old, key) for key in (*_KEPT, *layout)})


def _without_title(script: str) -> list[str]:
    """The script's lines, but for the one that says which version rendered it."""
    lines = script.splitlines()
    return [lines[0], *lines[2:]]
