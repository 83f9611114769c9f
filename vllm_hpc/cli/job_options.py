"""JOB, --job-dir, --profile and --json, of the commands for existing jobs: these do not load the options of submit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vllm_hpc.cli import complete

F = TypeVar("F", bound=Callable[..., Any])

JOB_DIR_HELP = "Where to look for jobs.  [default: the profile's job_dir, or runs]"
OF_JOBS_HELP = "The profile that the jobs were submitted with, for its job_dir.  [env: VLLM_HPC_PROFILE]"
# Where --profile is kept until --job-dir is read.
_PROFILE = "vllm_hpc.profile_of_jobs"


def job_argument(function: F) -> F:
    """Add JOB and --job-dir."""
    return click.argument("job", shell_complete=complete.complete_job)(job_dir_option(function))


def jobs_argument(required: bool) -> Callable[[F], F]:
    """Add JOB..., passed as ``jobs``."""
    metavar = "JOB..." if required else "[JOB...]"
    return click.argument("jobs", metavar=metavar, nargs=-1, required=required, shell_complete=complete.complete_job)


def job_dir_option(function: F) -> F:
    """Add --job-dir, and --profile for its default, to a command for existing jobs."""
    profile = click.option(
        "--profile", metavar="NAME", is_eager=True, expose_value=False, callback=_keep_profile,
        shell_complete=complete.complete_profile, help=OF_JOBS_HELP,
    )  # fmt: skip
    job_dir = click.option(
        "--job-dir", metavar="DIR", callback=_job_dir, shell_complete=complete.complete_folder, help=JOB_DIR_HELP
    )
    return profile(job_dir(function))


def json_option(function: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def _keep_profile(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta[_PROFILE] = value


def _job_dir(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    from vllm_hpc.spec.job_dir import default_job_dir

    return default_job_dir(ctx.meta.get(_PROFILE)) if value is None else value
