"""Finds the file of a module without importing it or a package that it is in."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from vllm_hpc.spec.errors import RequestError


class ModuleFile(NamedTuple):
    """The file of a module, its package, and the folder of sys.path that its top package is in."""

    file: Path
    package: str
    folder: str


class _Place(NamedTuple):
    """What a name stands for in some folders: a module's or a package's file, and the folders of a package."""

    file: Path | None
    folders: tuple[Path, ...] = ()


def find_module(name: str) -> ModuleFile:
    """A module in the working directory, else on sys.path. Raises RequestError."""
    top, here = name.partition(".")[0], working_directory()
    mine = _look(top, [here])
    theirs = _find_top(top, [folder for folder in sys.path if not _is_same(folder or ".", here)])
    if mine is not None and theirs is not None and theirs.file is not None:
        if mine.file is None:
            mine = None  # a folder without __init__.py, which Python passes over
        elif not _is_same(mine.file, theirs.file):
            raise RequestError(
                f"{top!r} is both here and in {str(theirs.file.parent)!r}, which ranks would import: rename it, or "
                "name its file, as FILE.py:NAME"
            )
    found = mine or theirs
    if found is None:
        raise RequestError(
            f"no module {top!r} in the working directory, nor installed: correct it, or use FILE.py:NAME"
        )
    return _descend(found, name)


def working_directory() -> str:
    """Where the job is submitted. Raises RequestError."""
    try:
        return str(Path.cwd())
    except OSError as error:
        raise RequestError(f"the working directory cannot be used: {error.strerror}: change to another one") from None


def find_import(name: str, folder: str) -> ModuleFile | None:
    """A module that a program imports, on sys.path or in ``folder``; None if it is not found here."""
    top = name.partition(".")[0]
    found = _find_top(top, sys.path) or (_look(top, [folder]) if folder else None)
    with suppress(RequestError):
        return _descend(found, name) if found else None
    return None


def _find_top(top: str, path: Iterable[str]) -> _Place | None:
    """A module or package on a path, or known to another finder, as those of Python itself and of editable installs."""
    if found := _look(top, [folder for folder in path if folder]):
        return found
    for finder in sys.meta_path:
        if finder is PathFinder or not hasattr(finder, "find_spec"):
            continue
        with suppress(ImportError, ValueError):
            if spec := finder.find_spec(top, None):
                file = Path(spec.origin or top) if spec.has_location else Path(top)
                return _Place(file, tuple(map(Path, spec.submodule_search_locations or ())))
    return None


def _look(name: str, path: Iterable[str | Path]) -> _Place | None:
    """What Python finds under a name in these folders: the first package or module, else all folders of that name."""
    folders = []
    for folder in path:
        below = Path(folder) / name
        for file in (below / "__init__.py", Path(folder) / f"{name}.py"):
            if file.is_file():
                return _Place(file, (below,) if file.parent == below else ())
        if below.is_dir():
            folders.append(below)
    return _Place(None, tuple(folders)) if folders else None


def _descend(top: _Place, name: str) -> ModuleFile:
    """The module ``name`` in the package that was found. Raises RequestError."""
    found, parts = top, name.split(".")
    for number, part in enumerate(parts[1:], start=2):
        below = _look(part, found.folders)
        if below is None:
            raise RequestError(f"no module {'.'.join(parts[:number])!r} in {parts[0]!r}: correct it")
        found = below
    if found.file is None or found.file.suffix != ".py":
        kind = "is a folder without an __init__.py" if found.file is None else "has no Python source"
        raise RequestError(f"module {name!r} {kind}: name a module that has the class or function")
    return ModuleFile(found.file, name if found.folders else name.rpartition(".")[0], _folder(top))


def _folder(top: _Place) -> str:
    """The folder that the top package or module is in; empty if the ranks' Python has it by itself."""
    place = top.folders[0] if top.folders else top.file
    assert place is not None
    folder = os.path.abspath(place.parent)  # noqa: PTH100 - links stay as the user wrote them
    return "" if os.path.realpath(folder) in _installed() else folder


def _installed() -> set[str]:
    """The folders of sys.path that this Python has by itself, and so on the ranks."""
    found = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return {os.path.realpath(folder) for folder in found if folder}


def _is_same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
