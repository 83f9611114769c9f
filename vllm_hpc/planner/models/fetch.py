"""Puts a model of the Hub into a cache, on a login node: the files that vLLM reads, and no others.

huggingface_hub downloads each file, from HF_ENDPOINT and with the user's token; files that are there stay. Not by its
snapshot_download: that one keeps the list of all files, and later refuses, offline, a snapshot that lacks some.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from vllm_hpc.planner.models.files_to_fetch import choose_files
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.planner.models.hub import endpoint, is_offline_here, refusal
from vllm_hpc.spec import lora
from vllm_hpc.spec.errors import FailedError, ModelError, RequestError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.secret_shapes import redact

_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*")
_WORKERS = 4
# Seconds between two looks at the threads, and for their end.
_LOOK_S, _END_S = 0.5, 5.0
# Bytes that a file system should have left over.
_SPARE = GIB // 4


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository: its size in bytes, and the name of its content in a cache."""

    name: str
    size: int
    blob: str


class Listing(msgspec.Struct, frozen=True):
    """What of a repository is to be fetched, as it was at ``commit``. ``is_adapter``: it is one, not a whole model."""

    model: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    is_adapter: bool

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Fetched(msgspec.Struct, frozen=True):
    """What ``fetch --json`` prints: ``folder`` has the files; ``bytes`` are of all, ``fetched`` of those that came."""

    model: str
    revision: str
    commit: str
    folder: str
    cache: str
    files: int
    bytes: int
    fetched: int


def list_files(text: str, revision: str | None = None) -> Listing:
    """Ask the Hub what MODEL has. Raises RequestError, ModelError, FailedError if it does not answer."""
    model = find_model(text)
    if Path(model.path).is_absolute():
        raise RequestError(f"{text!r} is on this machine already ({model.path}): for the Hub's, write hf://ORG/NAME")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise RequestError(f"--revision {revision!r} must be a branch, a tag or a commit")
    if util.find_spec("huggingface_hub") is None:
        raise RequestError("fetch needs huggingface_hub, which is not installed here: pip install 'vllm-hpc[hub]'")
    if is_offline_here():
        raise RequestError("HF_HUB_OFFLINE is set here: unset it, on a machine with internet access")
    import huggingface_hub

    try:
        info = huggingface_hub.model_info(model.path, revision=revision, files_metadata=True)
    except Exception as error:  # noqa: BLE001 - whatever a client of the network raises
        raise _explained(model.path, revision, error) from None
    files = {file.rfilename: file for file in info.siblings or ()}
    chosen = choose_files(files)
    if not {"config.json", "params.json", lora.CONFIG} & set(chosen):
        raise ModelError(f"{model.path!r} has no config.json, params.json or {lora.CONFIG}: vLLM loads no such model")
    return Listing(
        model=model.path,
        revision=revision or "main",
        commit=info.sha or "",
        files=tuple(_remote(files[name]) for name in chosen),
        is_adapter=lora.CONFIG in chosen and "config.json" not in chosen,
    )


def _remote(file: Any) -> RemoteFile:
    """Large files are named by their content's digest, others by git's."""
    return RemoteFile(file.rfilename, file.size or 0, (file.lfs.sha256 if file.lfs else file.blob_id) or "")


def fetch(listing: Listing, cache: Path, tell: Callable[[int, int], None]) -> Fetched:
    """Download what is not there yet; ``tell`` gets the bytes that are there, and those of all files, again and again.

    Raises RequestError if the cache cannot hold them, ModelError, FailedError: called again, it goes on.
    """
    _make(cache)
    present = _present(listing, cache)
    _check_room(listing.size - present, cache)
    download = _Download(listing, cache)
    try:
        for fetched in download.run():
            tell(present + fetched, listing.size)
    finally:
        download.stop()
    folder = cache / _repository(listing.model) / "snapshots" / listing.commit
    return Fetched(
        listing.model, listing.revision, listing.commit, str(folder), str(cache), len(listing.files), listing.size,
        listing.size - present,
    )  # fmt: skip


class _InterruptedError(Exception):
    """This process is told to end: what is unfinished is removed by the library."""


class _Download:
    """Some files at a time. Threads that hang end with this process, which an interrupt does not keep."""

    def __init__(self, listing: Listing, cache: Path) -> None:
        self._listing, self._cache = listing, cache
        self._left: SimpleQueue[str] = SimpleQueue()
        self._errors: list[Exception] = []
        self._running, self._ended = 0, threading.Event()
        self._fetched, self._lock, self._is_stopped = 0, threading.Lock(), False

    def run(self) -> Iterable[int]:
        """Yields the bytes that have come, until all have. Raises ModelError, FailedError."""
        names = [file.name for file in self._listing.files]
        # The first one under the revision's name, which the cache then knows.
        self._get_first(names[0])
        for name in names:
            self._left.put(name)
        self._running = _WORKERS
        for _ in range(_WORKERS):
            threading.Thread(target=self._work, daemon=True).start()
        # Not Thread.join, which an interrupt may leave with the thread taken for ended (Python 3.11).
        while not self._ended.wait(_LOOK_S):
            yield self._fetched
        if self._errors:
            raise _explained(self._listing.model, self._listing.revision, self._errors[0])

    def stop(self) -> None:
        """Have the threads end, if they still run."""
        self._is_stopped = True
        if self._running:
            self._ended.wait(_END_S)

    def _work(self) -> None:
        try:
            while not self._errors and not self._is_stopped:
                self._download(self._left.get_nowait(), self._listing.commit)
        except Empty:
            pass
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            self._errors.append(error)
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._ended.set()

    def _get_first(self, name: str) -> None:
        """Raises FailedError if the revision is not the commit that was listed any more."""
        model, revision = self._listing.model, self._listing.revision
        try:
            file = self._download(name, revision)
        except Exception as error:  # noqa: BLE001 - whatever a client of the network raises
            raise _explained(model, revision, error) from None
        if Path(file).parents[len(PurePosixPath(name).parts) - 1].name != self._listing.commit:
            raise FailedError(f"{model!r} has just changed on the Hub: run fetch again")

    def _download(self, name: str, revision: str) -> str:
        import huggingface_hub

        download: Callable[..., str] = huggingface_hub.hf_hub_download
        takes_bar = "tqdm_class" in inspect.signature(download).parameters
        bar = {"tqdm_class": lambda *words, **options: _Bar(self._count)} if takes_bar else {}
        return download(self._listing.model, name, revision=revision, cache_dir=self._cache, **bar)

    def _count(self, count: int) -> None:
        if self._is_stopped:
            raise _InterruptedError
        with self._lock:
            self._fetched += count


class _Bar:
    """What huggingface_hub takes for a bar of tqdm: it counts bytes, and shows nothing."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self.total = 0

    def update(self, n: float = 1) -> None:
        """Called with the bytes that have come, fewer than none where a download begins again."""
        self._count(int(n))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Called at the end of a file."""

    def refresh(self) -> None:
        """Called where the total changes."""

    def set_description(self, *words: object, **options: object) -> None:
        """Called with the file's name."""


def _repository(model: str) -> str:
    return f"models--{model.replace('/', '--')}"


def _present(listing: Listing, cache: Path) -> int:
    """Bytes of the listing's files that are in the cache."""
    blobs = cache / _repository(listing.model) / "blobs"
    return sum(file.size for file in listing.files if file.blob and (blobs / file.blob).is_file())


def _make(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the cache {str(cache)!r}: {error.strerror}: use another --cache-dir") from None
    if not os.access(cache, os.W_OK):
        raise RequestError(f"the cache {str(cache)!r} is not yours to write to: use another --cache-dir")


def _check_room(needed: int, cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if needed and needed + _SPARE > free:
        raise RequestError(
            f"{needed / GIB:.1f} GiB are to be fetched, and {str(cache)!r} has {free / GIB:.1f} GiB free: free some "
            "space, or use another --cache-dir"
        )


def _explained(model: str, revision: str | None, error: Exception) -> Exception:
    """What to raise for an error of huggingface_hub, or of the disk."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"the model {model!r} has no revision {revision!r}: use a branch, a tag or a commit of it")
    if said := refusal(model, error):
        return ModelError(said)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FailedError(f"the disk is full ({error.strerror}): free some space, and run fetch again, which goes on")
    words = redact(" ".join(str(error).split()))[:200]
    return FailedError(
        f"{model!r} could not be fetched from {endpoint()} ({type(error).__name__}: {words}): run it again, which goes "
        "on, on a machine with internet access"
    )
