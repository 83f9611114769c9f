"""A file of an input: where it is, how it is compressed, and the stream of its unpacked bytes."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import IO, TextIO

from vllm_hpc.rows.unpack import PACKINGS, Packing, StoredStream, UnpackedStream, packing_of
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.ownership import NotMineError, check_is_meant
from vllm_hpc.spec.read_file import open_regular

STDIN = "-"
# Bytes from which a file's kind is known: a tar archive says so at 257.
_HEAD = 512
_BUFFER = 1 << 18


class InputFile:
    """A file of an input; ``str`` is its name in errors.

    ``suffix`` is that of what is in it, in lower case: ".jsonl" for a.jsonl.gz. ``packing``: how it is compressed, None
    if it is not, according to its content: a download may be unpacked under its old name. ``kind``: one of
    row_maker.KINDS, where it is known without reading. Raises InputError, OSError.
    """

    kind: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.suffix, self.claimed = split_suffix(path)
        with self._open() as stored:
            self._head = stored.read(_HEAD) or b""
        self.packing = packing_of(self._head)
        self._stream: StoredStream | None = None
        self._reader: io.BufferedReader | None = None

    def __str__(self) -> str:
        return str(self.path)

    def place(self, number: int) -> str:
        """The position of the row that begins on line ``number``, from 1, for errors."""
        return f"{self}:{number}"

    @property
    def is_seekable(self) -> bool:
        """Whether the ranks can read it where it is, from any offset."""
        return self.packing is None

    @property
    def stored_size(self) -> int:
        """Bytes on the disk. Raises OSError."""
        return self.state()[2]

    @property
    def share(self) -> float:
        """The share of the stored bytes that were read since it was opened, from 0 to 1."""
        if self._stream is None or self._reader is None:
            return 0.0
        read = self._stream.position
        if self.packing is None and not self._reader.closed:
            read = self._reader.tell()  # not what lies in its buffer: a small file would lie there whole
        return min(1.0, read / max(1, self.stored_size))

    @property
    def unpacked(self) -> int:
        """Unpacked bytes that were read since it was opened."""
        return self._stream.size if self._stream else 0

    def open(self) -> io.BufferedReader:
        """The unpacked bytes, from the beginning. Raises OSError; reading also raises InputError."""
        stored = self._open()
        self._stream = UnpackedStream(stored, self.packing, str(self)) if self.packing else StoredStream(stored)
        self._reader = io.BufferedReader(self._stream, _BUFFER)
        return self._reader

    def head(self) -> bytes:
        """The first unpacked bytes. Raises InputError, OSError."""
        if not self.packing:
            return self._head
        with self.open() as stream:
            return stream.read(_HEAD)

    def state(self) -> tuple[int, ...]:
        """Values that change when it is written to or replaced: device, inode, size, time. Raises OSError."""
        return _state_of(os.stat(self.path))  # noqa: PTH116 - the same as Path.stat, but faster

    def _open(self) -> io.RawIOBase:
        file = open_regular(self.path).detach()
        try:
            check_is_meant(self.path, file.fileno())
        except NotMineError as error:
            file.close()
            raise InputError(f"input {error}") from None
        return file


class SpooledInput(InputFile):
    """Lines of JSON that can be got once, so they are kept in an unnamed temporary file; ``name`` is that in errors."""

    def __init__(self, name: str, spool: IO[bytes]) -> None:
        self._spool = spool
        super().__init__(Path(name))
        self.suffix = ".jsonl"

    @property
    def is_seekable(self) -> bool:
        """No: it is gone when this process ends."""
        return False

    def state(self) -> tuple[int, ...]:
        """Those of the temporary file."""
        return _state_of(os.fstat(self._spool.fileno()))

    def _open(self) -> io.RawIOBase:
        return _FromStart(self._spool.fileno())


class StandardInput(SpooledInput):
    """Standard input."""

    def __init__(self) -> None:
        super().__init__("standard input", _spool(sys.stdin))


class _FromStart(io.RawIOBase):
    """Reads a file from its beginning, whatever else reads it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self._offset = number, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = os.preadv(self._number, [buffer], self._offset)
        self._offset += count
        return count


@lru_cache(maxsize=1)
def _spool(stdin: TextIO | None) -> IO[bytes]:
    """All of standard input in an unnamed temporary file, read once in a process. Raises InputError."""
    source = getattr(stdin, "buffer", None)
    if stdin is None or source is None:
        raise InputError("--input - reads standard input, but there is none: name a file")
    if stdin.isatty():
        raise InputError("--input - reads standard input, which is a terminal: pipe rows into it, or name a file")
    try:
        spool = tempfile.TemporaryFile(prefix="vllm-hpc-stdin-")  # noqa: SIM115 - open until the process ends
        shutil.copyfileobj(source, spool, _BUFFER)
        spool.flush()
    except OSError as error:
        raise InputError(
            f"cannot keep standard input in {tempfile.gettempdir()!r}: {error.strerror}: set TMPDIR to a folder with "
            "room for it, or write it to a file"
        ) from None
    return spool


def split_suffix(path: Path) -> tuple[str, Packing | None]:
    """The suffix of what is in a file, and how its name says that it is compressed: a.jsonl.gz is ".jsonl" in gzip."""
    suffix = path.suffix.lower()
    packing = next((one for one in PACKINGS if suffix in one.suffixes), None)
    return (Path(path.stem).suffix.lower(), packing) if packing else (suffix, None)


def _state_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
