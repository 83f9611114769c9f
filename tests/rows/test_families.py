"""Families of rows that begin alike, beside a search of all groups of rows by brute force."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_hpc.rows import families, prefix_scan
from vllm_hpc.rows.families import Beginning, Placed, in_order, level_tokens, measure
from vllm_hpc.rows.prefix import shared_levels
from vllm_hpc.rows.prefix_scan import PrefixScan
from vllm_hpc.rows.row import Row

pytestmark = pytest.mark.throughput
Groups = dict[bytes, list[Beginning]]
Keys = dict[int, bytes]


def listed(keys: list[list[int]], seed: int = 0) -> tuple[list[Beginning], Keys]:
    """Rows with these checksums, in the input in a random order, sorted by them; and the key of each."""
    chance = random.Random(seed)
    chance.shuffle(keys)
    found, before, by_row = [], 0, {}
    for row, key in enumerate(keys):
        data = b"".join(bytes([0, 0, 0, one]) for one in key)
        tokens = level_tokens(len(key)) + chance.randrange(1, 9)
        found.append(Beginning(0, row, before, tokens, chance.choice((8, 8, 8, 100))))
        before += tokens
        by_row[row] = data
    found.sort(key=lambda one: (by_row[one.row], one.row))
    levels = (shared_levels(by_row[one.row], by_row[after.row]) for one, after in pairwise(found))
    return [one._replace(level=level) for one, level in zip(found, (0, *levels), strict=False)], by_row


def groups(beginnings: list[Beginning], keys: Keys) -> Groups:
    """The rows of each shared beginning, of all lengths."""
    found: Groups = defaultdict(list)
    for one in beginnings:
        for level in range(1, len(keys[one.row]) // 4 + 1):
            found[keys[one.row][: 4 * level]].append(one)
    return {key: rows for key, rows in found.items() if len(rows) > 1}


def own_tokens(key: bytes) -> int:
    """The tokens of a beginning's last level."""
    return level_tokens(len(key) // 4) - level_tokens(len(key) // 4 - 1)


KEYS = st.lists(st.lists(st.integers(1, 3), min_size=0, max_size=7), max_size=60)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILY_ROWS", 4)


@settings(max_examples=60)
@given(KEYS, st.integers(0, 3))
def test_what_is_shared_is_what_a_search_of_all_groups_finds(keys: list[list[int]], seed: int) -> None:
    rows, by_row = listed(keys, seed)
    sharing, _ = measure(rows)
    by_group = groups(rows, by_row)
    assert sharing.total == sum(one.tokens for one in rows)
    assert sharing.shared == sum((len(found) - 1) * own_tokens(key) for key, found in by_group.items())
    for room in (1, 5, 40, 300, 10**6):
        least = most = 0  # distances are known to within a quarter of a doubling
        for key, found in by_group.items():
            for one, after in pairwise(sorted(each.before for each in found)):
                least += own_tokens(key) * (after - one < room / 1.3 - 1)
                most += own_tokens(key) * (after - one <= room * 1.3)
        assert least <= sharing.within(room) <= most


@settings(max_examples=60)
@given(KEYS, st.integers(0, 3), st.sampled_from([2, 4, 16, 1024]))
def test_families_are_the_largest_groups_that_are_small_enough(keys: list[list[int]], seed: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "FAMILY_ROWS", most)
        rows, by_row = listed(keys, seed)
        placed = [one for _, one in sorted(in_order(rows, measure(rows)[1]), key=lambda pair: pair[0])]
    assert sorted(one.row for one in placed) == list(range(len(keys)))
    assert [one.length for one in placed] == sorted((one.length for one in placed), reverse=True)
    found: dict[int, list[int]] = defaultdict(list)
    for one in placed:
        found[one.family].append(one.row)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected(rows, by_row, most)))
    runs = [
        family for at, family in enumerate(one.family for one in placed) if not at or placed[at - 1].family != family
    ]
    assert len(runs) == len(set(runs)), "each family's rows are next to each other"
    assert all(one.tokens >= 1 for one in placed)


def expected(rows: list[Beginning], keys: Keys, most: int) -> Iterator[list[int]]:
    left = {one.row for one in rows}
    for _, group in sorted(groups(rows, keys).items(), key=lambda pair: len(pair[0])):
        members = {one.row for one in group}
        if len(members) <= most and members <= left:
            left -= members
            yield list(members)
    yield from ([row] for row in left)


@pytest.mark.usefixtures("small")
def test_families_of_a_group_that_is_too_large_stay_together() -> None:
    keys = [[9, group, number // 3] for group in (1, 2) for number in range(9)]
    found, keys_of = listed(keys)
    rows = [one._replace(output=8) for one in found]
    placed = [one for _, one in sorted(in_order(rows, measure(rows)[1]), key=lambda pair: pair[0])]
    by_row = {one.row: keys_of[one.row][7] for one in rows}
    around = [by_row[one.row] for one in placed]
    assert around in ([1] * 9 + [2] * 9, [2] * 9 + [1] * 9)


def test_of_a_large_group_the_average_distance_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = listed([[1, 2, 3] for _ in range(50)])
    exact = measure(rows)[0]
    monkeypatch.setattr(families, "_WINDOW", 10)
    rough = measure(rows)[0]
    assert (rough.shared, rough.total) == (exact.shared, exact.total)
    assert rough.within(100) == rough.shared  # each some 20 tokens after the last


def scanned(rows: list[Row], output: int = 8) -> PrefixScan:
    scan = PrefixScan()
    for row in rows:
        scan.add(row, len(row["prompt"]) // 4 + 1, output)
    return scan


def documents(count: int, questions: int, size: int = 2000, head: str = "") -> list[Row]:
    chance = random.Random(3)
    texts = [head + "".join(chance.choices("abcdefgh ", k=size)) for _ in range(count)]
    rows: list[Row] = [
        {"prompt": f"{text} question {number}?", "of": at}
        for at, text in enumerate(texts)
        for number in range(questions)
    ]
    chance.shuffle(rows)
    return rows


@pytest.mark.parametrize("head", ["", "You are helpful. " * 10], ids=["no head", "one head"])
@pytest.mark.parametrize("questions", [2, 8])
def test_documents_of_a_shuffled_file_meet_again(head: str, questions: int) -> None:
    rows = documents(40, questions, head=head)
    scan = scanned(rows)
    assert scan.sharing is not None
    of_documents = 40 * (questions - 1) * (len(head) + 2000) // 4
    assert scan.sharing.shared == pytest.approx(of_documents + 39 * len(head) // 4, rel=0.15)
    order = [rows[one.row]["of"] for one in scan.ordered()]
    assert sum(one != after for one, after in pairwise(order)) == 39
    assert sorted(one.row for one in scan.ordered()) == list(range(len(rows))), "and once more"


def test_rows_that_share_nothing_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scan, "prefix_key", lambda row: pytest.fail("looked at"))
    rows = documents(200, 1)
    scan = scanned(rows)
    assert scan.sharing is not None and scan.sharing.shared == 0 and scan.sharing.total > 90_000
    assert [one.row for one in scan.ordered()] == list(range(200))


@pytest.mark.parametrize(
    ("common", "size", "shared"),
    [(64, 2000, 70), (64, 20_000, 70), (1000, 2000, 1060), (5000, 20_000, 5300), (2000, 2000, 2100)],
)
@pytest.mark.parametrize("kept", [1 << 20, 0], ids=["in memory", "forgotten"])
def test_two_rows_that_share_little(
    monkeypatch: pytest.MonkeyPatch, common: int, size: int, shared: int, kept: int
) -> None:
    """What the first one shares is known while its beginning is in memory, up to 1 KiB."""
    monkeypatch.setattr(prefix_scan, "_MOST_KEPT", kept)
    chance = random.Random(4)
    heads = ["".join(chance.choices("abcdefgh ", k=common)) for _ in range(20)]
    rows: list[Row] = [
        {"prompt": head + "".join(chance.choices("abcdefgh ", k=size - common))} for head in heads for _ in range(2)
    ]
    chance.shuffle(rows)
    scan = scanned(rows)
    assert scan.sharing is not None
    assert sorted(one.row for one in scan.ordered()) == list(range(40)), "each once"
    if kept and common <= prefix_scan._KEPT:
        assert scan.sharing.shared == pytest.approx(20 * shared // 4, rel=0.15)
    else:
        assert scan.sharing.shared == pytest.approx(20 * size // 4, rel=0.15)


def test_beginnings_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scan, "_MOST_KEPT", 10_000)
    rows, scan = documents(50, 2, 3000), PrefixScan()
    for row in rows:
        scan.add(row, 800, 8)
        texts = scan._first._texts.values()
        assert sum(len(text) + prefix_scan._BESIDES for _, text in texts) == scan._first._size <= 10_000
    assert scan.sharing is not None


def test_heads_that_only_meet_in_the_table_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scan, "_HEADS", 2)
    rows = documents(30, 1)
    scan = scanned(rows)
    assert scan.sharing is not None and scan.sharing.shared == 0
    assert sorted(one.row for one in scan.ordered()) == list(range(30))


def test_no_rows_and_one() -> None:
    assert list(PrefixScan().ordered()) == []
    scan = scanned([{"prompt": "a" * 100}])
    assert list(scan.ordered()) == [Placed(0, 26, 8, 0, 2)]


def test_identical_rows_are_one_family() -> None:
    scan = scanned([{"prompt": "a" * 900}] * 1500)
    assert len({one.family for one in scan.ordered()}) >= 2, "at most 1024 rows each"
    assert scan.sharing is not None and scan.sharing.shared > 1499 * 200


def test_another_thread_may_sort() -> None:
    scan, found = scanned(documents(10, 4)), list[Placed]()
    thread = threading.Thread(target=lambda: found.extend(scan.ordered()))
    thread.start()
    thread.join()
    assert len(found) == 40


def full(*_: Any) -> Any:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_full_disk_costs_the_order_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scan, "measure", full)
    assert scanned(documents(10, 4)).sharing is None


def test_a_disk_that_is_full_by_then_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scanned(documents(10, 4))
    assert scan.sharing is not None
    monkeypatch.setattr(prefix_scan, "in_order", full)
    with pytest.raises(OSError, match="no room to sort the rows"):
        list(scan.ordered())


def test_many_heads_are_handed_over_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scan, "_AT_ONCE", 3)
    rows = documents(20, 4, 300)
    order = [rows[one.row]["of"] for one in scanned(rows).ordered()]
    assert sum(one != after for one, after in pairwise(order)) == 19
