"""ResolvedJob: what was asked and what the site is like, merged once, before anything is planned.

An option wins over job.toml, job.toml over the profile. Who needs to know where a value is from asks ``origin``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.spec.device import Device
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.request import Request

# Keys of both that are not simply filled in: scheduler, launcher and device are chosen (planner/resolve.py), and a
# profile's gpus_per_node is what a node has, not what is asked for.
_CHOSEN = frozenset({"scheduler", "launcher", "gpu", "gpus_per_node"})
FILLED = tuple(sorted(set(Request.__struct_fields__) & set(Profile.__struct_fields__) - _CHOSEN))


class Model(msgspec.Struct, frozen=True):
    """A model that vLLM can be given: ``path`` is a folder or a Hub id, ``name`` what job folders are called after."""

    path: str
    name: str


class FilledRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its profile's values where it named none. ``site`` is the profile; ``origins`` are of values."""

    request: Request
    site: Profile
    origins: dict[str, str]

    def origin(self, key: str) -> str:
        """Where a value was given: "--partition", the path of a job.toml, "profile 'alpine'"; "the default"."""
        return self.origins.get(key, "the default")

    def is_asked(self, key: str) -> bool:
        """Whether an option or job.toml has given the value."""
        return key in self.origins and not self.origins[key].startswith("profile ")


class ResolvedJob(FilledRequest, frozen=True, kw_only=True):
    """A job before it is planned: who runs it, what starts its ranks, what they run on, and which model.

    ``scheduler_reason`` says why this scheduler; ``runs_here``: on this machine. ``launcher`` starts the ranks; where
    ``is_native``, vLLM then starts its own workers. ``device`` None: not known.
    """

    scheduler: str
    scheduler_reason: str
    runs_here: bool
    launcher: str
    is_native: bool
    device: Device | None
    model: Model

    def asking(self, **changes: Any) -> ResolvedJob:
        """The same job with other values in its request, as ``tune`` tries them."""
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, **changes))


def fill(given: Given, site: Profile) -> FilledRequest:
    """The request with the profile's values where nothing else was given; variables (``env``) one by one."""
    request, origins = given.request, dict(given.origins)
    filled: dict[str, Any] = {}
    for key in FILLED:
        asked, of_site = getattr(request, key), getattr(site, key)
        filled[key] = {**of_site, **asked} if isinstance(of_site, dict) else asked or of_site
        if of_site and not asked:
            origins[key] = f"profile {request.profile!r}"
    return FilledRequest(request=msgspec.structs.replace(request, **filled), site=site, origins=origins)
