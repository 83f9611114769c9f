"""state/samples-<replica>.<k>.jsonl: what a replica did over time. It stays small, and no job ends because of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.records import Sample
from vllm_hpc.spec.write_file import open_append, replacing

# Lines; with more, every second one is dropped, and half as many are written from then on.
_MOST = 2000


class SampleFile:
    """Appends samples. One that cannot be written (a full disk, a lost folder) is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._lines: list[bytes] = []
        self._every_s, self._last = 1.0, float("-inf")
        self._is_torn = False

    def add(self, sample: Sample, is_last: bool) -> None:
        """Write a sample, unless one was written a moment ago: the more there are, the longer is a moment."""
        # A tenth of a second less, or every second sample would come just too early.
        if not is_last and sample.at - self._last < self._every_s - 0.1:
            return
        self._last = sample.at
        line = msgspec.json.encode(sample) + b"\n"
        self._lines.append(line)
        with suppress(OSError):
            if len(self._lines) > _MOST:
                self._thin()
            else:
                self._append(line)

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = open_append(self._path)
        whole = b"\n" + line if self._is_torn else line
        self._is_torn = True
        self._is_torn = os.write(self._file, whole) < len(whole)

    def _thin(self) -> None:
        self._lines = self._lines[::2]
        self._every_s *= 2
        self.close()
        with replacing(self._path, 0o644) as file:
            file.write(b"".join(self._lines))
        self._is_torn = False
