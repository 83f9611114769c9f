"""Compressed inputs: read as streams, whoever compressed them, and refused in one line where they are not whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from vllm_hpc.rows.find import SUFFIXES
from vllm_hpc.rows.read import find_sources, read_rows
from vllm_hpc.rows.unpack import BZIP2, GZIP, XZ, ZSTD, Packing, UnpackedStream, packing_of
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.words import counted

pytestmark = pytest.mark.inputs

LINES = b"".join(b'{"prompt": "%d %s"}\n' % (n, b"word " * (n % 7)) for n in range(6000))
Pack = Callable[[bytes], bytes]
Breaks = Callable[[bytes, Pack], bytes]


def in_frames(data: bytes) -> bytes:
    """As zstd's seekable format: frames, then a table in a frame that is skipped."""
    parts = [zstd.compress(data[at : at + 20_000]) for at in range(0, len(data), 20_000)]
    table = struct.pack("<II", 0x184D2A5E, 9) + b"\0" * 9
    return b"".join(parts) + table


def as_pzstd(data: bytes) -> bytes:
    """As pzstd: before each frame one that is skipped and has its size (zstd 1.5.4, contrib/pzstd/Pzstd.cpp)."""
    parts = [zstd.compress(data[at : at + 30_000]) for at in range(0, len(data), 30_000)]
    return b"".join(struct.pack("<III", 0x184D2A50, 4, len(part)) + part for part in parts)


def as_bgzip(data: bytes) -> bytes:
    """As htslib's bgzip: members of at most 64 KiB with an extra field, and an empty one at the end (SAM spec, 4.1)."""
    out = []
    for at in [*range(0, len(data), 0xFF00), len(data)]:
        block = data[at : at + 0xFF00]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(block) + packer.flush()
        head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
        out.append(head + body + struct.pack("<II", zlib.crc32(block), len(block)))
    return b"".join(out)


def members(pack: Pack) -> Pack:
    return lambda data: pack(data[:30_001]) + pack(b"") + pack(data[30_001:])


PACKED: dict[str, tuple[Pack, Packing]] = {
    "gzip": (gzip.compress, GZIP),
    "gzip of cat": (members(gzip.compress), GZIP),
    "gzip on a tape": (lambda data: gzip.compress(data) + b"\0" * 30_000, GZIP),
    "bgzip": (as_bgzip, GZIP),
    "bzip2": (bz2.compress, BZIP2),
    "pbzip2": (members(bz2.compress), BZIP2),
    "xz": (lzma.compress, XZ),
    "xz of cat, padded": (lambda data: members(lzma.compress)(data) + b"\0" * 8, XZ),
    "zstd": (zstd.compress, ZSTD),
    "zstd of cat": (members(zstd.compress), ZSTD),
    "zstd, seekable": (in_frames, ZSTD),
    "pzstd": (as_pzstd, ZSTD),
}
PLAIN: dict[Packing, Pack] = {GZIP: gzip.compress, BZIP2: bz2.compress, XZ: lzma.compress, ZSTD: zstd.compress}


def unpack(data: bytes, packing: Packing, buffer: int = 1 << 18) -> bytes:
    return io.BufferedReader(UnpackedStream(io.BytesIO(data), packing, "in"), buffer).read()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PACKED)
def test_what_any_program_packs_is_read(name: str) -> None:
    pack, packing = PACKED[name]
    packed = pack(LINES)
    assert packing_of(packed[:512]) is packing
    assert unpack(packed, packing) == LINES
    assert unpack(pack(LINES[:5000]), packing, buffer=3) == LINES[:5000]


@pytest.mark.parametrize("packing", PLAIN, ids=lambda packing: packing.name)
@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_rows_are_those_of_the_unpacked_file(tmp_path: Path, packing: Packing, suffix: str) -> None:
    text = {
        ".jsonl": b'\xef\xbb\xbf{"prompt": "a"}\r\n\n{"id": "x", "prompt": "b"}',
        ".ndjson": b'{"prompt": "a"}\n',
        ".json": b'[{"prompt": "a"},\n {"prompt": "b", "tag": NaN}]\n',
        ".txt": b"a\n\nb \xe2\x82\xac\n",
        ".csv": b'prompt,id\n"a\nb",x\n',
        ".tsv": b"prompt\tid\na\tx\n",
        ".tab": b"prompt\tid\na\tx\n",
    }
    (tmp_path / f"in{suffix}").write_bytes(text[suffix])
    expected = list(read_rows(str(tmp_path / f"in{suffix}")))
    for end in (*packing.suffixes, packing.suffixes[0].upper(), ""):  # what is packed is also read under a plain name
        file = tmp_path / f"packed{suffix}{end}"
        file.write_bytes(PLAIN[packing](text[suffix]))
        assert list(read_rows(str(file))) == expected


@pytest.mark.parametrize("packing", PLAIN, ids=lambda packing: packing.name)
@pytest.mark.parametrize("most", [7, 4096])
def test_what_was_unpacked_is_given_before_more_is_asked_for(packing: Packing, most: int) -> None:
    """Else the lines before a cut are lost: all input may be taken while the output waits."""
    packed = PLAIN[packing](b"a" * 3_000 + LINES[:9_000])
    for end in (200, 201, 300, len(packed) - 9):
        begun = packed[:end]
        whole = packing.begin()[0].decompress(begun, 1 << 30)
        member, _ = packing.begin()
        found = member.decompress(begun, most)
        while not member.needs_input:
            found += member.decompress(b"", most)
        assert found == whole


def test_a_packed_batch_is_a_batch(tmp_path: Path) -> None:
    line = b'{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "p"}}\n'
    (tmp_path / "in.jsonl.zst").write_bytes(zstd.compress(line))
    (row,) = read_rows(str(tmp_path / "in.jsonl.zst"))
    assert row["batch"]["custom_id"] == "a"


def test_what_was_unpacked_on_its_way_is_read_under_its_old_name(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(b'{"prompt": "a"}\n')
    assert [row["prompt"] for row in read_rows(str(tmp_path / "in.jsonl.gz"))] == ["a"]


def test_a_parquet_file_may_be_named_after_what_it_uses_inside(tmp_path: Path) -> None:
    """As in pandas' documentation: df.to_parquet("df.parquet.gzip", compression="gzip")."""
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    for name in ("df.parquet.gzip", "df.snappy.parquet", "df.zstd.parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"]}), tmp_path / name, compression="gzip")
        assert [row["prompt"] for row in read_rows(str(tmp_path / name))] == ["a"]


def test_texts_that_begin_like_a_packed_file_are_texts(tmp_path: Path) -> None:
    for text in ("BZh9 is a word", "BZhello", "PK is a name", "Rar! it says", "7z"):
        (tmp_path / "in.txt").write_text(text)
        assert [row["prompt"] for row in read_rows(str(tmp_path / "in.txt"))] == [text]


# -- not whole -------------------------------------------------------------------------------------------------------
def cut(data: bytes, _: Pack) -> bytes:
    return data[: len(data) // 2]


def cut_at_its_end(data: bytes, _: Pack) -> bytes:
    return data[:-3]


def cut_in_a_second(data: bytes, pack: Pack) -> bytes:
    return data + pack(LINES)[:40]


def followed(data: bytes, _: Pack) -> bytes:
    return data + b"-----BEGIN SIGNATURE-----"


def damaged(data: bytes, _: Pack) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + 400]) + data[at + 400 :]


CUT: dict[Breaks, str] = {
    cut: "is cut off",
    cut_at_its_end: "is cut off",
    cut_in_a_second: "is cut off",
    followed: "is followed by",
}


@pytest.mark.parametrize("packing", PLAIN, ids=lambda packing: packing.name)
@pytest.mark.parametrize("break_it", [*CUT, damaged], ids=lambda breaks: breaks.__name__)
def test_what_is_not_whole_is_refused_with_what_was_read(tmp_path: Path, packing: Packing, break_it: Breaks) -> None:
    packed = zstd.compress(LINES, options={zstd.CompressionParameter.checksum_flag: 1})  # as zstd itself does
    pack = PLAIN[packing]
    (tmp_path / "in.jsonl").write_bytes(break_it(packed if packing is ZSTD else pack(LINES), pack))
    rows = 0
    with pytest.raises(InputError) as caught:
        for _ in read_rows(str(tmp_path / "in.jsonl")):
            rows += 1
    words = str(caught.value)
    assert words.startswith(f"{tmp_path}/in.jsonl: its {packing.name} data {CUT.get(break_it, 'is damaged')}")
    assert f"after {counted(rows, 'complete line')}" in words
    assert words.endswith("copy the file again")
    assert "\n" not in words


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.jsonl.gz", gzip.compress(gzip.compress(b"a")), "is compressed twice: unpack it once"),
        ("in.jsonl.zst", zstd.compress(lzma.compress(b"a")), "is compressed twice: unpack it once"),
        ("in.jsonl.gz", gzip.compress(b"a" * 257 + b"ustar\0" + b"0" * 300), "is a tar archive: extract it"),
        ("in.tar.gz", gzip.compress(b"a" * 257 + b"ustar  \0" + b"0" * 300), "is a tar archive: extract it"),
        ("in.jsonl", b"a" * 257 + b"ustar\0" + b"0" * 300, "is a tar archive: extract it"),
        ("in.jsonl.gz", gzip.compress(b"PK\x03\x04rest"), "is compressed: unpack it first"),
        ("in.parquet.gz", gzip.compress(b"PAR1"), "unpack the file first"),
        ("in.xlsx.gz", gzip.compress(b"text"), "only .jsonl"),
        ("in.gz", gzip.compress(b'{"prompt": "a"}'), "only .jsonl"),
        ("in.jsonl.xz", b"\0\0\0\0 no xz", "is neither xz nor text: copy the file again"),
        ("in.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "'git lfs pull'"),
        ("in.jsonl.gz", b"", "has no prompt"),
        ("in.jsonl.gz", gzip.compress(b""), "has no prompt"),
        ("in.jsonl.gz", b"\x1f\x8b", "is cut off after 0 complete lines"),
        ("in.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n{"prompt": 3}\n'), "in.jsonl.gz:2: 'prompt' must be"),
    ],
    ids=[str(number) for number in range(15)],  # gzip writes the time, and workers must collect the same names
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_rows(str(tmp_path / name)))
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_window_that_takes_gigabytes_is_refused_with_another_way(tmp_path: Path) -> None:
    """As of zstd --long=31: the frame says how much is to be kept while it is unpacked."""
    frame = struct.pack("<IBB", 0xFD2FB528, 0, (31 - 10) << 3) + struct.pack("<I", (5 << 3) | 1)[:3] + b"hello"
    (tmp_path / "in.jsonl.zst").write_bytes(frame)
    with pytest.raises(InputError, match=r"too much memory: unpack it with 'zstd -dc --long=31', also into a pipe"):
        list(read_rows(str(tmp_path / "in.jsonl.zst")))


# -- bounded ---------------------------------------------------------------------------------------------------------
BOMB = """
import resource, sys
from vllm_hpc.rows.read import find_sources
from vllm_hpc.spec.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = 0
try:
    sources = find_sources(sys.argv[1])
    for _, rows in sources.each():
        for _ in rows:
            read += 1
except InputError as error:
    print(error)
print(read, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def run_bomb(file: Path) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", BOMB, str(file)], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.parametrize("packing", [GZIP, ZSTD], ids=lambda packing: packing.name)
def test_a_bomb_of_lines_takes_no_memory(tmp_path: Path, packing: Packing) -> None:
    """A file of some kilobytes with 100 MB of rows: what is in memory is a buffer, not the file."""
    line = b'{"prompt": "' + b"0" * 1_000_000 + b'"}\n'
    (tmp_path / "in.jsonl").write_bytes(PLAIN[packing](line) * 100)
    (last,) = run_bomb(tmp_path / "in.jsonl")
    rows, mib = map(int, last.split())
    assert rows == 100
    assert mib < 60


def test_a_bomb_without_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.zst").write_bytes(zstd.compress(b"0" * (130 << 20)) * 20)
    words, last = run_bomb(tmp_path / "in.jsonl.zst")
    assert words.endswith("in.jsonl.zst:1: longer than 128 MiB: write one row per line")
    assert int(last.split()[1]) < 3 * 128 + 60


def test_progress_is_that_of_the_stored_bytes(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(LINES * 20, 1))
    sources = find_sources(str(tmp_path / "in.jsonl.gz"))
    shares = [sources.share for _, rows in sources.each() for number, _ in rows if number % 6000 == 0]
    assert shares == sorted(shares)
    assert 0.05 < shares[1] < 0.6
    assert shares[-1] == 1.0
    assert sources.unpacked == len(LINES) * 20


def test_a_large_bomb_is_read_in_pieces() -> None:
    """Peak memory of this process would show a reader that unpacks a member at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream = UnpackedStream(io.BytesIO(gzip.compress(b"\0" * (64 << 20))), GZIP, "in")  # type: ignore[arg-type]
    buffer = memoryview(bytearray(1 << 16))
    while stream.readinto(buffer):
        pass
    assert stream.size == 64 << 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 200 * 1024
