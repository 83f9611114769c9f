"""Whether a model and a container's image can be used on this host, be it a login node or a compute node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from vllm_hpc.spec.container import is_path
from vllm_hpc.spec.model_cache import cache_folder_of, find_snapshot

_DESCRIPTIONS = ("config.json", "params.json")


class HostPath(msgspec.Struct, frozen=True):
    """A file or folder of this host: its size in bytes (of the files in a folder), or why it cannot be used."""

    path: str
    size: int = 0
    error: str = ""


def path_of_model(model: str, environment: Mapping[str, str], revision: str | None = None) -> HostPath:
    """The model's folder on this node; of a Hub id, the snapshot of that revision in the node's cache."""
    path = Path(model)
    if not path.is_absolute():
        cache = cache_folder_of(environment)
        snapshot = find_snapshot(cache, model, revision) if cache else None
        if snapshot is None:
            return HostPath(
                model, error=f"it is not in the node's Hugging Face cache ({cache or 'which has no folder'})"
            )
        path = snapshot
    return _path_of_folder(path)


def _path_of_folder(path: Path) -> HostPath:
    try:
        files = [file for file in path.iterdir() if file.is_file()]
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        return HostPath(str(path), error=error.strerror or str(error))
    if not any(file.name in _DESCRIPTIONS for file in files):
        return HostPath(str(path), size, f"it has no {' or '.join(_DESCRIPTIONS)}")
    return HostPath(str(path), size)


def path_of_image(image: str) -> HostPath | None:
    """The container's image, if it is a file or folder; None for a name in a registry."""
    if not is_path(image):
        return None
    try:
        there = os.stat(image)  # noqa: PTH116 - as it was given
        is_readable = os.access(image, os.R_OK)
    except OSError as error:
        return HostPath(image, error=error.strerror or str(error))
    return HostPath(image, there.st_size, "" if is_readable else "this user cannot read it")
