"""Reads the weights' files into the node's page cache while the rank still imports vLLM.

The import takes 20 s on a node with GPUs, while the disk is idle. Afterwards 16 GB take 11 s from a cold disk, and 3 s
from the page cache (docs/performance.md). The ranks of a node divide the files: each byte is read once.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.read_file import open_regular, read_regular

_PIECE = 1 << 28
_BLOCK = 1 << 24
# Share of the node's free memory: vLLM needs some itself, and whatever does not fit evicts what was read first.
_MOST = 0.5
_INDEX = "model.safetensors.index.json"


class Piece(NamedTuple):
    """A part of a file, in bytes."""

    file: Path
    first: int
    size: int


class ReadAhead:
    """One rank's reader. Nothing here ends a job: vLLM reads whatever this could not."""

    def __init__(self, find: Callable[[], list[Piece]], tells: bool = True) -> None:
        self.done, self._tells = 0, tells
        self._thread = threading.Thread(target=self._run, args=(find,), name="vllm-hpc-readahead", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, record: JobRecord, local_rank: int) -> ReadAhead:
        """Begin with this rank's share of what vLLM will read."""
        return cls(lambda: _pieces(record)[local_rank :: record.plan.layout.procs_per_node])

    @classmethod
    def start_for_node(cls, record: JobRecord) -> ReadAhead:
        """Begin with what all ranks of this node will read; nothing is printed."""
        return cls(lambda: _pieces(record), tells=False)

    def join(self) -> None:
        """Wait until all is read."""
        self._thread.join()

    def _run(self, find: Callable[[], list[Piece]]) -> None:
        if not (pieces := find()):
            return
        began, block = time.perf_counter(), memoryview(bytearray(_BLOCK))
        try:
            for piece in pieces:
                _read(piece, block)
                self.done += piece.size
        except OSError as error:  # vLLM reports what is wrong with the file
            self._tell(f"weights are not read ahead: {error}")
        seconds = time.perf_counter() - began
        self._tell(f"{self.done / 1e9:.2f} GB of weights are in memory after {seconds:.1f} s")

    def _tell(self, line: str) -> None:
        if self._tells:
            print(f"vllm-hpc: {line}", flush=True)


def _pieces(record: JobRecord) -> list[Piece]:
    """What vLLM will read on a node; nothing where that does not fit into its memory, or is not known."""
    layout = record.plan.layout
    try:
        pieces = list(_cut(_files(Path(record.model), record.plan.engine)))
        is_whole = layout.pp == 1 or layout.nodes == 1  # else a node needs a few of the layers only
        return pieces if is_whole and sum(piece.size for piece in pieces) <= _MOST * free_memory() else []
    except Exception:  # noqa: BLE001 - vLLM reports whatever is wrong with the files
        return []


def _files(model: Path, engine: dict[str, Any]) -> list[Path]:
    """The files that vLLM's default loader will read, in its order; none where the job asks for another loader."""
    if engine.get("load_format", "auto") not in ("auto", "safetensors") or "safetensors_load_strategy" in engine:
        return []
    consolidated = sorted(model.glob("consolidated*.safetensors"))
    if consolidated and engine.get("load_format", "auto") == "auto":  # it takes Mistral's own files first
        return consolidated
    if (model / _INDEX).exists():
        named = json.loads(read_regular(model / _INDEX))["weight_map"].values()
        return [model / name for name in sorted(set(named))]
    return sorted(model.glob("*.safetensors"))


def _cut(files: list[Path]) -> Iterator[Piece]:
    for file in files:
        size = file.stat().st_size
        for first in range(0, size, _PIECE):
            yield Piece(file, first, min(_PIECE, size - first))


def _read(piece: Piece, block: memoryview) -> int:
    """Read the blocks that are not in the page cache, and return how many bytes of them it took."""
    read, end = 0, piece.first + piece.size
    with open_regular(piece.file) as file:
        for first in range(piece.first, end, len(block)):
            size = min(len(block), end - first)
            if not _is_cached(file.fileno(), first + size - 1):
                read += os.preadv(file.fileno(), [block[:size]], first)
    return read


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether a block is in the page cache, judged by its last byte: the kernel reads ahead into its first pages."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # it is not, or this file system cannot say
        return False


def free_memory() -> float:
    """Bytes available to this job on the node, or in its control group if that is less."""
    import psutil  # vLLM's own dependency

    return min(float(psutil.virtual_memory().available), *_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))


def _limits(root: Path, own: Path) -> Iterator[float]:
    """Limits of this process's control groups. All of them apply; the job's may be above its tasks'."""
    yield float("inf")
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield from _limits_above(root, path, "memory.max")
        elif "memory" in controllers.split(","):  # version 1, alone or beside version 2
            yield from _limits_above(root / "memory", path, "memory.limit_in_bytes")


def _limits_above(root: Path, path: str, name: str) -> Iterator[float]:
    own = root / path.strip("/")
    for group in (own, *own.parents):
        if not group.is_relative_to(root):
            return
        try:
            limit = (group / name).read_text().strip()
        except OSError:
            continue
        if limit != "max":
            yield float(limit)
