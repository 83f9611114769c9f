"""Unpacks gzip, zstandard, bzip2 and xz as a stream: nothing is unpacked on disk, and memory is bounded.

Members and frames that follow each other are read as one (pigz, bgzip, pbzip2, pzstd, ``cat a.gz b.gz``). BZ2File and
LZMAFile take anything else that follows, such as a damaged second member, for the end of the file; here it is refused.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.words import counted

# Stored bytes that are read at once.
CHUNK = 1 << 16
# xz -9 needs 65 MiB; a file may ask for 4 GiB.
_XZ_MEMORY = 256 << 20


class Decompressor(Protocol):
    """What bz2, lzma and compression.zstd have in common; one reads one member or frame."""

    @property
    def eof(self) -> bool:
        """Whether the end of the member was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more can only be unpacked from more input."""

    @property
    def unused_data(self) -> bytes:
        """What was found after the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most that many bytes."""


class Packing(msgspec.Struct, frozen=True):
    """A way to compress a file; ``begin`` makes the decompressor of a member, with the class of its errors."""

    name: str
    suffixes: tuple[str, ...]
    begin: Callable[[], tuple[Decompressor, type[Exception]]]


class _GzipMember:
    """zlib's decompressor in the form of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # Where the limit was reached, more may wait inside zlib, although all input was taken.
        self.needs_input = not self._zlib.unconsumed_tail and len(found) < max_length
        return found


def _zstd() -> Any:
    """Python's zstandard module; imported only for a file that needs it."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def pack_frame(data: bytes) -> bytes:
    """One zstandard frame."""
    packed: bytes = _zstd().compress(data)
    return packed


class UnpackError(ValueError):
    """No frame, or one of too much; says which."""


def unpack_frame(data: bytes, most: int) -> bytes:
    """The content of a frame that ``pack_frame`` made. Raises UnpackError for any other, and for one of more bytes."""
    zstd = _zstd()
    member = zstd.ZstdDecompressor()
    try:
        unpacked: bytes = member.decompress(data, most)
    except zstd.ZstdError as error:
        raise UnpackError(f"its zstandard data is damaged ({error})") from None
    if not member.eof:
        raise UnpackError(f"its zstandard data is cut off, or of more than {most >> 20} MiB")
    return unpacked


GZIP = Packing("gzip", (".gz", ".gzip"), lambda: (_GzipMember(), zlib.error))
ZSTD = Packing("zstandard", (".zst", ".zstd"), lambda: (_zstd().ZstdDecompressor(), _zstd().ZstdError))
BZIP2 = Packing("bzip2", (".bz2",), lambda: (bz2.BZ2Decompressor(), OSError))
XZ = Packing("xz", (".xz",), lambda: (lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), lzma.LZMAError))
PACKINGS = (GZIP, ZSTD, BZIP2, XZ)
_MAGIC = {b"\x1f\x8b": GZIP, b"\x28\xb5\x2f\xfd": ZSTD, b"\xfd7zXZ\0": XZ}
# BZh1 to BZh9, and then a block, or the end: a text may begin with "BZh".
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
# A zstandard file may begin with a frame that is skipped (pzstd writes one): 50 to 5F 2A 4D 18.
_SKIPPED = (0x184D2A50, 0xFFFFFFF0)


def packing_of(head: bytes) -> Packing | None:
    """How a file that begins like this is compressed, None if it is not."""
    for magic, packing in _MAGIC.items():
        if head.startswith(magic):
            return packing
    if _BZIP2.match(head):
        return BZIP2
    begins = int.from_bytes(head[:4], "little")
    return ZSTD if begins & _SKIPPED[1] == _SKIPPED[0] else None


class StoredStream(io.RawIOBase):
    """A file as it is stored. ``position``: bytes of it that were read; ``size``: bytes that were given out."""

    def __init__(self, stored: io.RawIOBase) -> None:
        super().__init__()
        self._stored = stored
        self.position = self.size = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The bytes that were given out, by which a buffer in front knows its own position."""
        return self.size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read at most as many bytes as fit; 0 at the end. Raises InputError, OSError."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        self.size += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._stored.close()
        super().close()

    def _next(self, most: int) -> bytes:
        return self._read(most)

    def _read(self, most: int) -> bytes:
        data = self._stored.read(most) or b""
        self.position += len(data)
        return data


class UnpackedStream(StoredStream):
    """The same of a compressed file, unpacked. ``name`` is the file's, for errors."""

    def __init__(self, stored: io.RawIOBase, packing: Packing, name: str) -> None:
        super().__init__(stored)
        self._packing, self._name = packing, name
        self._member, self._error = packing.begin()
        self._rest = b""
        self._members = self._lines = 0
        self._has_begun = False

    def _next(self, most: int) -> bytes:
        while True:
            if self._member.eof and not self._begin_next():
                return b""
            data = self._unpack(self._input(), most)
            if data:
                self._lines += data.count(b"\n")
                return data

    def _begin_next(self) -> bool:
        """Begin another member; False at the end of the file, which may be padded with zeros."""
        self._rest = self._member.unused_data.lstrip(b"\0")
        while not self._rest:
            block = self._read(CHUNK)
            if not block:
                return False
            self._rest = block.lstrip(b"\0")
        self._members += 1
        self._has_begun = False
        self._member, self._error = self._packing.begin()
        return True

    def _input(self) -> bytes:
        data, self._rest = self._rest, b""
        if data or not self._member.needs_input:
            return data
        data = self._read(CHUNK)
        if not data:
            raise InputError(f"{self._name}: {self._where('is cut off')}: copy the file again")
        return data

    def _unpack(self, data: bytes, most: int) -> bytes:
        try:
            found = self._member.decompress(data, most)
        except self._error as error:
            raise self._explained(str(error)) from None
        self._has_begun = self._has_begun or bool(found)
        return found

    def _explained(self, error: str) -> InputError:
        name = self._packing.name
        if "memory" in error.lower():  # a window or dictionary of hundreds of MiB
            by_hand = f"unpack it with '{_BY_HAND.get(name, name)}', also into a pipe to --input -"
            return InputError(f"{self._name}: unpacking it needs too much memory: {by_hand}")
        if self._members and not self._has_begun:
            return InputError(
                f"{self._name}: {self._where('is followed by something else')}: remove it, or copy the file again"
            )
        return InputError(f"{self._name}: {self._where('is damaged')} ({error}): copy the file again")

    def _where(self, what: str) -> str:
        return f"its {self._packing.name} data {what} after {counted(self._lines, 'complete line')}"


# What unpacks a file with a large window or dictionary.
_BY_HAND = {ZSTD.name: "zstd -dc --long=31", XZ.name: "xz -dc"}
