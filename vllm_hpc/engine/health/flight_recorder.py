"""torch's flight recorder: the last collectives of this process's groups, with their numbers and states.

torch has it for NCCL, and since 2.8 for gloo too; TORCH_FR_BUFFER_SIZE (before: TORCH_NCCL_TRACE_BUFFER_SIZE) says how
many it keeps. NCCL's watchdog dumps it into files, as pickles: of those only plain values are read.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from vllm_hpc.jobfolder.debug_records import Recorded
from vllm_hpc.spec.ownership import NotMineError, read_mine

_MOST = 3
_ENTRIES = {"_dump_fr_trace_json": (True, False), "_dump_nccl_trace_json": (True, False)}
# torch's own default (FlightRecorder.hpp).
_FILE = "/tmp/nccl_trace_rank_"


def last_collectives(rank: int) -> tuple[Recorded, ...]:
    """The last ones of this process; or of the file that it has dumped. ``rank`` is torch's."""
    return _recorded(_in_memory()) or _recorded(_in_file(rank))


def _in_memory() -> Iterable[Any]:
    module: Any = sys.modules.get("torch._C._distributed_c10d")
    for name, arguments in _ENTRIES.items():
        with suppress(Exception):  # torch's inner names, which differ between versions
            found = msgspec.json.decode(getattr(module, name)(*arguments))
            if found.get("entries"):
                return list(found["entries"])
    return ()


def _in_file(rank: int) -> Iterable[Any]:
    prefix = os.environ.get("TORCH_FR_DUMP_TEMP_FILE") or os.environ.get("TORCH_NCCL_DEBUG_INFO_TEMP_FILE") or _FILE
    path = Path(f"{prefix}{rank}")
    with suppress(OSError):
        if path.stat().st_mtime >= psutil.Process().create_time():  # else it is an earlier job's
            return read_dump(path)
    return ()


def read_dump(path: Path) -> Iterable[Any]:
    """The entries of a file that torch has dumped; none if it is not this user's, or holds more than plain values."""
    with suppress(OSError, NotMineError):
        content = read_mine(path)
        with suppress(Exception):  # a damaged pickle raises whatever it likes
            found = msgspec.json.decode(content) if content[:1] == b"{" else _Plain(io.BytesIO(content)).load()
            return list(found["entries"])
    return ()


class _Plain(pickle.Unpickler):
    """Reads a pickle of plain values, and imports and calls nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse. Raises UnpicklingError."""
        raise pickle.UnpicklingError(f"it must hold plain values, not {module}.{name}")


def _recorded(entries: Iterable[Any]) -> tuple[Recorded, ...]:
    found = []
    for entry in list(entries)[-_MOST:]:
        if not isinstance(entry, dict):
            continue
        number, group = entry.get("collective_seq_id"), entry.get("process_group")
        found.append(
            Recorded(
                operation=str(entry.get("profiling_name", "")),
                group=str(group[1] or group[0]) if isinstance(group, list | tuple) and len(group) > 1 else "",
                sequence=number if isinstance(number, int) else None,
                state=str(entry.get("state", "")),
            )
        )
    return tuple(found)
