"""What is not taken from a job.toml, or a job, of somebody whom the user does not trust."""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vllm_hpc.spec.chat_template import is_template_text
from vllm_hpc.spec.errors import RequestError

# With these they could have code run as the user, have it write where they say, or choose who pays.
ACTS_AS_YOU = (
    "account", "container", "directive", "engine", "env", "job_dir", "launcher", "pass_env", "program", "script",
    "script_args", "template", "template_dir",
)  # fmt: skip
# These name what is copied into the job folder, which others may read.
COPIED = ("chat_template", "input", "rows_missing_from")


def acting(options: Collection[str], given: Collection[str]) -> list[str]:
    """Those of the options that act as the user, and that the user has not given themselves, also by ``--env``."""
    said = {*given, "pass_env"} if "env" in given else set(given)
    return [key for key in ACTS_AS_YOU if key in options and key not in said]


def option_of(key: str) -> str:
    """How the user gives it: variables of either kind by ``--env``."""
    return "--env" if key == "pass_env" else f"--{key.replace('_', '-')}"


def check_is_inside(folder: Path, options: dict[str, Any], why: str) -> None:
    """Refuse options that name what is not in the folder, links followed: it may be the user's own, and private.

    Raises RequestError, OSError.
    """
    for key in COPIED:
        given = options.get(key, [])
        for one in [given] if isinstance(given, str) else given:
            is_path = one not in ("", "-") and not (key == "chat_template" and is_template_text(one))
            if is_path and (outside := _outside(folder, one)):
                raise RequestError(
                    f"'{key}' must name what is in its folder, not {str(outside)!r}, for {why}: give "
                    f"{option_of(key)} yourself, if that may be copied into your job"
                )


def _outside(folder: Path, given: str) -> Path | None:
    """The first of what a path, a folder or a pattern stands for that is elsewhere."""
    root, path = folder.resolve(), Path(given)
    inside = path.iterdir() if path.is_dir() else map(Path, glob.iglob(given, recursive=True))  # noqa: PTH207
    return next((one for one in (path, *inside) if not one.resolve().is_relative_to(root)), None)
