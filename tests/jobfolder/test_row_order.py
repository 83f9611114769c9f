"""The stored order of rows: chunks at the borders of families, parts of replicas, files that were damaged, the copy."""

from __future__ import annotations

import json
import random
import shutil
from array import array
from collections import deque
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import crafted
from vllm_hpc.jobfolder import sorted_copy
from vllm_hpc.jobfolder.chunks import EvenChunks, OrderedChunks, chunk_size
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.row_order import ChunkSize, OrderedInput, RowOrder, places_of, read_order, store_order
from vllm_hpc.jobfolder.sorted_copy import has_room, write_sorted
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.rows.families import Placed
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.throughput
ROWS = 40


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """A job of ten documents, four rows each, shuffled, in the order by prefix."""
    return crafted.ordered_job(tmp_path / "job")


def placed(sizes: list[int], lengths: list[int] | None = None) -> list[Placed]:
    """Families of these sizes, by falling lengths."""
    falling = sorted(lengths or [1] * len(sizes), reverse=True)
    found: list[Placed] = []
    for family, (size, length) in enumerate(zip(sizes, falling, strict=True)):
        found += [
            Placed(len(found) + number, 10 * (number == 0) + 1, 4**length, family, length) for number in range(size)
        ]
    return found


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@settings(max_examples=60)
@given(SIZES, st.integers(1, 20), st.integers(0, 20), st.data())
def test_chunks_hold_families_whole(sizes: list[int], least: int, more: int, data: st.DataObject) -> None:
    rows = placed(sizes, data.draw(st.lists(st.integers(1, 4), min_size=len(sizes), max_size=len(sizes))))
    order, places = stored(rows, ChunkSize(least, least + more))
    chunks = OrderedChunks(order, places)
    each = [list(chunks.rows(number)) for number in range(chunks.count)]
    assert [row for chunk in each for row in chunk] == [one.row for one in rows]
    assert all(0 < len(chunk) <= least + more for chunk in each) and chunks.size == max(map(len, each))
    in_chunks = {
        family: {number for number, chunk in enumerate(each) for row in chunk if rows[row].family == family}
        for family in range(len(sizes))
    }
    assert all(len(found) == 1 for family, found in in_chunks.items() if sizes[family] <= least)
    section_ends = {number for number in range(chunks.count) if number + 1 in (*order.sections, chunks.count)}
    for number, chunk in enumerate(each):
        assert len({rows[row].length for row in chunk}) == 1, "outputs of a chunk are about as long"
        following = sizes[rows[each[number + 1][0]].family] if number + 1 < chunks.count else 0
        assert number in section_ends or len(chunk) >= least or len(chunk) + following > least + more
    assert list(order.weights) == [sum(rows[row].tokens + 3 * rows[row].output for row in chunk) for chunk in each]


def stored(rows: list[Placed], size: ChunkSize) -> tuple[RowOrder, array[int]]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = JobFolder(Path(name) / "job")
        folder.create()
        store_order(folder, rows, size)
        return read_order(folder, len(rows))


@settings(max_examples=60)
@given(SIZES, st.integers(1, 12), st.data())
def test_parts_cover_every_chunk_once_and_are_balanced(sizes: list[int], replicas: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    order, places = stored(placed(sizes, lengths), ChunkSize(3, 8))
    chunks = OrderedChunks(order, places)
    parts = [list(chunks.part(replica, replicas)) for replica in range(replicas)]
    assert sorted(chunk for part in parts for chunk in part) == list(range(chunks.count))
    assert all(part == sorted(part) for part in parts), "sections of long outputs first"
    weights = [sum(order.weights[chunk] for chunk in part) for part in parts]
    assert max(weights) - min(weights) <= 2 * len(order.sections) * max(order.weights)


def test_sections_of_a_chunk_each_are_dealt_out() -> None:
    order, places = stored(placed([3] * 8, [8, 7, 6, 5, 4, 3, 2, 1]), ChunkSize(3, 8))
    parts = [list(OrderedChunks(order, places).part(replica, 4)) for replica in range(4)]
    assert sorted(map(len, parts)) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("rows", "replicas", "is_array"),
    [(1, 1, False), (10, 64, True), (10**6, 8, False), (10**6, 8, True), (3, 64, False)],
)
def test_chunks_of_an_order_are_as_many_as_those_of_an_input(rows: int, replicas: int, is_array: bool) -> None:
    size = chunk_size(rows, replicas, is_array)
    assert 1 <= size.least <= size.most <= max(1024, 2 * size.least)
    assert EvenChunks.of(rows, replicas, is_array).size == size.least


def test_the_order_is_read_as_it_was_stored(job: JobFolder) -> None:
    _, rows = read_order(job, ROWS)
    assert sorted(rows) == list(range(ROWS))
    places = places_of(rows)
    reader = OrderedInput(job, places)
    assert [rows[place] for place in places] == list(range(ROWS))
    given = crafted.read_lines(job.input)
    assert reader.rows(0, 100) == given
    assert [reader.rows(row, 1)[0] for row in rows] == crafted.read_lines(job.sorted)
    assert [key for key, _ in groupby(row["prompt"][0] for row in crafted.read_lines(job.sorted))].__len__() == 10
    assert reader.rows(ROWS, 1) == []


def change(**fields: Any) -> Any:
    def done(job: JobFolder) -> None:
        job.order.write_text(json.dumps({**json.loads(job.order.read_text()), **fields}))

    return done


def rewrite(name: str, make: Any) -> Any:
    def done(job: JobFolder) -> None:
        file = job.path / name
        file.write_bytes(make(file.read_bytes()))

    return done


DAMAGE = {
    "cut": rewrite("order.rows", lambda data: data[:-4]),
    "a byte more": rewrite("order.rows", lambda data: data + b"\0"),
    "other rows": rewrite("order.rows", lambda data: data[4:] + data[:4]),
    "zeros": rewrite("order.rows", lambda data: bytes(len(data))),
    "empty": rewrite("order.rows", lambda data: b""),
    "json cut": rewrite("order.json", lambda data: data[:-9]),
    "json empty": rewrite("order.json", lambda data: b""),
    "json of zeros": rewrite("order.json", lambda data: bytes(40)),
    "json a list": rewrite("order.json", lambda data: b"[]"),
    "json nested": rewrite("order.json", lambda data: b"[" * 100_000),
    "other count": change(rows=ROWS + 1),
    "negative count": change(rows=-1),
    "huge count": change(rows=1 << 70),
    "other digest": change(digest="00"),
    "no chunks": change(starts=[], weights=[], sections=[]),
    "falling starts": change(starts=[0, 9, 3], weights=[1, 1, 1]),
    "starts beyond": change(starts=[0, 99], weights=[1, 1]),
    "fewer weights": change(weights=[1]),
    "negative weights": lambda job: change(weights=[-1] * len(json.loads(job.order.read_text())["starts"]))(job),
    "sections beyond": change(sections=[0, 99]),
    "starts of text": change(starts=["a"]),
    "no file of rows": lambda job: job.order_rows.unlink(),
    "no order": lambda job: job.order.unlink(),
    "a folder": lambda job: (job.order_rows.unlink(), job.order_rows.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_order_is_told_in_one_line(job: JobFolder, damage: str) -> None:
    DAMAGE[damage](job)
    with pytest.raises(InputError) as error:
        read_order(job, ROWS)
    assert str(job.path / "order.") in str(error.value) and "\n" not in str(error.value)
    assert "restore it, or submit a new job" in str(error.value)


COPY_DAMAGE = {
    "cut": rewrite("input.sorted.jsonl", lambda data: data[:-40]),
    "a letter": rewrite("input.sorted.jsonl", lambda data: data.replace(b"9: 9", b"9: 8", 1)),
    "gone": lambda job: job.sorted.unlink(),
    "no index": lambda job: job.sorted_json.unlink(),
    "index cut": rewrite("input.sorted.json", lambda data: data[:-9]),
}


@pytest.mark.parametrize("damage", COPY_DAMAGE)
def test_a_damaged_copy_is_told_in_one_line(job: JobFolder, damage: str) -> None:
    _, rows = read_order(job, ROWS)
    COPY_DAMAGE[damage](job)
    with pytest.raises(InputError) as error:
        OrderedInput(job, places_of(rows)).rows(0, ROWS)
    assert "input.sorted.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("parts", [1, 2, 7, 256])
@pytest.mark.parametrize("over", [None, "0"], ids=["copied", "referenced"])
def test_the_copy_has_the_rows_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, over: str | None
) -> None:
    """Of several files, of which one is compressed, too: what is referenced or packed is packed in the copy."""
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, file in enumerate(files):
        crafted.write_lines(
            file, [{"id": f"{number}-{row}", "prompt": f"{row} ü" * (row % 9 + 1)} for row in range(300)]
        )
    if over is not None:
        monkeypatch.setenv("VLLM_HPC_REFERENCE_OVER", over)
    folder = JobFolder(tmp_path / "job")
    folder.create()
    intake = Intake([str(file) for file in files])
    assert sum(1 for _ in intake.rows()) == intake.store(folder) == 600
    monkeypatch.setattr(sorted_copy, "_PART_BYTES", max(1, sum(file.stat().st_size for file in files) // parts))
    rows = array("I", random.Random(2).sample(range(600), 600))
    write_sorted(folder, rows)
    assert folder.sorted_zst.exists() == (over is not None)
    found = OrderedInput(folder, places_of(rows)).rows(0, 600)
    assert [row["id"] for row in found] == [f"{number}-{row}" for number in (0, 1) for row in range(300)]
    assert [row["index"] for row in found] == list(range(600))
    assert not [file.name for file in folder.path.iterdir() if file.name.startswith(".")], "no part is left"


@pytest.mark.parametrize("lengths", ["alike", "the last rows long", "one row long"])
@pytest.mark.parametrize("most", [2, 5, 256])
def test_rows_are_sorted_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: str, most: int
) -> None:
    """Whatever the size of the input's files says: rows are as long as a template has made them."""
    long = {"alike": range(300), "the last rows long": range(250, 300), "one row long": [7]}
    rows: list[Row] = [{"prompt": f"{row} " * (400 if row in long[lengths] else 2)} for row in range(300)]
    job = crafted.make_job(tmp_path / "job", rows)
    most_held = 0
    monkeypatch.setattr(sorted_copy, "_PART_BYTES", 4000)
    monkeypatch.setattr(sorted_copy, "_MOST_PARTS", most)

    class Held(deque[tuple[int, bytes]]):
        def append(self, pair: tuple[int, bytes]) -> None:
            nonlocal most_held
            super().append(pair)
            most_held = max(most_held, sum(len(line) for _, line in self))

    monkeypatch.setattr(sorted_copy, "deque", Held)
    places = array("I", random.Random(3).sample(range(300), 300))
    write_sorted(job, places)
    assert [row["index"] for row in crafted.read_lines(job.sorted)] == list(places)
    assert most_held <= 4000 + max(len(line) for line in job.sorted.read_bytes().splitlines(keepends=True))
    assert not [file.name for file in job.path.iterdir() if file.name.startswith(".")], "no part is left"


def test_a_copy_that_finds_no_room_leaves_nothing(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (job.sorted, job.sorted_json):
        file.unlink()
    _, rows = read_order(job, ROWS)
    monkeypatch.setattr(sorted_copy, "_PART_BYTES", 100)
    monkeypatch.setattr(sorted_copy._Part, "pairs", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
    before = sorted(job.path.rglob("*"))
    with pytest.raises(OSError, match="No space left"):
        write_sorted(job, rows)
    assert sorted(job.path.rglob("*")) == before


def test_room_is_looked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert has_room(tmp_path / "not" / "there", free // 4)
    assert not has_room(tmp_path / "not" / "there", free)
