"""Lists the profiles that there are: the project's, the user's, the site's, then the gallery's."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.spec.config_files import GALLERY
from vllm_hpc.spec.errors import ProfileError
from vllm_hpc.spec.profile_files import all_names
from vllm_hpc.spec.profile_layers import find_profile
from vllm_hpc.spec.show_profile import layer_names


class Listed(msgspec.Struct, frozen=True):
    """A profile: its files, the highest first, and what is wrong with it, if anything is."""

    name: str
    description: str
    scheduler: str | None
    files: tuple[str, ...]
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``profiles list --json`` prints."""
        fault = {"fault": self.fault} if self.fault else {}
        plain = {"name": self.name, "description": self.description, "scheduler": self.scheduler}
        return {**plain, "files": list(self.files), **fault}


def list_profiles() -> list[Listed]:
    """All profiles. Raises ProfileError for a file that cannot be read, or must not be trusted."""
    return [_listed(name) for name in all_names()]


def own_names() -> list[str]:
    """The names of all profiles that are not of the gallery alone. Raises ProfileError, also if there are none."""
    names = [name for name, files in all_names().items() if not (name.startswith(GALLERY) and len(files) == 1)]
    if not names:
        raise ProfileError("there is no profile but the gallery's: write one with 'vllm-hpc profiles init'")
    return names


def _listed(name: str) -> Listed:
    try:
        found = find_profile(name)
    except ProfileError as error:
        return Listed(name, "", None, (), str(error))
    return Listed(name, found.profile.description, found.profile.scheduler, tuple(layer_names(found)))
