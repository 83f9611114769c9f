"""Makes a rank part of its PBS job: torchrun gives each rank a session of its own, and PBS knows a job by its sessions.

Else its CPU time and memory are not counted, and a rank that is stopped outlives qdel, with its GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vllm_hpc.schedulers.client import plain

# The host's own mom answers.
_TIMEOUT_S = 10


def attach_to_job(environment: Mapping[str, str]) -> str:
    """Attach this process's session to the PBS job that it is part of; returns why that failed, empty if it did not.

    It does nothing in a job that is not PBS's.
    """
    job_id = environment.get("PBS_JOBID", "")
    number = re.match(r"\d+", job_id)
    # A job of the local scheduler may run inside a PBS job, and outlive it.
    if number is None or re.match(rf"{number[0]}\b", environment.get("VLLM_HPC_JOB_ID", "")) is None:
        return ""
    program = _find(environment)
    if program is None:
        return "pbs_attach was not found"
    try:
        done = subprocess.run(
            [program, "-j", job_id, "-p", str(os.getpid())],
            capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"pbs_attach: {error}"
    return "" if done.returncode == 0 else plain(done.stderr or done.stdout) or f"pbs_attach exited {done.returncode}"


def _find(environment: Mapping[str, str]) -> str | None:
    """pbs_attach from PATH, else from where PBS is installed on this host, which its configuration says."""
    found = shutil.which("pbs_attach", path=environment.get("PATH"))
    if found:
        return found
    try:
        conf = Path(environment.get("PBS_CONF_FILE", "/etc/pbs.conf")).read_text(encoding="utf-8", errors="replace")
    except OSError:
        conf = ""
    named = re.search(r"^\s*PBS_EXEC\s*=\s*(\S+)", conf, re.MULTILINE)
    folder = environment.get("PBS_EXEC") or (named[1] if named else None)
    return shutil.which("pbs_attach", path=f"{folder}/bin") if folder else None
