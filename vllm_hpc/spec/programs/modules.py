"""Finds the file of a module without importing it or a package that it is in."""

from __future__ import annotations

import importlib
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from vllm_hpc.spec.errors import RequestError


class ModuleFile(NamedTuple):
    """The file of a module, its package, and the folder of sys.path that its top package is in."""

    file: Path
    package: str
    folder: str


def find_module(name: str) -> ModuleFile:
    """A module in the working directory, else on sys.path. Raises RequestError."""
    importlib.invalidate_caches()  # in a notebook, the file may have been written just now
    top, here = name.partition(".")[0], str(Path.cwd())
    in_here, elsewhere = PathFinder.find_spec(top, [here]), _find_top(top, without=here)
    if in_here is not None and elsewhere is not None and elsewhere.origin is not None:
        if in_here.origin is None:
            in_here = None  # a folder without __init__.py, which Python passes over
        elif not _is_same(in_here.origin, elsewhere.origin):
            raise RequestError(
                f"{top!r} is both here and in {str(Path(elsewhere.origin).parent)!r}, which ranks would import: "
                "rename it, or name its file, as FILE.py:NAME"
            )
    found = in_here or elsewhere
    if found is None:
        raise RequestError(
            f"no module {top!r} in the working directory, nor installed: correct it, or use FILE.py:NAME"
        )
    return _descend(found, name)


def find_import(name: str, folder: str) -> ModuleFile | None:
    """A module that a program imports, on sys.path or in ``folder``; None if it is not found here."""
    top = name.partition(".")[0]
    found = _find_top(top) or (PathFinder.find_spec(top, [folder]) if folder else None)
    with suppress(RequestError):
        return _descend(found, name) if found else None
    return None


def installed_folders() -> set[str]:
    """The folders of sys.path that this Python has by itself, and so on the ranks."""
    found = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return {os.path.realpath(folder) for folder in found if folder}


def _find_top(top: str, without: str = "") -> ModuleSpec | None:
    """A module or package on sys.path, or known to another finder, as of an editable installation."""
    path = [one for one in sys.path if one and not (without and _is_same(one, without))]
    if found := PathFinder.find_spec(top, path):
        return found
    for finder in sys.meta_path:
        if finder is not PathFinder and hasattr(finder, "find_spec"):
            with suppress(ImportError, ValueError):
                if found := finder.find_spec(top, None):
                    return found
    return None


def _descend(top: ModuleSpec, name: str) -> ModuleFile:
    """The module ``name`` in the package that was found. Raises RequestError."""
    found, parts = top, name.split(".")
    for number in range(2, len(parts) + 1):
        inside, wanted = found.submodule_search_locations, ".".join(parts[:number])
        below = PathFinder.find_spec(wanted, list(inside)) if inside is not None else None
        if below is None:
            raise RequestError(f"no module {wanted!r} in {parts[0]!r}: correct it")
        found = below
    if not found.has_location or not str(found.origin).endswith(".py"):
        kind = "is a folder without an __init__.py" if found.origin is None else "has no Python source"
        raise RequestError(f"module {name!r} {kind}: name a module that has the class or function")
    is_package = found.submodule_search_locations is not None
    return ModuleFile(Path(str(found.origin)), name if is_package else name.rpartition(".")[0], _folder(top))


def _folder(top: ModuleSpec) -> str:
    """The folder that the top package or module is in; empty if the ranks' Python has it by itself."""
    inside: Sequence[str] | None = top.submodule_search_locations
    place = Path(next(iter(inside))) if inside else Path(str(top.origin))
    folder = os.path.abspath(place.parent)  # noqa: PTH100 - links stay as the user wrote them
    return "" if os.path.realpath(folder) in installed_folders() else folder


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
