"""One rank, as its script starts it: submitit finds in the job folder what it runs, and keeps its result there."""

from __future__ import annotations

import os
from contextlib import suppress

from submitit.core.submission import process_job

from vllm_hpc.jobfolder.folder import JobFolder


def main(argv: list[str]) -> int:
    """Run this process's rank of the job in ``argv[0]``. Raises whatever ended it, after that is on record."""
    folder = JobFolder(argv[0])
    _note_joined(folder)
    process_job(folder.ranks)
    return 0


def _note_joined(folder: JobFolder) -> None:
    """Mark this rank's node as joined, where a launch line of a site's own has not had the node's task do it.

    Not where the script watches no nodes, as on one machine.
    """
    attempt, node = os.environ.get("VLLM_HPC_ATTEMPT"), os.environ.get("GROUP_RANK")
    if attempt and node and os.environ.get("VLLM_HPC_WATCHED"):
        with suppress(OSError):  # a full disk is the rank's to report
            folder.joined(int(attempt), int(node)).touch()
