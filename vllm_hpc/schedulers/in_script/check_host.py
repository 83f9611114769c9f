"""Whether a job can submit itself again from its host: ``vllm_hpc.in_job check-host FOLDER ATTEMPT``, run at its start.

Many sites take no submissions from compute nodes. That is better known now than when the walltime is over.
"""

from __future__ import annotations

import os
from contextlib import suppress

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import CannotSubmit, write_json
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.scheduler import get_scheduler


def main(argv: list[str]) -> int:
    """Say and record why it cannot, if that is certain."""
    folder, attempt = JobFolder(argv[0]), int(argv[1])
    this = next(one for one in folder.attempts() if one.attempt == attempt)
    check_host = get_scheduler(folder.job().scheduler).check_host
    if check_host is None:
        return 0
    try:
        check_host(folder, this.job_id)
    except ClientError as error:
        host = os.uname().nodename
        words = "'vllm-hpc status' on a login node does, if there is to be one"
        print(f"vllm-hpc: {host} cannot submit the next attempt ({error}): {words}", flush=True)
        with suppress(OSError):  # a full disk is the rank's to report
            write_json(folder.cannot_submit, CannotSubmit(attempt=attempt, host=host, reason=str(error)))
    return 0
