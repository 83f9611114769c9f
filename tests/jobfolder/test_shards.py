"""Shards as they are found: torn, edited, growing, out of order; one scan for resume, status and collect."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.crafted import layout, make_job, read_lines, result, write_lines
from vllm_hpc.cli import print_status
from vllm_hpc.jobfolder import shard_lines as lines_module
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputIndex
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.shard_lines import LineReader
from vllm_hpc.jobfolder.shards import Scan, finished
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.job import Job
from vllm_hpc.spec.errors import CollectError
from vllm_hpc.spec.read_file import UnfitFileError


def error(index: int) -> dict[str, Any]:
    return {"index": index, "id": str(index), "error": {"type": "E", "message": "m"}}


def vllm_hpc_in(*words: str) -> subprocess.CompletedProcess[str]:
    """A command with two gigabytes of memory, and twenty seconds."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
    command = [sys.executable, "-c", f"{program} from vllm_hpc.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert "Traceback" not in done.stderr
    return done


def batch_line(index: int) -> dict[str, Any]:
    body = {"choices": [{"message": {"role": "assistant", "content": f" answer {index} é"}}]}
    return {"id": f"r{index}", "custom_id": f"c{index}", "response": {"status_code": 200, "body": body}, "error": None}


def test_resume_runs_what_is_missing_and_errors_where_asked(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=6, shape=layout(dp=2))
    write_lines(folder.shard(0, 1), [error(0), result(1)], torn='{"index": 5')
    write_lines(folder.shard(1, 2), [error(2), result(3), result(1)])
    write_lines(folder.shard(0, 3), [])
    assert finished(folder, 6).rows == bytearray([1, 1, 1, 1, 0, 0])
    found = finished(folder, 6, retry_errors_of=1)
    assert found.rows == bytearray([0, 1, 1, 1, 0, 0])
    assert (found.by_lane[0].done, found.by_lane[0].failed) == (1, 0)
    assert (found.by_lane[1].done, found.by_lane[1].failed) == (1, 1)
    assert (found.by_lane[0].prompt_tokens, found.by_lane[0].completion_tokens) == (2, 3)


def test_an_error_that_another_replica_redoes_is_no_longer_the_firsts(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1, shape=layout(dp=2))
    write_lines(folder.shard(0, 1), [error(0)])
    write_lines(folder.shard(1, 2), [result(0), error(0)])
    found = finished(folder, 1)
    assert [(found.by_lane[n].done, found.by_lane[n].failed) for n in (0, 1)] == [(0, 0), (1, 0)]


FOREIGN = [
    "hello",
    "{}",
    "[]",
    '{"index": 9}',
    '{"index": -1}',
    '{"index": 1}{"index": 2}',
    '{"index": 1} {"index": 2}',
]


@pytest.mark.parametrize("line", FOREIGN, ids=lambda x: x[:20])
def test_a_line_that_no_rank_wrote_is_passed_over_by_resume_and_refused_by_collect(tmp_path: Path, line: str) -> None:
    folder = make_job(tmp_path / "job", rows=3)
    lines = [json.dumps(result(0)), line, json.dumps(result(2))]
    folder.shard(0, 1).write_text("\n".join(lines) + "\n")
    assert finished(folder, 3).rows == bytearray([1, 0, 1])
    with pytest.raises(CollectError, match=r"replica-0\.1\.jsonl"):
        collect(folder)


@pytest.mark.parametrize("begin", [0, 10, 60, 75, -30])
def test_a_hole_that_the_file_system_left_is_passed_over_by_all(tmp_path: Path, begin: int) -> None:
    """A server that was lost, or a block that could not be written: zeros, within a line or over the ends of some."""
    folder = make_job(tmp_path / "job", rows=4)
    write_lines(folder.shard(0, 1), [result(0), result(1), result(2)])
    data = bytearray(folder.shard(0, 1).read_bytes())
    begin %= len(data)
    data[begin : begin + 20] = bytes(20)
    folder.shard(0, 1).write_bytes(data)
    write_lines(folder.shard(0, 2), [result(3)])
    left = finished(folder, 4).rows
    assert 0 < left.count(0) < 3
    summary = collect(folder)
    assert summary.rows == {"total": 4, "done": left.count(1), "failed": 0, "missing": left.count(0)}
    assert ["text" in row for row in read_lines(folder.outputs)] == list(map(bool, left))
    write_lines(folder.shard(0, 3), [result(index, "again") for index in range(4) if not left[index]])
    assert collect(folder).rows["done"] == 4


def test_a_hole_does_not_excuse_a_foreign_line(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    folder.shard(0, 1).write_bytes(b'{"index":0}\n{"index":\0\0\nhello\n')
    with pytest.raises(CollectError, match="a line that no rank wrote"):
        collect(folder)


def test_a_value_over_two_lines_does_not_make_up_for_two_on_one(tmp_path: Path) -> None:
    """As many values as lines, and yet none stands where it seems to."""
    folder = make_job(tmp_path / "job", rows=3)
    folder.shard(0, 1).write_text('{"index":0}{"index":1}\n{"index":\n2}\n')
    assert finished(folder, 3).rows == bytearray(3)


def test_windows_line_ends_are_copied_as_they_are(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    data = b'{"index":1}\r\n{"index":0}\r\n'
    folder.shard(0, 1).write_bytes(data)
    collect(folder)
    assert folder.outputs.read_bytes() == b'{"index":0}\r\n{"index":1}\r\n'


def test_a_shard_that_grows_while_it_is_read_ends_at_its_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is appended to a torn line between two reads must not be taken for a line of its own."""
    folder = make_job(tmp_path / "job", rows=2)
    shard = folder.shard(0, 1)
    write_lines(shard, [result(0)], torn='{"index": 1, "id"')
    decode = Scan._decode

    def grow(self: Scan, lines: list[bytes], path: Path) -> Any:
        with path.open("a") as file:  # without end: also the reader must not go on for ever
            file.write(': "1"}\n{"index": 1, "id"')
        return decode(self, lines, path)

    monkeypatch.setattr(Scan, "_decode", grow)
    assert collect(folder).rows == {"total": 2, "done": 1, "failed": 0, "missing": 1}


def test_a_shard_that_becomes_shorter_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    write_lines(folder.shard(0, 1), [result(0), result(1)])

    def cut(folder: JobFolder) -> None:
        os.truncate(folder.shard(0, 1), folder.shard(0, 1).stat().st_size - 5)

    monkeypatch.setattr("vllm_hpc.jobs.collect.check_input", cut)
    with pytest.raises(CollectError, match="shorter"):
        collect(folder)
    assert list(folder.path.glob(".outputs*")) == []


def test_lines_of_many_megabytes(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=5)
    write_lines(folder.shard(0, 1), [result(4), result(2, "x" * 10_000_000), result(0), result(1, "y" * 5000)])
    write_lines(folder.shard(0, 2), [result(3, "z" * 300_000)], torn="{" + "w" * 1_000_000)
    collect(folder)
    assert [len(row["text"]) for row in read_lines(folder.outputs)] == [9, 5000, 10_000_000, 300_000, 9]


@pytest.mark.trust
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_shard_with_a_terabyte_in_one_line_is_soon_one_error(tmp_path: Path, end: str) -> None:
    """A sparse file takes no space, so that anybody can leave one."""
    folder = make_job(tmp_path / "job", rows=1)
    write_lines(folder.shard(0, 1), [result(0)])
    size = folder.shard(0, 1).stat().st_size
    with folder.shard(0, 1).open("ab") as file:
        file.truncate(1 << 40)
        file.write(end.encode())
    with pytest.raises(CollectError, match=f"replica-0.1.jsonl: its line from byte {size} on has more than 512 MiB"):
        collect(folder)
    assert vllm_hpc_in("status", str(folder.path)).returncode == 0
    with pytest.raises(UnfitFileError):
        finished(folder, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_shard_that_may_not_be_read_is_one_error(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    write_lines(folder.shard(0, 1), [result(0)])
    folder.shard(0, 1).chmod(0)
    with pytest.raises(CollectError, match=r"cannot read .*replica-0\.1\.jsonl"):
        collect(folder)


def test_a_shard_that_is_no_file_is_one_error(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    folder.shard(0, 1).mkdir()
    with pytest.raises(CollectError, match=r"cannot read .*replica-0\.1\.jsonl"):
        collect(folder)


def test_a_full_disk_leaves_the_old_outputs(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1000)
    write_lines(folder.shard(0, 1), [result(n, "x" * 1000) for n in range(1000)])
    folder.outputs.write_text("as before\n")
    program = (
        "import resource, sys; from vllm_hpc.cli import main; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "sys.argv = ['vllm-hpc', 'collect', sys.argv[1]]; main()"
    )
    # -B: Python would leave half of a module's bytecode, for every later process to stumble over.
    command = [sys.executable, "-B", "-c", program, str(folder.path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert "cannot write" in ran.stderr
    assert folder.outputs.read_text() == "as before\n"
    assert list(folder.path.glob(".outputs*")) == []


@settings(max_examples=60)
@given(data=st.data())
def test_lines_come_as_asked_whatever_the_order_and_the_chunks(tmp_path_factory: Any, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32))
    chunk_bits = data.draw(st.sampled_from([6, 9, 17]))
    waste = data.draw(st.sampled_from([0, 8]))
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("shards")
    shards, wanted, places = [], [], []
    for number in range(3):
        lines = [b"x" * rng.choice([0, 1, 30, 70, 5000]) + b"\n" for _ in range(rng.randrange(60))]
        shards.append(folder / f"replica-{number}.1.jsonl")
        shards[-1].write_bytes(b"".join(lines) + b"torn")
        offset = (number + 1) << 44
        for line in lines:
            wanted.append(line)
            places.append(offset)
            offset += len(line)
    order = rng.sample(range(len(wanted)), len(wanted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "_CHUNK_BITS", chunk_bits)
        patch.setattr(lines_module, "_CHUNK", 1 << chunk_bits)
        patch.setattr(lines_module, "_BEYOND", 16)
        patch.setattr(lines_module, "_CHUNKS_KEPT", 3)
        patch.setattr(lines_module, "_FILES_OPEN", 2)
        patch.setattr(lines_module, "_WASTE", waste)
        with LineReader(shards) as reader:
            found = [b"".join(reader.read([places[n] for n in order[first : first + 7]])) for first in range(0, 200, 7)]
    assert b"".join(found) == b"".join(wanted[n] for n in order)


def test_rows_in_no_order_are_not_read_around_without_end(tmp_path: Path) -> None:
    rows = 30_000
    folder = make_job(tmp_path / "job", rows=rows)
    order = random.Random(1).sample(range(rows), rows)
    write_lines(folder.shard(0, 1), [result(n, "x" * 500) for n in order])
    found = Scan(folder.shard_files(), rows)
    with LineReader(folder.shard_files()) as reader:
        for first in range(0, rows, 100):
            assert b"".join(reader.read(found.places[first : first + 100])).count(b"\n") == 100
        assert len(reader._chunks) <= lines_module._CHUNKS_KEPT


def test_openai_batch_lines_go_out_as_they_are_and_missing_ones_as_errors(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "batch": {"custom_id": f"c{n}"}} for n in range(3)]
    folder = make_job(tmp_path / "job", [*rows, {"prompt": "plain"}])
    given_lines = [{**result(n), "line": batch_line(n)} for n in (2, 0)]
    given_lines[1]["error"] = {"type": "E", "message": "m"}
    write_lines(folder.shard(0, 1), [*given_lines, result(3, "text")])
    summary = collect(folder)
    assert summary.rows == {"total": 4, "done": 2, "failed": 1, "missing": 1}
    first, second, third, plain = list(Job(folder.path).results())
    assert (first, third, plain) == (batch_line(0), batch_line(2), result(3, "text"))
    assert (second["custom_id"], second["response"], second["error"]["code"]) == ("c1", None, "missing")
    assert isinstance(second["id"], str)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (batch_line(1), "answer 1 é"),
        ({"response": {"body": {"choices": [{"text": "done"}]}}, "error": None}, "done"),
        ({"response": {"body": {"data": [0.5]}}, "error": None}, '{"data":[0.5]}'),
        ({"response": None, "error": {"code": "missing", "message": "not run"}}, "missing: not run"),
        ({"response": {"status_code": 400, "body": None}, "error": None}, "(none)"),
    ],
)
def test_a_batch_line_has_a_sample_to_show(line: dict[str, Any], said: str) -> None:
    assert print_status._answer(line).plain == said


def test_the_line_is_copied_byte_by_byte(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    inner = '{"custom_id": 1.50, "b":"\\u00e9 \\n", "line":{"a":[]}}'
    folder.shard(0, 1).write_text('{"index":0,"line": ' + inner + ' ,"id":"0"}\n')
    collect(folder)
    assert folder.outputs.read_text() == inner + "\n"


def test_the_input_is_not_read_where_nothing_is_missing(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    size = folder.input.stat().st_size
    elsewhere = tmp_path / "referenced.jsonl"
    elsewhere.write_bytes(b"\0" * size)
    folder.input.unlink()
    index = read_json(folder.input_json, InputIndex)
    assert index is not None
    write_json(folder.input_json, msgspec.structs.replace(index, path=str(elsewhere)))
    assert collect(folder).rows["done"] == 2
    elsewhere.write_bytes(b"\0" * (size + 1))
    with pytest.raises(CollectError, match="bytes"):
        collect(folder)
    elsewhere.unlink()
    with pytest.raises(CollectError, match="cannot read"):
        collect(folder)


def test_a_scan_takes_few_bytes_a_row(tmp_path: Path) -> None:
    rows = 200_000
    folder = make_job(tmp_path / "job", rows=0)
    folder.shard(0, 1).write_text("".join(f'{{"index":{n}}}\n' for n in range(rows)))
    program = (
        "import resource, sys; from pathlib import Path; from vllm_hpc.jobfolder.shards import Scan;"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = most();"
        f"Scan([Path(sys.argv[1])], {rows}); print((most() - before) * 1024 / {rows})"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(folder.shard(0, 1))], capture_output=True, check=True)
    assert float(ran.stdout) < 9 + 40, "what is decoded at a time counts too"
