"""Rows of another job, and broken bytes, in a shard: neither is taken for a row of this one, and both are said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, read_lines, result, start, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputIndex, read_index
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Progress
from vllm_hpc.jobfolder.row_ids import IdSums, RowIds
from vllm_hpc.jobfolder.shards import NOT_UTF8, OTHER_ID, finished
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.find import list_statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.spec.errors import CollectError, InputError

pytestmark = pytest.mark.trust


def make(path: Path, ids: list[str | int]) -> JobFolder:
    """A job with these ids, as a submission leaves it."""
    folder = make_job(path, rows=[{"prompt": "a", "id": identity} for identity in ids])
    sums = IdSums()
    for identity in ids:
        sums.add(identity)
    write_json(folder.input_json, msgspec.structs.replace(read_index(folder), ids=sums.store(folder.input_ids)))
    start(folder)
    end(folder)
    return folder


@pytest.mark.timeout(20)
@pytest.mark.parametrize("target", ["", "/dev/zero", "real"], ids=["fifo", "device", "link"])
def test_ids_are_a_file_of_the_folder(tmp_path: Path, target: str) -> None:
    folder = make(tmp_path / "job", ["a", "b"])
    folder.input_ids.rename(folder.path / "real")
    folder.input_ids.symlink_to(target) if target else os.mkfifo(folder.input_ids)
    with pytest.raises(CollectError, match=r"cannot read .*input\.ids: it must be a regular file"):
        collect(folder)


@pytest.mark.parametrize("ids", [["0", "1", "2"], ["a", "é", 7], ["0", "1", "x"]], ids=["numbers", "own", "late"])
def test_row_with_another_id_is_missing(tmp_path: Path, ids: list[str | int]) -> None:
    folder = make(tmp_path / "job", ids)
    lines = [result(0, id=ids[0]), result(1, id=ids[2]), result(2, id=ids[2])]
    write_lines(folder.shard(0, 1), lines)
    assert finished(folder, 3).rows == bytearray([1, 0, 1])
    summary = collect(folder)
    assert summary.rows == {"total": 3, "done": 2, "failed": 0, "missing": 1}
    assert summary.ignored == {OTHER_ID: 1}
    assert [row["id"] for row in read_lines(folder.outputs)] == ids
    write_lines(folder.shard(0, 2), [result(1, id=ids[1])])
    assert collect(folder).rows["missing"] == 0, "a later attempt's is taken"


def test_status_counts_no_row_with_another_id(tmp_path: Path) -> None:
    """Where a killed rank did not count its last rows, those behind its count are looked at."""
    folder = make(tmp_path / "job", ["a", "b", "c", "d", "e"])
    write_lines(folder.shard(0, 1), [result(0, id="a")])
    counted = folder.shard(0, 1).stat().st_size
    write_json(folder.progress(0), Progress(replica=0, attempt=1, done=1, shard_bytes=counted))
    planted = [result(1, id="else"), result(9, id="a"), result(2, id="c")]
    write_lines(folder.shard(0, 1), [result(0, id="a"), *planted])
    assert Job(folder.path).status().rows == Rows(5, done=2)


@pytest.mark.timeout(20)
def test_ids_that_cannot_be_read_do_not_end_a_list(tmp_path: Path) -> None:
    folder = make(tmp_path / "theirs", ["a", "b"])
    write_lines(folder.shard(0, 1), [result(0, id="a")])
    folder.input_ids.unlink()
    os.mkfifo(folder.input_ids)
    (status,) = list_statuses(str(tmp_path))
    assert status.rows == Rows(2)


@pytest.mark.parametrize("identity", [None, 1, 1.0, True, "01", ["1"], {}], ids=str)
def test_id_of_another_type_is_another(tmp_path: Path, identity: Any) -> None:
    folder = make(tmp_path / "job", ["0", "1"])
    write_lines(folder.shard(0, 1), [result(0), result(1, id=identity)])
    assert finished(folder, 2).rows == bytearray([1, 0])


def test_job_of_an_earlier_version_has_no_ids_to_compare(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    assert not RowIds(folder).is_known
    write_lines(folder.shard(0, 1), [result(0, id="else")])
    assert collect(folder).rows["done"] == 1


def test_sums_that_are_gone_are_said(tmp_path: Path) -> None:
    folder = make(tmp_path / "job", ["a", "b"])
    folder.input_ids.write_bytes(b"1234")
    with pytest.raises(InputError, match=r"input\.ids: it must have 8 bytes"):
        finished(folder, 2)
    folder.input_ids.unlink()
    with pytest.raises(CollectError, match=r"cannot read .*input\.ids"):
        collect(folder)


@pytest.mark.parametrize(
    "line",
    [b'{"index":1,"id":"1","text":"caf\xe9"}', b'{"index":1,"id":"\xff"}', b'{"index":1,"id":"1","\xff":1}',
     b'{"index":1,"id":"1","text":"\xed\xa0\x80"}'],
    ids=["text", "id", "key", "half"],
)  # fmt: skip
def test_line_that_is_not_utf8_is_no_row(tmp_path: Path, run_cli: Cli, line: bytes) -> None:
    folder = make(tmp_path / "job", ["0", "1", "2"])
    whole = [json.dumps(result(0, text="é"), ensure_ascii=False).encode(), json.dumps(result(2)).encode()]
    folder.shard(0, 1).write_bytes(b"\n".join([whole[0], line, whole[1], b""]))
    assert finished(folder, 3).rows == bytearray([1, 0, 1])
    found = list(Job(folder.path).results())
    assert [row.get("text") for row in found] == ["é", None, "an answer"]
    done = run_cli("collect", folder.path)
    assert done.code == 1  # its ranks did not say how they ended: FAILED
    assert f"Note: 1 line of the shards is ignored: {NOT_UTF8}\n" in done.err
    assert "Traceback" not in done.err


def test_outputs_that_collect_did_not_write_are_one_line(tmp_path: Path) -> None:
    folder = make(tmp_path / "job", ["0"])
    write_lines(folder.shard(0, 1), [result(0)])
    collect(folder)
    folder.outputs.write_bytes(b'{"index":0,"text":"\xff"}\n')
    with pytest.raises(CollectError, match=r"outputs\.jsonl: line 1 is no row"):
        list(Job(folder.path).results())


@pytest.mark.parametrize("over", [1 << 30, 0], ids=["copied", "referenced"])
@pytest.mark.parametrize("has_ids", [True, False], ids=["ids", "numbers"])
def test_submission_keeps_the_ids(tmp_path: Path, over: int, has_ids: bool) -> None:
    given = tmp_path / "in.jsonl"
    rows = [{"prompt": "a", **({"id": f"é{n}"} if has_ids else {})} for n in range(5)]
    write_lines(given, rows)
    folder = make_job(tmp_path / "job", rows=5)
    Intake(str(given), reference_over=over).store(folder)
    assert folder.input_ids.exists() == has_ids
    ids = RowIds(folder)
    assert [ids.is_of(n, f"é{n}" if has_ids else str(n)) for n in range(5)] == [True] * 5
    assert not ids.is_of(0, "é1" if has_ids else "1")


def test_index_without_ids_is_written_as_before() -> None:
    assert b"ids" not in msgspec.json.encode(InputIndex(rows=1))
