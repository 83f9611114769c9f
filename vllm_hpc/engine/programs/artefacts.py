"""The folder for what a user's code leaves beside rows: artefacts/rank-<r> in the job folder."""

from __future__ import annotations

from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.write_file import make_folder


def make_artefacts(job: JobFolder, global_rank: int) -> Path:
    """This rank's own folder, made if it is not there. Raises OSError where a link or a file has its name."""
    folder = job.artefacts / f"rank-{global_rank}"
    make_folder(job.artefacts)
    make_folder(folder)
    return folder
