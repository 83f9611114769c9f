"""How several, compressed and large inputs are stored: read by place, block by block, never other than checked."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from vllm_hpc.jobfolder import input as job_input
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader, check_size, check_unchanged, iter_rows, read_index
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.rows import blocks
from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

LIMIT = 5_000  # bytes over which an input is not copied as it is


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path / "job")
    folder.create()
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 7)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)


def lines(first: int, count: int) -> bytes:
    rows = [{"prompt": f"é {n} " * (1 + n * 7 % 40), "id": f"row-{n}"} for n in range(first, first + count)]
    text = "".join(json.dumps(row, ensure_ascii=False) + ("\r\n\n" if row["id"][-1] == "3" else "\n") for row in rows)
    return text.encode()


def shards(folder: Path) -> str:
    """A pattern for six files: the second and the last have no row; one has no newline at its end, one a BOM."""
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(0, 30))
    (folder / "b.jsonl").write_bytes(b"\n" * 20)
    (folder / "c.jsonl").write_bytes(lines(30, 1).rstrip())
    (folder / "d.txt").write_text("plain\n" * 9)
    (folder / "e.jsonl").write_bytes(lines(40, 25))
    (folder / "f.jsonl").write_bytes(b"")
    return f"{folder}/*"


def store(given: str | list[str], job: JobFolder, over: int = LIMIT) -> list[Row]:
    """Put an input into a job; returns the rows that were checked."""
    intake = Intake(given, over)
    rows = list(intake.rows())
    assert intake.store(job) == len(rows)
    return rows


def check_reading(job: JobFolder, expected: list[Row]) -> None:
    assert list(iter_rows(job)) == expected
    reader, dice = InputReader(job), random.Random(1)
    for _ in range(200):
        first, count = dice.randrange(len(expected) + 3), dice.randrange(1, 20)
        assert reader.rows(first, count) == expected[first : first + count]
    check_size(job)
    check_unchanged(job)


# -- several files that are referenced -------------------------------------------------------------------------------
def test_several_large_files_are_referenced(tmp_path: Path, job: JobFolder) -> None:
    given = shards(tmp_path / "in")
    expected = store(given, job)
    assert expected == list(read_rows(given))
    check_reading(job, expected)
    assert sorted(path.name for path in job.path.iterdir() if path.is_file()) == ["input.ids", "input.json"]
    found = json.loads(job.input_json.read_bytes())
    assert [(Path(file["path"]).name, file["row"], file["format"]) for file in found["files"]] == [
        ("a.jsonl", 0, "jsonl"), ("b.jsonl", 30, "jsonl"), ("c.jsonl", 30, "jsonl"), ("d.txt", 31, "txt"),
        ("e.jsonl", 40, "jsonl"), ("f.jsonl", 65, "jsonl"),
    ]  # fmt: skip
    assert all(Path(file["path"]).stat().st_size == file["size"] for file in found["files"])
    assert set(found) == {"files", "rows", "ids"}
    assert [job.path / part.path for part in read_index(job).parts] == sorted((tmp_path / "in").iterdir())


def test_small_ones_are_copied_together(tmp_path: Path, job: JobFolder) -> None:
    expected = store(shards(tmp_path / "in"), job, over=1 << 30)
    check_reading(job, expected)
    assert (read_index(job).path, read_index(job).files) == ("input.jsonl", ())


def test_one_file_has_the_form_of_before(tmp_path: Path, job: JobFolder) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(0, 60))
    check_reading(job, store(str(tmp_path / "in.jsonl"), job))
    assert set(json.loads(job.input_json.read_bytes())) == {"path", "size", "rows", "format", "blocks", "ids"}


def test_an_index_of_one_path_is_still_read(tmp_path: Path, job: JobFolder) -> None:
    """As vllm-hpc 0.1 wrote it (tests/recorded has whole jobs)."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    block = {"row": 0, "offset": 0, "line": 1, "digest": blocks.digest_of((tmp_path / "in.jsonl").read_bytes())}
    index = {"path": str(tmp_path / "in.jsonl"), "size": 33, "rows": 2, "format": "jsonl", "blocks": [block]}
    job.input_json.write_text(json.dumps(index))
    assert [row["prompt"] for row in iter_rows(job)] == ["a", "b"]
    check_unchanged(job)


def edit(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"row-45", b"row-54"))


def grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


@pytest.mark.parametrize("change", [edit, grow, Path.unlink], ids=lambda change: change.__name__)
def test_a_file_of_several_that_changed_is_named(
    tmp_path: Path, job: JobFolder, change: Callable[[Path], None]
) -> None:
    expected = store(shards(tmp_path / "in"), job)
    change(tmp_path / "in" / "e.jsonl")
    with pytest.raises(InputError, match=r"in/e\.jsonl.*restore it, or submit a new job$"):
        check_unchanged(job)
    reader = InputReader(job)
    assert reader.rows(0, 40) == expected[:40], "the other files are read"
    if change is edit:
        check_size(job)
        with pytest.raises(InputError, match=r"in/e\.jsonl: line \d+ to \d+: changed since the job was submitted"):
            reader.rows(45, 1)
    else:
        with pytest.raises(InputError, match=r"in/e\.jsonl"):
            check_size(job)


# -- what is stored in frames ----------------------------------------------------------------------------------------
def packed(folder: Path, pack: Callable[[bytes], bytes]) -> list[str]:
    folder.mkdir()
    for number, name in enumerate("abc"):
        (folder / f"{name}.jsonl.x").write_bytes(pack(lines(number * 30, 30)))
        (folder / f"{name}.jsonl.x").rename(folder / f"{name}.jsonl")
    return [str(folder / f"{name}.jsonl") for name in "abc"]


def a_table(folder: Path) -> list[str]:
    folder.mkdir()
    text = "".join(f'"prompt ""{n}"" {"x" * (n % 50)}",{n}\n' for n in range(200))
    (folder / "in.csv").write_text("prompt,tag\n" + text)
    return [str(folder / "in.csv")]


def a_parquet(folder: Path) -> list[str]:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    table = pyarrow.table({"prompt": [f"prompt {n} {'x' * (n % 50)}" for n in range(200)]})
    pyarrow.parquet.write_table(table, folder / "in.parquet", compression="zstd")
    return [str(folder / "in.parquet")]


def lines_beside_a_table(folder: Path) -> list[str]:
    (folder.parent / "in.jsonl").write_bytes(lines(0, 60))
    return [str(folder.parent / "in.jsonl"), *a_table(folder)]


STORED: dict[str, Callable[[Path], list[str]]] = {
    "gzip": lambda folder: packed(folder, gzip.compress),
    "zstandard": lambda folder: packed(folder, zstd.compress),
    "bzip2": lambda folder: packed(folder, bz2.compress),
    "csv": a_table,
    "parquet": a_parquet,
    "lines beside a csv": lines_beside_a_table,
}


@pytest.mark.parametrize("name", STORED)
def test_what_cannot_be_read_in_place_is_stored_in_frames(tmp_path: Path, job: JobFolder, name: str) -> None:
    given = STORED[name](tmp_path / "in")
    expected = store(given, job)
    assert expected == list(read_rows(given))
    for path in given:
        Path(path).unlink()  # not needed any more
    check_reading(job, expected)
    index = read_index(job)
    assert (index.path, index.format, index.compression, index.files) == ("input.jsonl.zst", "rows", "zstd", ())
    assert not job.input.exists()
    assert index.size == job.input_zst.stat().st_size < len(json.dumps(expected)) / 2
    with zstd.open(job.input_zst) as stream:  # any zstandard reads it as a whole
        assert [json.loads(line) for line in stream] == expected


@pytest.mark.parametrize("name", STORED)
def test_up_to_the_limit_it_is_a_plain_copy(tmp_path: Path, job: JobFolder, name: str) -> None:
    expected = store(STORED[name](tmp_path / "in"), job, over=1 << 30)
    check_reading(job, expected)
    assert (read_index(job).path, read_index(job).compression) == ("input.jsonl", "")
    assert [json.loads(line) for line in job.input.read_text().splitlines()] == expected
    assert not job.input_zst.exists()


def test_the_limit_counts_unpacked_bytes(tmp_path: Path, job: JobFolder) -> None:
    content = lines(0, 30)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(content))
    assert (tmp_path / "in.jsonl.gz").stat().st_size < len(content) / 2
    store(str(tmp_path / "in.jsonl.gz"), job, over=len(content))
    assert read_index(job).path == "input.jsonl"
    store(str(tmp_path / "in.jsonl.gz"), job, over=len(content) - 1)
    assert read_index(job).path == "input.jsonl.zst"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize("change", [flip, cut, Path.unlink], ids=lambda change: change.__name__)
def test_frames_that_changed_are_refused(tmp_path: Path, job: JobFolder, change: Callable[[Path], None]) -> None:
    expected = store(STORED["gzip"](tmp_path / "in"), job)
    change(job.input_zst)
    with pytest.raises(InputError, match=r"input\.jsonl\.zst.*: restore it, or submit a new job$"):
        check_unchanged(job)
    with pytest.raises(InputError, match=r"input\.jsonl\.zst"):
        list(iter_rows(job))
    if change is not Path.unlink:
        assert InputReader(job).rows(0, 5) == expected[:5]


def test_standard_input_is_stored(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines(0, 60))))
    expected = store("-", job)
    check_reading(job, expected)
    assert read_index(job).path == "input.jsonl.zst"


# -- only what is needed is read -------------------------------------------------------------------------------------
class Counted:
    """What is read of any file of the input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[str, int]] = []
        read = job_input._Stored.read

        def counting(stored: job_input._Stored) -> bytes:
            data = read(stored)
            self.reads.append((stored.file.name, len(data)))
            return data

        monkeypatch.setattr(job_input._Stored, "read", counting)


@pytest.mark.parametrize("over", [LIMIT, 1 << 30])
@pytest.mark.parametrize("name", ["shards", *STORED])
def test_a_claim_from_the_middle_reads_its_blocks_alone(
    tmp_path: Path, job: JobFolder, monkeypatch: pytest.MonkeyPatch, name: str, over: int
) -> None:
    given: str | list[str] = shards(tmp_path / "in") if name == "shards" else STORED[name](tmp_path / "in")
    expected = store(given, job, over)
    files = [job.path / part.path for part in read_index(job).parts]
    sizes = {file.name: file.stat().st_size for file in files}
    counted, middle = Counted(monkeypatch), len(expected) - 20
    reader = InputReader(job)
    assert reader.rows(middle, 3) == expected[middle : middle + 3]
    assert 1 <= len(counted.reads) <= 2
    assert all(size <= max(2200, 0.3 * sizes[file]) for file, size in counted.reads)
    assert len({file for file, _ in counted.reads}) == 1
    counted.reads.clear()
    for row in range(middle + 3, len(expected)):
        assert reader.rows(row, 1) == [expected[row]]
    assert len(counted.reads) <= 8, "the last block is kept"


def test_a_resume_of_the_last_row_opens_one_file(
    tmp_path: Path, job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = store(shards(tmp_path / "in"), job)
    opened: list[str] = []

    def opening(path: Path) -> Any:
        opened.append(path.name)
        return path.open("rb")

    monkeypatch.setattr("vllm_hpc.jobfolder.input.open_regular", opening)
    assert InputReader(job).rows(64, 1) == expected[64:]
    assert opened == ["e.jsonl"]


# -- changed between the check and the submission --------------------------------------------------------------------
@pytest.mark.parametrize("name", ["shards", "gzip", "csv"])
def test_what_changed_since_it_was_checked_is_checked_again(tmp_path: Path, job: JobFolder, name: str) -> None:
    given: str | list[str] = shards(tmp_path / "in") if name == "shards" else STORED[name](tmp_path / "in")
    intake = Intake(given, LIMIT)
    before = list(intake.rows())
    changed = tmp_path / "in" / {"shards": "e.jsonl", "gzip": "b.jsonl", "csv": "in.csv"}[name]
    changed.write_bytes(b"prompt\none\ntwo\n" if name == "csv" else b'{"prompt": "one"}\n{"prompt": "two"}\n')
    rows = intake.store(job)
    assert rows != len(before)
    assert list(iter_rows(job)) == list(read_rows(given))
    changed.write_bytes(b"{\n")
    with pytest.raises(InputError, match=f"{changed.name}:1: "):
        intake.store(job)


def test_a_file_that_is_new_in_a_folder_is_not_taken_unchecked(tmp_path: Path, job: JobFolder) -> None:
    intake = Intake(shards(tmp_path / "in"), 1 << 30)
    expected = list(intake.rows())
    (tmp_path / "in" / "aa.jsonl").write_text('{"prompt": 3}\n')
    assert intake.store(job) == len(expected)
    assert list(iter_rows(job)) == expected
