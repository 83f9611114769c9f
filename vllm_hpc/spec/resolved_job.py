"""ResolvedJob: the request and the site's profile, merged once, before anything is planned.

An option overrides job.toml, and job.toml overrides the profile. ``origin`` says where a value came from.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.spec.device import Device
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.program import FoundProgram
from vllm_hpc.spec.request import Request

# Keys of both that are not simply filled in: scheduler, launcher, device and container are chosen (planner/resolve.py),
# and a profile's gpus_per_node is what a node has, not a request.
_CHOSEN = frozenset({"scheduler", "launcher", "gpu", "gpus_per_node", "container"})
# Options that are sampling parameters by another way.
NAMED_SAMPLING = ("max_tokens", "temperature", "top_p")
FILLED = tuple(sorted(set(Request.__struct_fields__) & set(Profile.__struct_fields__) - _CHOSEN))

_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Request)}


class Model(msgspec.Struct, frozen=True):
    """A model for vLLM: ``path`` is a folder or a Hub id, ``name`` is used in the names of job folders.

    ``note`` says how it was found, if MODEL named something else, or something else has its name.
    """

    path: str
    name: str
    note: str = ""


class FilledRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request filled in from its profile. ``site`` is the profile, ``origins`` says where each value came from.

    ``from_profile`` names the values that only the profile gave, ``site_env`` the variables of its env that count.
    Within tables, an origin is that of "env.NAME".
    """

    request: Request
    site: Profile
    origins: dict[str, str]
    from_profile: frozenset[str] = frozenset()
    site_env: frozenset[str] = frozenset()

    def origin(self, key: str) -> str:
        """Where a value was given: "--partition", the path of a job.toml, "profile 'alpine'"; "the default"."""
        return self.origins.get(key, "the default")

    @property
    def is_named_scheduler(self) -> bool:
        """Whether an option, job.toml or the profile named the scheduler; else it is detected."""
        return self.request.scheduler != "auto" or bool(self.site.scheduler)

    def is_asked(self, key: str) -> bool:
        """Whether an option or job.toml gave the value."""
        return key in self.origins and key not in self.from_profile


class ResolvedJob(FilledRequest, frozen=True, kw_only=True):
    """A job before it is planned: its scheduler, launcher, device and model.

    ``scheduler_reason`` says why this scheduler; ``runs_here``: it runs jobs on this machine. ``not_here`` says why the
    job can be planned and rendered, but not submitted: this machine has no scheduler for it. ``launcher`` starts the
    ranks; if ``is_native``, it was asked that vLLM then starts its own workers, as a plan with PP may choose, too.
    ``device`` is None if unknown. ``chat_template`` is the
    text of --chat-template, None without. ``source``: which file the profile is of; ``distrust``: whose job.toml it is.
    ``passes_by_file``: the scheduler does not hand on the variables of ``request.pass_env``, so a file does.
    ``template_dirs`` are the folders searched for templates, the first one first; ``profile_files`` those that the
    profile is of. ``queue`` says which of the profile's queues was chosen, and why; ``news``, what of the profile
    counts since its files are merged. ``program``: the code of --program or --script, as it was found.
    """

    scheduler: str
    scheduler_reason: str
    runs_here: bool
    not_here: str | None = None
    launcher: str
    is_native: bool
    device: Device | None
    model: Model
    chat_template: str | None = None
    source: str | None = None
    distrust: str | None = None
    passes_by_file: bool = False
    template_dirs: tuple[str, ...] = ()
    profile_files: tuple[str, ...] = ()
    queue: str | None = None
    queue_reason: str | None = None
    news: str | None = None
    program: FoundProgram | None = None

    @property
    def drives_engine(self) -> bool:
        """Whether a program drives the engine itself, so that no rows come out."""
        return self.program is not None and self.program.program.drives_engine

    @property
    def runs_script(self) -> bool:
        """Whether ranks run a script as it is, with no engine of ours."""
        return self.program is not None and self.program.program.is_script

    @property
    def is_for_cpu(self) -> bool:
        """Whether its ranks are known to have no GPU."""
        return self.device.gpu is None if self.device else self.site.gpu_flag == "none"

    @property
    def code_note(self) -> str | None:
        """Who else may have written the code of its program; None if nobody has."""
        found = self.program
        return None if found is None or found.distrust is None else f"{found.program.option}: {found.distrust}"

    @property
    def plan_notes(self) -> tuple[str | None, ...]:
        """What a plan says of where the job's values and its model are from."""
        return self.source, self.news, self.queue_reason, self.distrust, self.code_note, self.model.note

    def asking(self, **changes: Any) -> ResolvedJob:
        """The same job with changes to its request, as ``tune`` tries them."""
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, **changes))


def fill(given: Given, site: Profile) -> FilledRequest:
    """Fill in the request from the profile; tables (env, engine, sampling) are merged key by key."""
    request = given.request
    filled: dict[str, Any] = {}
    for key in FILLED:
        asked, of_site = getattr(request, key), getattr(site, key)
        if isinstance(of_site, dict):
            filled[key] = {**of_site, **asked}
        else:
            filled[key] = asked if of_site is None or _is_given(given, key) else of_site
    # Those that the job inherits override the profile's, too; and --temperature what it says of sampling.
    filled["env"] = {name: value for name, value in filled["env"].items() if name not in request.pass_env}
    for key in NAMED_SAMPLING:
        if getattr(request, key) is not None and key not in request.sampling:
            filled["sampling"].pop(key, None)
    from_profile = frozenset(key for key in FILLED if _is_of_site(given, site, key))
    within = {
        key: [name for name in getattr(site, key) if name in filled[key] and name not in getattr(request, key)]
        for key in ("engine", "env", "sampling")
    }
    of_profile = [*sorted(from_profile), *(f"{key}.{name}" for key, names in within.items() for name in names)]
    return FilledRequest(
        request=msgspec.structs.replace(request, **filled),
        site=site,
        origins=given.origins | dict.fromkeys(of_profile, f"profile {request.profile!r}"),
        from_profile=from_profile,
        site_env=frozenset(within["env"]),
    )


def _is_given(given: Given, key: str) -> bool:
    """Whether an option or job.toml gave the value, and not only the default."""
    return key in given.origins or getattr(given.request, key) != _DEFAULTS[key]


def _is_of_site(given: Given, site: Profile, key: str) -> bool:
    value = getattr(site, key)
    if isinstance(value, dict):
        return bool(value) and not getattr(given.request, key)
    return value is not None and not _is_given(given, key)
