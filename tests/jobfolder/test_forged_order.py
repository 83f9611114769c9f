"""An order of rows, or the copy in it, that somebody has forged: told in one line, and no row runs as another."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.row_order import OrderedInput, places_of, read_order
from vllm_hpc.jobfolder.sorted_copy import restore_sorted, write_sorted
from vllm_hpc.rows.blocks import digest_of
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.throughput
ROWS = 40


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """A job of ten documents, four rows each, shuffled, in the order by prefix."""
    return crafted.ordered_job(tmp_path / "job")


def change(name: str, **fields: Any) -> Any:
    def done(job: JobFolder) -> None:
        file = job.path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return done


def spell(name: str, old: bytes, new: bytes) -> Any:
    def done(job: JobFolder) -> None:
        file = job.path / name
        assert old in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(old, new))

    return done


def forge(make: Any) -> Any:
    """Other rows with the digest that belongs to them, as of somebody who can write in the folder."""

    def done(job: JobFolder) -> None:
        data = make(array("I", job.order_rows.read_bytes())).tobytes()
        job.order_rows.write_bytes(data)
        change("order.json", digest=digest_of(data))(job)

    return done


def link(job: JobFolder) -> None:
    job.order_rows.rename(job.path / "other")
    job.order_rows.symlink_to(job.path / "other")


FORGED: dict[str, Any] = {
    "forged: a row twice": forge(lambda rows: array("I", [rows[1], *rows[1:]])),
    "forged: a row beyond": forge(lambda rows: array("I", [ROWS, *rows[1:]])),
    "forged: a negative row": forge(lambda rows: array("i", [-1, *rows[1:]])),
    "forged: fewer rows": forge(lambda rows: rows[:-1]),
    "forged: more rows": forge(lambda rows: array("I", [*rows, ROWS])),
    "forged: eight bytes each": forge(lambda rows: array("Q", rows)),
    "forged: two bytes each": forge(lambda rows: array("H", rows)),
    "forged: none": forge(lambda rows: array("I")),
    "a link": link,
    "no number": spell("order.json", b'"rows": 40', b'"rows": NaN'),
    "a fraction": spell("order.json", b'"rows": 40', b'"rows": 40.5'),
    "a digest of another kind": change("order.json", digest="d41d8cd98f00b204e9800998ecf8427e"),
    "huge weights": change("order.json", starts=[0, 20], weights=[10**400, 1], sections=[0]),
    "infinite weights": change("order.json", starts=[0, 20], weights=[1 << 200, 1], sections=[0]),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_order_is_told_in_one_line(job: JobFolder, case: str) -> None:
    FORGED[case](job)
    with pytest.raises(InputError) as error:
        read_order(job, ROWS)
    assert str(job.path / "order.") in str(error.value) and "\n" not in str(error.value)
    assert "restore it, or submit a new job" in str(error.value)


def swap(make: Any) -> Any:
    """The sorted copy of another job of as many rows."""

    def done(job: JobFolder) -> None:
        other = make(job)
        for name in ("input.sorted.jsonl", "input.sorted.json"):
            (other.path / name).replace(job.path / name)

    return done


def other_prompts(job: JobFolder) -> JobFolder:
    rows = [{**row, "prompt": row["prompt"] + "!"} for row in crafted.read_lines(job.input)]
    other = crafted.make_job(job.path.with_name("other"), rows)
    write_sorted(other, read_order(job, ROWS)[1])
    return other


def other_order(job: JobFolder) -> JobFolder:
    other = crafted.make_job(job.path.with_name("other"), crafted.read_lines(job.input))
    write_sorted(other, array("I", range(ROWS)))
    return other


def index(**fields: Any) -> Any:
    return change("input.sorted.json", **fields)


BLOCK = {"row": 0, "offset": 0, "line": 1, "digest": "00"}


def forge_copy(make: Any) -> Any:
    """Other lines with the digest that belongs to them."""

    def done(job: JobFolder) -> None:
        data = make(job.sorted.read_bytes())
        job.sorted.write_bytes(data)
        index(size=len(data), blocks=[{**BLOCK, "digest": digest_of(data)}])(job)

    return done


# Whoever resumes sees these, and writes the copy again.
DAMAGED: dict[str, Any] = {
    "of other prompts": swap(other_prompts),
    "in another order": swap(other_order),
    "of no source": index(source=""),
    "packed otherwise": index(compression="lzma"),
    "index of no blocks": index(blocks=[]),
    "index of negative offsets": index(blocks=[{**BLOCK, "offset": -1}]),
    "index of huge offsets": index(blocks=[{**BLOCK, "offset": 1 << 63}]),
    "index of a huge size": index(size=1 << 64),
    "index of negative rows": index(blocks=[{**BLOCK, "row": -40}]),
    "index of rows beyond": index(blocks=[{**BLOCK, "row": 41}]),
    "index of blocks that turn back": index(blocks=[BLOCK, {**BLOCK, "row": 30}, {**BLOCK, "row": 20}]),
    "index of fewer rows": index(rows=3),
    "index of a path with NUL": index(path="a\0b"),
    "index of no path": index(path=""),
    "index with NaN": spell("input.sorted.json", b'"rows": 40', b'"rows": NaN'),
    "a link to a folder": lambda job: (job.sorted.unlink(), job.sorted.symlink_to(job.path)),
    "empty": lambda job: job.sorted.write_bytes(b""),
}
# Only who runs the rows sees these.
FORGED_COPIES: dict[str, Any] = {
    "rows in another order": forge_copy(lambda data: b"".join(reversed(data.splitlines(keepends=True)))),
    "no rows": forge_copy(lambda data: b"[]\n" * ROWS),
    "nested": forge_copy(lambda data: b"[" * 100_000 + b"\n" + b"{}\n" * (ROWS - 1)),
    "a row less": forge_copy(lambda data: data[data.index(b"\n") + 1 :]),
    "not packed": lambda job: (forge_copy(lambda data: data)(job), index(compression="zstd")(job)),
}


@pytest.mark.parametrize("case", [*DAMAGED, *FORGED_COPIES])
def test_a_forged_copy_is_told_in_one_line(job: JobFolder, case: str) -> None:
    places = places_of(read_order(job, ROWS)[1])
    (DAMAGED | FORGED_COPIES)[case](job)
    with pytest.raises(InputError) as error:
        OrderedInput(job, places).rows(0, ROWS)
    assert str(job.path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_copy_is_written_again(job: JobFolder, case: str) -> None:
    before = job.sorted.read_bytes(), job.sorted_json.read_bytes()
    DAMAGED[case](job)
    assert restore_sorted(job) is not None
    assert (job.sorted.read_bytes(), job.sorted_json.read_bytes()) == before and restore_sorted(job) is None


@pytest.mark.parametrize("name", ["input.sorted.jsonl", "input.sorted.json"])
def test_a_folder_in_the_place_of_the_copy_is_told(job: JobFolder, name: str) -> None:
    file = job.path / name
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match=f"cannot write {file}, .*: Is a directory: remove that folder"):
        restore_sorted(job)


def test_an_input_of_other_rows_than_the_order_is_refused(job: JobFolder) -> None:
    other = crafted.make_job(job.path.with_name("other"), ROWS + 1)
    for file in (other.input, other.input_json):
        file.replace(job.path / file.name)
    job.sorted.unlink()
    with pytest.raises(InputError, match=f"says {ROWS} rows, and .* {ROWS + 1}: restore it"):
        restore_sorted(job)
