"""The files that profiles are read from, and which of them say whom the user trusts.

They are the layers of a profile: ./vllm-hpc.toml over the user's own (``$XDG_CONFIG_HOME/vllm-hpc/config.toml``, by
default in ~/.config) over the site's (vllm-hpc/config.toml in each of ``$XDG_CONFIG_DIRS``, by default /etc/xdg) over
the gallery, files of this package. The variables follow the XDG Base Directory Specification.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

PROJECT_FILE = "vllm-hpc.toml"
# Profiles of the gallery are called site/NAME, as their files.
GALLERY = "site/"
_NAME = Path("vllm-hpc", "config.toml")


def profile_files() -> list[Path]:
    """The files that profiles are read from, in order of precedence."""
    return [Path(PROJECT_FILE), *settled_files()]


def settled_files() -> list[Path]:
    """The user's file and the site's: those that do not depend on the working directory."""
    site = [Path(folder) for folder in (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")]
    folders = [folder for folder in site if folder.is_absolute()]
    with suppress(RuntimeError):  # a user without a home folder, as in some containers
        folders.insert(0, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"))
    return [folder / _NAME for folder in folders]


def gallery_file(name: str) -> Path | None:
    """The file of the gallery that has the profile ``name`` (site/NAME); None if there is none."""
    return next((path for path in gallery_files() if name == GALLERY + path.stem), None)


def gallery_files() -> list[Path]:
    """The files of the gallery, one a site."""
    folder = Path(str(files("vllm_hpc"))) / "sites"
    return sorted(folder.glob("*.toml"))
