"""Find jobs: by folder, name or id, by the beginning of one, by a pattern, and all under a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import NamedTuple, SupportsIndex

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_job, read_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobs.drawn_lists import Jobs, Statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.job_folders import job_folders
from vllm_hpc.jobs.known_jobs import known_jobs
from vllm_hpc.schedulers.scheduler import installed_scheduler
from vllm_hpc.spec.errors import JobNotFoundError, VllmHpcError
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path

# Letters of an id by which a job is found: with fewer, somebody may mean the id of another job.
_LEAST_OF_ID = 4
# Names in an error; folders that are read to find an id which no submission on this machine had.
_MOST_NAMES, _MOST_READ = 5, 100


class _Candidate(NamedTuple):
    job: Job
    ids: list[str]

    @property
    def name(self) -> str:
        return self.job.path.name


def find_job(job: str | int | os.PathLike[str], job_dir: str | None = None, acts: bool = False) -> Job:
    """Find a job by its folder, its name under ``job_dir``, or its id; or by the beginning of one that no other has.

    The user's own jobs are found by their names and ids wherever they are. ``job_dir`` None is the job_dir of
    $VLLM_HPC_PROFILE's profile, else ./runs. ``acts``: the job is to be ended or emptied, so an id must be whole.
    Raises JobNotFoundError, also if several jobs begin so.
    """
    if isinstance(job, bool) or not isinstance(job, str | os.PathLike | SupportsIndex):
        what = "None" if job is None else f"a {type(job).__name__}"
        raise JobNotFoundError(f"a job must be given by its folder, its name or its id, not by {what}")
    job_dir = default_job_dir() if job_dir is None else job_dir
    text = os.fsdecode(job) if isinstance(job, os.PathLike) else str(job)
    parent = as_path(job_dir, "--job-dir")
    for folder in (as_path(text, "job"), as_path(str(parent / text), "job")):
        if JobFolder(folder).is_there():
            return Job(folder)
    here = []
    # One's own first: in a shared folder, another user's may claim any id.
    for one in sorted(list_jobs(job_dir), key=lambda one: not one.folder.is_mine):
        here.append(_Candidate(one, _ids(one)))
        if text in here[-1].ids:
            return one
    elsewhere = _elsewhere(text, {str(one.job.path) for one in here})
    found = _only(text, elsewhere, lambda one: text == one.name or text in one.ids)
    found = found or _only(text, [*here, *elsewhere], lambda one: _begins(one, text, acts))
    if found is None:
        raise JobNotFoundError(
            f"no job {text!r}: give its folder, its name under {job_dir!r} (--job-dir, or --profile for its job_dir), "
            "or its id"
        )
    return found


def find_jobs(job: str, job_dir: str, acts: bool = True) -> list[Job]:
    """The jobs that JOB means: one, or the user's own under ``job_dir`` that a pattern fits.

    ``acts``: they are to be ended or emptied. Raises JobNotFoundError.
    """
    if not set(job) & set("*?["):
        return [find_job(job, job_dir, acts)]
    with suppress(VllmHpcError):
        return [find_job(job, job_dir, acts)]  # a name may have such letters, and a PBS array's id has: 123[]
    found = [one for one in list_jobs(job_dir) if fnmatchcase(one.path.name, job) and one.folder.is_mine]
    if not found:
        raise JobNotFoundError(f"no job of yours under {job_dir!r} fits {job!r}: see 'vllm-hpc list', or --job-dir")
    return found


def _begins(one: _Candidate, text: str, acts: bool) -> bool:
    if not text:
        return False
    by_id = len(text) >= _LEAST_OF_ID and not acts and any(job_id.startswith(text) for job_id in one.ids)
    return one.name.startswith(text) or by_id


def _only(text: str, candidates: list[_Candidate], fits: Callable[[_Candidate], bool]) -> Job | None:
    """The one job that fits, None if none does. Raises JobNotFoundError for several."""
    found = [one.job for one in candidates if fits(one)]
    if len(found) < 2:
        return found[0] if found else None
    names = [one.path.name for one in found]
    words = names if len({*names}) == len(names) else [str(one.path) for one in found]
    more = f" and {len(words) - _MOST_NAMES} more" if len(words) > _MOST_NAMES else ""
    listed = ", ".join(words[:_MOST_NAMES])
    raise JobNotFoundError(f"{text!r} fits {len(words)} jobs: {listed}{more}: give more of its name, or its folder")


def _elsewhere(text: str, but: set[str]) -> list[_Candidate]:
    """The user's other jobs that may be meant, the newest first, as far as their folders can be read here."""
    found, others = [], [known for known in reversed(known_jobs()) if known.path not in but]
    fit = [known for known in others if any(word.startswith(text) for word in (known.name, *known.ids))]
    for known in fit or others[:_MOST_READ]:  # one that submitted itself again, or a task, has another id
        job = Job(known.path)
        with suppress(VllmHpcError, OSError):
            if job.folder.is_mine and job.folder.is_there():
                found.append(_Candidate(job, list(dict.fromkeys([*_ids(job), *known.ids]))))
    return found


def _ids(job: Job) -> list[str]:
    """The ids of a job and of its array tasks as the scheduler shows them, also without the PBS server's name."""
    record, submitted, last = job.folder.job(), read_json(job.folder.submitted, Submitted), job.job_id
    layout, scheduler = record.plan.layout, installed_scheduler(record.scheduler)
    found = [submitted.job_id, *submitted.earlier] if submitted else []
    found += [last] if last is not None and last not in found else []
    if scheduler is not None and layout.is_array and last is not None:
        found += [scheduler.task_name(last, task) for task in range(layout.tasks)]
    return [*found, *(one.split(".")[0] for one in found)]


def list_jobs(job_dir: str | None = None) -> Jobs:
    """All jobs under ``job_dir`` that can be read, oldest first. Raises RequestError if the folder cannot.

    ``job_dir`` None is the job_dir of $VLLM_HPC_PROFILE's profile, else ./runs.
    """
    return Jobs(Job(folder.path) for folder in job_folders(job_dir) if read_job(folder.job_json))


def list_statuses(job_dir: str | None = None, last: int | None = None, everywhere: bool = False) -> Statuses:
    """The status of all jobs under ``job_dir``, oldest first. Their scheduler is asked once for all of them.

    ``last``: only of the newest so many. ``everywhere``: also of the user's own jobs in other folders. A job that
    cannot be read is UNKNOWN, with the reason. Raises RequestError if the folder itself cannot be read.
    """
    from vllm_hpc.jobs.status import read_statuses

    folders = job_folders(job_dir)
    if everywhere:
        folders = _with_known(folders)
    return Statuses(read_statuses(folders if last is None else folders[max(0, len(folders) - last) :]))


def _with_known(folders: list[JobFolder]) -> list[JobFolder]:
    """These and the user's own elsewhere, oldest first."""
    found = {str(folder.path): folder for folder in folders}
    for known in known_jobs():
        with suppress(VllmHpcError, OSError):
            if JobFolder(known.path).is_there():
                found.setdefault(known.path, JobFolder(known.path))
    return sorted(found.values(), key=_made_at)


def _made_at(folder: JobFolder) -> int:
    with suppress(OSError):
        return folder.job_json.stat().st_mtime_ns
    return 0
