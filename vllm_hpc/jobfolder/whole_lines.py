"""The lines of a file to which a rank appends: only whole ones, many at a time."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from vllm_hpc.spec.read_file import UnfitFileError, open_in_folder

# Bytes of lines read at a time: small enough that they and the decoded values stay in the CPU's cache.
_READ = 1 << 17
# Reads that a line may take. A row of the input has at most 128 MiB; a file with a hole may be longer than any disk.
_MOST_READS = (1 << 29) // _READ
# What decoding a line may raise.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def whole_lines(shard: Path, offset: int = 0) -> Iterator[list[bytes]]:
    """The complete lines of a shard up to its current end, many at a time, without a torn last line.

    Raises UnfitFileError for a line that is longer than any that a rank writes.
    """
    with open_in_folder(shard) as file:
        left = os.fstat(file.fileno()).st_size - offset
        file.seek(offset)
        begun: list[bytes] = []  # the pieces of a line
        while left > 0 and (data := file.read(min(_READ, left))):
            left -= len(data)
            end = data.rfind(b"\n") + 1
            if end:
                yield io.BytesIO(b"".join([*begun, data[:end]])).readlines()
                begun = []
            begun.append(data[end:])
            if len(begun) > _MOST_READS:
                _refuse_line(shard, file.tell() - sum(map(len, begun)))


def _refuse_line(shard: Path, begin: int) -> NoReturn:
    what = f"its line from byte {begin:,} on has more than {(_MOST_READS * _READ) >> 20} MiB"
    raise UnfitFileError(errno.EFBIG, f"{what}, which no rank writes: move the file away", str(shard))


def check_utf8(data: bytes) -> None:
    """Raise UnicodeDecodeError: the decoder does not look into the strings that it passes over."""
    if not data.isascii():
        data.decode()
