"""Where jobs are looked for: --job-dir, else the job_dir of the profile that submits use, else ./runs."""

from __future__ import annotations

import os

from vllm_hpc.spec.errors import ProfileError, RequestError
from vllm_hpc.spec.expand import expand
from vllm_hpc.spec.job_definition import profile_in_use
from vllm_hpc.spec.profile_layers import load_profile

DEFAULT_JOB_DIR = "runs"


def default_job_dir(profile: str | None = None) -> str:
    """The folder of jobs where none is named. ``profile`` None is $VLLM_HPC_PROFILE's. Raises ProfileError.

    A profile of that variable which cannot be read here does not keep anybody from ./runs.
    """
    name = profile_in_use(profile)
    try:
        given = load_profile(name).job_dir if name else None
        return expand(given, os.environ, f"profile {name!r}: 'job_dir'") if given else DEFAULT_JOB_DIR
    except (ProfileError, RequestError) as error:
        if profile is None:
            return DEFAULT_JOB_DIR
        raise ProfileError(str(error)) from None
