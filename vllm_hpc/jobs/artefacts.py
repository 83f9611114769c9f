"""What a program or a script has left in artefacts/: listed for the summary, and copied by ``collect --output``.

Whoever owns the job may have put anything there: links are not followed, and only regular files count.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import CollectError
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.write_file import make_folder, replacing

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Folders within folders: more nobody makes on purpose.
_DEEPEST = 64


class Artefact(msgspec.Struct, frozen=True):
    """A file below artefacts/: its path from there, and its size."""

    path: str
    bytes: int


def list_artefacts(folder: JobFolder) -> list[Artefact]:
    """The regular files below artefacts/, in order of their names. Raises CollectError."""
    try:
        return sorted(_below(folder.artefacts), key=lambda one: one.path)
    except OSError as error:
        raise CollectError(f"cannot read {error.filename or folder.artefacts}: {error.strerror}") from None


def copy_artefacts(folder: JobFolder, artefacts: list[Artefact], output: Path) -> None:
    """Copy them, and the ranks' records, into a folder of the user's own. Raises CollectError."""
    records = [Path(one.name) for one in _records(folder)]
    _check_room(artefacts, output, output / folder.artefacts.name)
    try:
        _copy(folder.ranks, records, output / folder.ranks.name)
        _copy(folder.artefacts, [Path(one.path) for one in artefacts], output / folder.artefacts.name)
    except OSError as error:
        place = error.filename or output
        raise CollectError(f"cannot copy {place}: {error.strerror}: nothing is lost, collect again") from None


def _check_room(artefacts: list[Artefact], output: Path, target: Path) -> None:
    """Refuse what does not fit, instead of filling the disk. Raises CollectError."""
    free = shutil.disk_usage(output).free
    needed = sum(one.bytes - _size_of(target / one.path) for one in artefacts)
    if needed > free:
        raise CollectError(
            f"{str(output)!r} has {free >> 20} MiB free, and the job's artefacts need {needed >> 20} MiB more: remove "
            "some, or name another folder"
        )


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _records(folder: JobFolder) -> list[Path]:
    records = folder.ranks.glob("rank-*.json")
    return sorted(one for one in records if stat.S_ISREG(one.lstat().st_mode) and _is_text(one.name))


def _below(top: Path) -> Iterator[Artefact]:
    """Every regular file, each folder opened from the one above it, so that no link leads elsewhere."""
    try:
        descriptor = os.open(top, _FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        yield from _in(descriptor, "", 0)
    finally:
        os.close(descriptor)


def _in(descriptor: int, above: str, depth: int) -> Iterator[Artefact]:
    with os.scandir(descriptor) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, there in found:
        path = f"{above}{name}"
        if stat.S_ISREG(there.st_mode) and _is_text(path):
            yield Artefact(path, there.st_size)
        elif stat.S_ISDIR(there.st_mode) and depth < _DEEPEST:
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            try:
                yield from _in(below, f"{path}/", depth + 1)
            finally:
                os.close(below)


def _is_text(path: str) -> bool:
    """Whether a name is UTF-8, as summary.json is."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _copy(source: Path, paths: list[Path], target: Path) -> None:
    """Copy files from one folder into another one, which is made. Raises OSError."""
    if not paths:
        return
    make_folder(target)
    for path in paths:
        for parent in reversed(path.parents[:-1]):
            make_folder(target / parent)
        descriptor = os.open(source, _FOLDER)
        try:
            for part in path.parent.parts:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            with (
                open_regular(source / path, follow_links=False, folder=descriptor) as file,
                replacing(target / path, buffering=1 << 20) as copy,
            ):
                shutil.copyfileobj(file, copy, 1 << 20)
        finally:
            os.close(descriptor)
