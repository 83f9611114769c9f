"""Where jobs are looked for: --job-dir, else the job_dir of the profile that submits use, else ./runs."""

from __future__ import annotations

import os

from vllm_hpc.spec.errors import ProfileError, RequestError

DEFAULT_JOB_DIR = "runs"
# The variable that names a profile where neither an option nor job.toml does.
DEFAULT_PROFILE = "VLLM_HPC_PROFILE"


def profile_in_use(named: str | None) -> str | None:
    """The profile that is named, else that of $VLLM_HPC_PROFILE; None without either."""
    return named or os.environ.get(DEFAULT_PROFILE) or None


def default_job_dir(profile: str | None = None) -> str:
    """The folder of jobs where none is named. ``profile`` None is $VLLM_HPC_PROFILE's. Raises ProfileError.

    A profile of that variable which cannot be read here does not keep anybody from ./runs.
    """
    name = profile_in_use(profile)
    if not name:  # and a look at a job does not wait for the import of profiles
        return DEFAULT_JOB_DIR
    from vllm_hpc.spec.expand import expand
    from vllm_hpc.spec.profile_layers import load_profile

    try:
        given = load_profile(name).job_dir
        return expand(given, os.environ, f"profile {name!r}: 'job_dir'") if given else DEFAULT_JOB_DIR
    except (ProfileError, RequestError) as error:
        if profile is None:
            return DEFAULT_JOB_DIR
        raise ProfileError(str(error)) from None
