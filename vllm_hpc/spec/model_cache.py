"""Where ranks look for the Hub's models: a profile's ``cache_dir`` and ``offline`` as variables, and the cache itself.

The cache is Hugging Face's: models--ORG--NAME with refs and snapshots (huggingface_hub, guides/manage-cache). It is
read here without that library, which a login node need not have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.user_cache import SHARED

OFFLINE = "HF_HUB_OFFLINE"
_HOME, _HUB, _HUB_OF_OLD = "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"
_PLACES = (_HOME, _HUB, _HUB_OF_OLD)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# As huggingface_hub reads its switches (constants.py, ENV_VARS_TRUE_VALUES).
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def cache_variables(request: Request, site: Profile) -> dict[str, str]:
    """What ranks get for ``cache_dir`` and ``offline``, but for what --env, job.toml or the profile's env sets.

    An HF_HOME or HF_HUB_CACHE of the shell that submits is the user's own choice: ranks look there, on every scheduler.
    HF_HOME itself stays the user's: it also holds their token, and code of models, which they must not share. Raises
    RequestError if cache_dir is not absolute.
    """
    given = {*request.env, *request.pass_env}
    found = {OFFLINE: "1", "TRANSFORMERS_OFFLINE": "1"} if site.offline else {}
    if site.cache_dir is not None:
        found[SHARED] = _absolute(site.cache_dir)
        own = cache_folder_of(os.environ) if any(os.environ.get(name) for name in _PLACES) else None
        if not given.intersection(_PLACES):
            found[_HUB] = str(own or hub_in(site.cache_dir))
    return {name: value for name, value in found.items() if name not in given}


def hub_in(cache_dir: str) -> Path:
    """The Hub's models in a shared cache. Raises RequestError if that is not absolute."""
    return Path(_absolute(cache_dir)) / "huggingface" / "hub"


def _absolute(cache_dir: str) -> str:
    if not Path(cache_dir).is_absolute():
        raise RequestError(f"cache_dir must be an absolute path, not {cache_dir!r}: nodes look there, too")
    return cache_dir


def is_offline(request: Request, site: Profile) -> bool:
    """Whether ranks do not ask the Hub."""
    return says_offline({OFFLINE: "1" if site.offline else "", **request.env})


def says_offline(variables: Mapping[str, str]) -> bool:
    """Whether huggingface_hub does not ask the Hub, with these variables."""
    return variables.get(OFFLINE, "").upper() in _TRUE


def hub_cache(request: Request, site: Profile) -> Path | None:
    """The folder in which ranks look for the Hub's models; None if a line of the profile or the node decides."""
    variables = {**os.environ, **cache_variables(request, site), **request.env}
    if site.cache_dir is None and any("HF_" in line for line in site.setup):
        return None
    return cache_folder_of(variables)


def cache_folder_of(variables: Mapping[str, str]) -> Path | None:
    """The cache that these variables lead to (huggingface_hub, constants.py); None if it cannot be known here."""
    named = variables.get(_HUB) or variables.get(_HUB_OF_OLD)
    home = variables.get(_HOME) or f"{variables.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    with suppress(RuntimeError):  # no home folder
        folder = Path(named or f"{home}/hub").expanduser()
        return folder if folder.is_absolute() and "$" not in str(folder) else None
    return None


def revision_of(engine: Mapping[str, Any]) -> str | None:
    """The revision of the model that --engine asks for; None for the Hub's main."""
    revision = engine.get("revision")
    return revision if isinstance(revision, str) else None


def find_snapshot(cache: Path, model: str, revision: str | None = None) -> Path | None:
    """The folder with a model's files in the cache; None if it has none of that revision (default: main)."""
    repository, wanted = cache / f"models--{model.replace('/', '--')}", revision or "main"
    if ".." in wanted.split("/") or wanted.startswith("/"):
        return None
    commit = wanted
    with suppress(OSError):
        commit = read_regular(repository / "refs" / wanted, most=100).decode("ascii", "replace").strip()
    snapshot = repository / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None
