"""Finds the job folders under --job-dir."""

from __future__ import annotations

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path


def job_folders(job_dir: str | None) -> list[JobFolder]:
    """The folders under ``job_dir`` with a job.json, and those that cannot be looked into, oldest first."""
    job_dir = default_job_dir() if job_dir is None else job_dir
    parent = as_path(job_dir, "--job-dir")
    found: list[tuple[int, JobFolder]] = []
    try:
        paths = sorted(parent.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(
            f"--job-dir {job_dir!r} cannot be read: {error.strerror}: name the folder that holds the job folders"
        ) from None
    for folder in map(JobFolder, paths):
        try:
            found.append((folder.job_json.stat().st_mtime_ns, folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # no permission, or a file system that is gone
            found.append((0, folder))
    return [folder for _, folder in sorted(found, key=lambda one: one[0])]
