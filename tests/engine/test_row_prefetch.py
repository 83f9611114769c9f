"""Rows that are read ahead: in the order they were asked for, each error in its place, none waited for in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from vllm_hpc.engine.loop.row_prefetch import Feed
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.timeout(60)


def make(row: Row) -> Any:
    if "bad" in row:
        raise ValueError(f"row {row['index']} has no prompt")
    return row["index"]


def take(feed: Feed, count: int) -> list[Any]:
    return [feed.take() for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return crafted.make_job(
        tmp_path / "job", [{"prompt": "x" * 100, **({"bad": 1} if n == 3 else {})} for n in range(50)]
    )


@pytest.fixture
def feed(folder: JobFolder) -> Iterator[Feed]:
    made = Feed(InputReader(folder), make, 8)
    yield made
    made.close()


def test_rows_come_in_the_order_they_were_asked_for(feed: Feed) -> None:
    feed.put(range(10, 12))
    feed.put([40, 5, 6, 20])  # a trial of an array's rows: not rising, and far apart
    feed.put([])
    assert feed.backlog == 6
    assert take(feed, 6) == [10, 11, 40, 5, 6, 20]
    assert feed.backlog == 0


def test_what_is_wrong_with_a_row_comes_in_its_place(feed: Feed) -> None:
    feed.put(range(2, 5))
    before, (row, error), after = take(feed, 3)
    assert (before, row["index"], str(error), after) == (2, 3, "row 3 has no prompt", 4)


def test_a_sparse_trial_reads_no_more_than_its_rows(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last row of a large input must not bring all that lies between into memory."""
    asked: list[int] = []
    reader = InputReader(folder)
    rows = reader.rows

    def watched(first: int, count: int) -> list[Row]:
        asked.append(count)
        return rows(first, count)

    monkeypatch.setattr(reader, "rows", watched)
    feed = Feed(reader, make, 8)
    feed.put([0, 49])
    assert take(feed, 2) == [0, 49]
    assert sum(asked) == 2
    feed.close()


def test_no_more_rows_are_ready_than_are_asked_for(folder: JobFolder) -> None:
    """A chunk of a large array's input has a million rows."""
    made: list[int] = []
    enough = threading.Event()

    def noted(row: Row) -> Any:
        made.append(row["index"])
        if len(made) >= 8:
            enough.set()
        return row["index"]

    feed = Feed(InputReader(folder), noted, 8)
    feed.put(range(50))
    assert enough.wait(30)
    assert take(feed, 3) == [0, 1, 2]
    assert len(made) <= 8 + 3
    assert take(feed, 47) == list(range(3, 50))
    feed.close()


def test_an_input_that_ends_too_early_is_an_error_and_no_hang(feed: Feed) -> None:
    feed.put([48, 49, 50])
    assert take(feed, 2) == [48, 49]
    with pytest.raises(InputError, match="the input has no row 50: was it cut short"):
        feed.take()


def test_an_input_cut_short_under_the_reader_is_an_error(folder: JobFolder, feed: Feed) -> None:
    folder.input.write_bytes(folder.input.read_bytes()[:500])
    feed.put(range(50))
    with pytest.raises(InputError, match="changed since the job was submitted"):
        feed.take()


def test_a_closed_feed_leaves_no_thread(folder: JobFolder) -> None:
    before = set(threading.enumerate())
    feed = Feed(InputReader(folder), make, 8)
    (thread,) = set(threading.enumerate()) - before
    feed.put(range(50))
    assert take(feed, 1) == [0]
    feed.close()
    thread.join(30)
    assert not thread.is_alive()
