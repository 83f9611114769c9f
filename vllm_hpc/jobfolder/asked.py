"""What was asked of a job: its request without what its profile filled in, which today may say something else."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.request import Request


def asked_of(record: JobRecord) -> dict[str, Any]:
    """The options that were given for a job, and job.toml's, by their names."""
    given = msgspec.to_builtins(record.request)
    default = msgspec.to_builtins(Request(model=record.request.model))
    profile = f"profile {record.request.profile!r}"

    def is_of_profile(*names: str) -> bool:
        return record.origins.get(".".join(names)) == profile

    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, dict):
            value = {name: one for name, one in value.items() if not is_of_profile(key, name)}
        elif key == "pass_env":
            value = [name for name in value if not is_of_profile(key, name)]
        if value not in (default[key], {}) and not is_of_profile(key):
            found[key] = value
    if record.queue is not None and "partition" in record.origins and not is_of_profile("partition"):
        found["partition"] = record.queue  # the table's name, where the scheduler's may be another's, too, or none
    return found
