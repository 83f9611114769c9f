"""Which cache 'vllm-hpc fetch' fills: the one in which ranks of a profile's jobs look."""

from __future__ import annotations

from pathlib import Path

from vllm_hpc.planner.resolve import find_site
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import profile_in_use
from vllm_hpc.spec.model_cache import hub_cache, hub_in
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.values import as_path, check_path


def cache_to_fill(model: str, profile: str | None, cache_dir: str | None) -> Path:
    """The cache of --cache-dir, else of the profile (or $VLLM_HPC_PROFILE), else the user's own.

    Raises RequestError, ProfileError.
    """
    if cache_dir is not None:
        if not cache_dir:
            raise RequestError("--cache-dir is empty: name a folder, or leave it out")
        check_path(cache_dir, "--cache-dir")
        return hub_in(str(as_path(cache_dir, "--cache-dir").absolute()))
    site = find_site(profile_in_use(profile)).profile
    cache = hub_cache(Request(model=model, env=dict(site.env)), site)
    if cache is None:
        raise RequestError(
            "the profile's setup or env decides on the node where ranks look for models: use --cache-dir, or cache_dir "
            "in the profile"
        )
    return cache
