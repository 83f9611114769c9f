"""diff: files of output rows joined by id, and what the command says of two jobs."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from vllm_hpc.jobs import join_outputs
from vllm_hpc.jobs.diff import OutputDiff, Side, diff_outputs
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import open_regular

pytestmark = pytest.mark.programs

# The command, which then says the most memory that it had, in KiB. What getrusage says counts its parent's, too.
AND_ITS_PEAK = """
import atexit
from pathlib import Path
from vllm_hpc.cli import main
status = Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().split("VmHWM:")[1].split()[0]))
main()
"""


def rows(count: int, **changed: Any) -> list[Row]:
    """Rows as vllm-hpc writes them; ``changed`` by "r<index>"."""
    made = [
        {"index": n, "id": f"id-{n}", "text": f"text of {n}", "finish_reason": "stop", "prompt_tokens": 3, "replica": 0}
        for n in range(count)
    ]
    return [{**row, **changed.get(f"r{row['index']}", {})} for row in made]


def write(path: Path, found: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def compare(tmp_path: Path, first: list[Row], second: list[Row], **options: Any) -> OutputDiff:
    one, other = (Side(name, write(tmp_path / name, found)) for name, found in (("a", first), ("b", second)))
    return diff_outputs(one, other, **options)


def counts(found: OutputDiff) -> tuple[int, ...]:
    return (
        found.compared, found.equal, found.only_first, found.only_second,
        found.errors_first, found.errors_second, found.errors_both,
    )  # fmt: skip


def test_equal_files_are_equal(tmp_path: Path) -> None:
    found = compare(tmp_path, rows(9), rows(9))
    assert (counts(found), found.share, found.is_equal) == ((9, 9, 0, 0, 0, 0, 0), 1.0, True)


def test_rows_are_joined_by_their_ids_whatever_their_order(tmp_path: Path) -> None:
    shuffled = rows(99, r7={"text": "text off 7"})
    random.Random(1).shuffle(shuffled)
    found = compare(tmp_path, rows(99), shuffled, most=5)
    assert (counts(found), found.fields) == ((99, 98, 0, 0, 0, 0, 0), {"text": 1})
    assert (found.examples[0].id, found.examples[0].where.character) == ('"id-7"', 7)
    assert found.common == round(7 / 10, 4)


def test_a_file_in_another_order_is_opened_once_for_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open one on a cluster asks its file server: not for each of a million rows."""
    opened: list[Path] = []

    def counted(path: Path) -> io.BufferedReader:
        opened.append(path)
        return open_regular(path)

    monkeypatch.setattr(join_outputs, "open_regular", counted)
    assert compare(tmp_path, rows(99), rows(99)[::-1]).equal == 99
    assert sorted(path.name for path in opened) == ["a", "b", "b"]


@pytest.mark.parametrize("place", [0, 4, 9])
def test_rows_of_one_file_only(tmp_path: Path, place: int) -> None:
    fewer = [row for row in rows(10) if row["index"] != place]
    assert counts(compare(tmp_path, rows(10), fewer)) == (9, 9, 1, 0, 0, 0, 0)
    found = compare(tmp_path, fewer, rows(10))
    assert (counts(found), found.is_equal) == ((9, 9, 0, 1, 0, 0, 0), False)


def test_nothing_in_common(tmp_path: Path) -> None:
    assert counts(compare(tmp_path, rows(3), [{**row, "id": f"x{row['id']}"} for row in rows(4)])) == (
        0,
        0,
        3,
        4,
        0,
        0,
        0,
    )
    assert compare(tmp_path, [], []).share is None


def test_errors_are_no_answers(tmp_path: Path) -> None:
    missing = {"error": {"type": "missing", "message": "this row was not run"}, "text": None}
    found = compare(tmp_path, rows(5, r0=missing, r1=missing), rows(5, r1=missing, r2=missing))
    assert counts(found) == (2, 2, 0, 0, 1, 1, 1)
    assert not found.is_equal
    assert compare(tmp_path, rows(5, r1=missing), rows(5, r1=missing)).is_equal


def test_prompts_of_another_length_are_said(tmp_path: Path) -> None:
    assert compare(tmp_path, rows(3), rows(3, r1={"prompt_tokens": 4})).prompt_tokens_differ == 1
    assert compare(tmp_path, rows(3), rows(3)).inputs_differ is None


def test_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    other = rows(3, r1={"finish_reason": "length"})
    assert compare(tmp_path, rows(3), other).fields == {"finish_reason": 1}
    assert compare(tmp_path, rows(3), other, fields=["text"]).is_equal
    with pytest.raises(RequestError, match="--fields txet: no row has it"):
        compare(tmp_path, rows(3), other, fields=["text", "txet"])


def test_an_id_twice_is_refused_where_rows_must_be_looked_up(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match='has two rows with the id "id-1": rows are joined by their ids'):
        compare(tmp_path, rows(3)[::-1], [*rows(3), rows(3)[1]])


def test_rows_without_ids_are_joined_by_index_or_place(tmp_path: Path) -> None:
    bare = [{"text": str(n)} for n in range(3)]
    assert counts(compare(tmp_path, bare, [{**row, "index": n} for n, row in enumerate(bare)][::-1])) == (
        3,
        3,
        0,
        0,
        0,
        0,
        0,
    )
    assert counts(compare(tmp_path, bare, [{**row, "id": str(n)} for n, row in enumerate(bare)])) == (
        3,
        3,
        0,
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize(
    "content", [b"no json\n", b"[1]\n", b"3\n", b"\xff\n", b"{" * 5000, b"\n", b"\0", b'{"a":1}x\n']
)
def test_a_line_that_is_no_row_is_refused(tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(json.dumps(rows(1)[0]).encode() + b"\n" + content)
    with pytest.raises(
        RequestError, match="bad': line 2 must be an output row, a JSON object: name a job, or its outputs"
    ):
        diff_outputs(Side("a", write(tmp_path / "a", rows(2))), Side("bad", bad))


def test_the_last_line_may_lack_its_end(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", rows(2))
    cut = tmp_path / "b"
    cut.write_bytes(whole.read_bytes().rstrip())
    assert diff_outputs(Side("a", whole), Side("b", cut)).is_equal


def test_the_command_says_it_and_exits_as_diff_does(desk: Path, run_cli: Cli) -> None:
    write(desk / "a.jsonl", rows(3))
    write(desk / "b.jsonl", rows(3, r2={"text": "text \x1b[31mof 2"}))
    assert run_cli("diff", "a.jsonl", "a.jsonl") == (0, "3 of 3 rows equal (100 %)\n", "")
    outcome = run_cli("diff", "a.jsonl", "b.jsonl")
    assert outcome.code == 1
    assert outcome.out.splitlines() == [
        "2 of 3 rows equal (66.67 %)",
        "  first difference: 1 row in text",
        "  of different texts, 35.7 % is before the first difference",
        'row "id-2": text differs at character 5, word 2',
        '  < "text of 2"',
        r'  > "text \u001b[31mof 2"',
    ]
    assert "row " not in run_cli("diff", "a.jsonl", "b.jsonl", "--show", "0").out.replace("row in", "")
    assert json.loads(run_cli("diff", "a.jsonl", "b.jsonl", "--json").out)["share"] == 0.666667


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing", "a.jsonl"], "no job 'nothing'"),
        (["a.jsonl", ""], "no job ''"),
        (["a.jsonl", "fifo"], "no job 'fifo'"),
        (["a.jsonl", "."], "no job '.'"),
        (["a.jsonl", "a.jsonl", "--fields", ""], "--fields '' must be names with commas between them"),
        (["a.jsonl", "a.jsonl", "--fields", "text,,x"], "--fields 'text,,x' must be names with commas between them"),
        (["a.jsonl", "a.jsonl", "--tokens", "nowhere"], "cannot be used: No such file or directory"),
        (["a.jsonl", "a.jsonl", "--show", "-1"], "Invalid value for '--show': -1 is not in the range"),
        (["a.jsonl"], "Missing argument 'JOB2'"),
    ],
)
def test_what_cannot_be_compared_is_exit_code_2(desk: Path, run_cli: Cli, args: list[str], said: str) -> None:
    write(desk / "a.jsonl", rows(1))
    os.mkfifo(desk / "fifo")
    if "--tokens" in args:
        pytest.importorskip("tokenizers")
    outcome = run_cli("diff", *args)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("fifo", "it must be a regular file"),
        ("zero", "it must be a regular file"),
        (b"{}", "cannot be used: "),
        (b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}}', "Missing [UNK] token"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(desk: Path, run_cli: Cli, content: str | bytes, said: str) -> None:
    """tokenizers waited for a FIFO, read a device without end, and raised what is no error of ours."""
    pytest.importorskip("tokenizers")
    write(desk / "a.jsonl", rows(1))
    write(desk / "b.jsonl", rows(1, r0={"text": "another"}))
    path = desk / "model" / "tokenizer.json"
    path.parent.mkdir()
    if content == "fifo":
        os.mkfifo(path)
    elif content == "zero":
        path.symlink_to("/dev/zero")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    outcome = run_cli("diff", "a.jsonl", "b.jsonl", "--tokens", "model")
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.full
@pytest.mark.parametrize("order", ["same", "reversed"])
def test_a_million_rows_take_bounded_memory(tmp_path: Path, order: str) -> None:
    """Each is 200 MB; the comparison has a process of its own, whose peak is looked at."""
    for name, numbers in (
        ("a", range(1_000_000)),
        ("b", range(1_000_000) if order == "same" else range(999_999, -1, -1)),
    ):
        with (tmp_path / name).open("w") as file:
            file.writelines(
                f'{{"index":{n},"id":"id-{n}","text":"{n} {"x" * 150}","finish_reason":"stop"}}\n' for n in numbers
            )
    argv = [sys.executable, "-c", AND_ITS_PEAK, "diff", str(tmp_path / "a"), str(tmp_path / "b")]
    said, peak = subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()
    assert said == "1000000 of 1000000 rows equal (100 %)"
    assert int(peak) < 100 << 10
