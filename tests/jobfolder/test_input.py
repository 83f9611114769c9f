"""Inputs of any size: copied or referenced, read by place, never other than what was checked."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader, check_size, check_unchanged, iter_rows, read_index
from vllm_hpc.jobfolder.store_input import VARIABLE, Intake
from vllm_hpc.rows import blocks, read
from vllm_hpc.rows.ids import UniqueIds
from vllm_hpc.rows.read import checked_rows, find_sources, read_rows
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError, RequestError

REFERENCED, COPIED = 0, 1 << 40


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path / "job")
    folder.create()
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 7)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)


def write(path: Path, rows: int = 50) -> Path:
    """An input of odd lines: long ones, blank ones, a BOM, CRLF, and no newline at its end."""
    lines = [json.dumps({"prompt": f"é {n} " * (1 + n * 7 % 40)}, ensure_ascii=False) for n in range(rows)]
    text = "".join(line + ("\r\n\n  \n" if n % 5 == 0 else "\n") for n, line in enumerate(lines))
    path.write_text("\ufeff\n" + "\n" * 1100 + text.rstrip("\n"), encoding="utf-8", newline="")
    return path


def store(path: Path, job: JobFolder, over: int) -> list[Row]:
    """Put an input into a job; returns the rows that were checked."""
    intake = Intake(str(path), over)
    rows = list(intake.rows())
    assert intake.store(job) == len(rows)
    return rows


def input_file(job: JobFolder) -> Path:
    (part,) = read_index(job).parts
    return job.path / part.path


@pytest.mark.parametrize("over", [REFERENCED, COPIED])
def test_rows_are_read_by_their_place(tmp_path: Path, job: JobFolder, over: int) -> None:
    expected = store(write(tmp_path / "in.jsonl"), job, over)
    assert len(read_index(job).blocks) >= 8
    assert list(iter_rows(job)) == expected == list(read_rows(str(tmp_path / "in.jsonl")))
    reader = InputReader(job)
    dice = random.Random(1)
    for _ in range(300):
        first, count = dice.randrange(55), dice.randrange(1, 20)
        assert reader.rows(first, count) == expected[first : first + count]
    check_unchanged(job)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("in.jsonl", '{"prompt": "a"}\n', "jsonl"),
        ("in.txt", "a\n", "txt"),
        ("in.jsonl", '{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "a"}}\n', "openai"),
    ],
)
def test_a_large_input_is_referenced_and_never_copied(
    tmp_path: Path, job: JobFolder, monkeypatch: pytest.MonkeyPatch, name: str, content: str, kind: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(len(content) - 1))
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    intake = Intake(name)
    rows = list(intake.rows())
    assert intake.store(job) == 1
    index = read_index(job)
    assert (index.path, index.size, index.rows, index.format) == (str(tmp_path / name), len(content), 1, kind)
    assert not job.input.exists()
    assert list(iter_rows(job)) == rows
    assert input_file(job) == tmp_path / name


def test_a_small_input_is_copied(tmp_path: Path, job: JobFolder) -> None:
    file = write(tmp_path / "in.jsonl")
    store(file, job, file.stat().st_size)
    assert (read_index(job).path, read_index(job).format) == ("input.jsonl", "rows")
    assert input_file(job) == job.input
    assert [block.line for block in read_index(job).blocks] == [block.row + 1 for block in read_index(job).blocks]


def test_the_sample_prompts_are_copied_too(job: JobFolder) -> None:
    assert Intake(None).store(job) == 2
    assert [row["id"] for row in iter_rows(job)] == ["0", "1"]


def test_a_large_table_is_copied(tmp_path: Path, job: JobFolder) -> None:
    (tmp_path / "in.csv").write_text("prompt\na\n")
    rows = store(tmp_path / "in.csv", job, REFERENCED)
    assert list(iter_rows(job)) == rows == [{"index": 0, "id": "0", "prompt": "a"}]
    assert input_file(job) == job.input_zst


def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1G")
    with pytest.raises(RequestError, match=f"{VARIABLE} must be a number of bytes, not '1G'"):
        list(Intake(str(write(tmp_path / "in.jsonl"))).rows())


@pytest.mark.parametrize("over", [REFERENCED, COPIED])
def test_what_was_not_checked_is_checked_when_it_is_stored(tmp_path: Path, job: JobFolder, over: int) -> None:
    file = write(tmp_path / "in.jsonl", rows=9)
    intake = Intake(str(file), over)
    assert len(list(intake.rows())) == 9
    write(file, rows=20)
    os.utime(file, ns=(1, 1))
    assert intake.store(job) == 20
    file.write_text('{"prompt": 3}\n')
    with pytest.raises(InputError, match=r"in\.jsonl:1: 'prompt' must be"):
        intake.store(job)


def test_a_referenced_input_is_read_once(tmp_path: Path, job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = Intake(str(write(tmp_path / "in.jsonl")), REFERENCED)
    rows = len(list(intake.rows()))
    monkeypatch.setattr("vllm_hpc.jobfolder.store_input.checked_rows", None)
    assert intake.store(job) == rows


# -- changed since ---------------------------------------------------------------------------------------------------
def grow(file: Path) -> None:
    file.write_text(file.read_text() + '{"prompt": "one more"}\n')


def shrink(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def edit(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace("é 30 ".encode(), "é 31 ".encode()))


@pytest.mark.parametrize("change", [grow, shrink, edit, Path.unlink], ids=lambda change: change.__name__)
@pytest.mark.parametrize("over", [REFERENCED, COPIED])
def test_an_input_that_changed_is_refused(tmp_path: Path, job: JobFolder, change: object, over: int) -> None:
    file = write(tmp_path / "in.jsonl")
    store(file, job, over)
    assert callable(change)
    change(input_file(job))
    with pytest.raises(InputError, match="restore it, or submit a new job"):
        check_unchanged(job)
    if change is edit:
        check_size(job)
        reader = InputReader(job)
        assert len(reader.rows(0, 20)) == 20
        with pytest.raises(InputError, match=r": line \d+ to \d+: changed since the job was submitted"):
            reader.rows(28, 5)
        return
    with pytest.raises(InputError, match="restore it, or submit a new job"):
        check_size(job)


def test_without_input_json_the_words_say_so(job: JobFolder) -> None:
    with pytest.raises(InputError, match=r"cannot read .*input\.json"):
        list(iter_rows(job))


@pytest.mark.parametrize("change", [grow, shrink], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, name: str, change: object) -> None:
    file = tmp_path / name
    file.write_text("prompt\n" * name.endswith("csv") + '{"prompt": "a long enough text for a buffer"}\n' * 20_000)
    assert callable(change)
    rows = checked_rows(find_sources(str(file)))
    next(rows)
    change(file)
    with pytest.raises(InputError):
        list(rows)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.rows.jsonl.MAX_LINE", 1 << 20)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "' + "x" * (2 << 20) + '"}\n')
    with pytest.raises(InputError, match=r"in\.jsonl:2: longer than 1 MiB: write one row per line"):
        list(read_rows(str(tmp_path / "in.jsonl")))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "in.jsonl")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(read, "_check_head", refuse)  # root may read everything
    with pytest.raises(InputError, match=r"cannot read input .*: Permission denied"):
        list(read_rows(str(file)))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="is a pipe or a device"):
        list(read_rows(str(tmp_path / "in.jsonl")))


@pytest.mark.parametrize("over", ["1", "1000000"])
def test_a_path_that_json_cannot_hold_is_refused(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    monkeypatch.setenv(VARIABLE, over)
    name = os.fsdecode(b"caf\xe9.jsonl")
    write(desk / name)
    result = run_cli("submit", "model", "--input", name, "--scheduler", "slurm")
    assert result.code == 2
    assert "is not valid UTF-8" in result.err


# -- ids -------------------------------------------------------------------------------------------------------------
def ids(*given: str | int, in_memory: int) -> tuple[int, str | int] | None:
    """Where the first repeated id stands, from 0, with few or with many ids in memory."""
    unique = UniqueIds(in_memory)
    for index, identity in enumerate(given):
        if not unique.add(index, identity):
            return index, identity
    return unique.first_repeated(lambda: iter(enumerate(given)))


def found_simply(given: list[str | int]) -> tuple[int, str | int] | None:
    seen: set[str | int] = set()
    for index, identity in enumerate(given):
        if identity in seen:
            return index, identity
        seen.add(identity)
    return None


@pytest.mark.parametrize("in_memory", [0, 3, 1000])
@pytest.mark.parametrize(
    "given",
    [
        ["0", "1", "2", "3"],
        ["0", "1", "x", "0"],
        ["0", "1", "00", 0, "\u0660"],
        ["1", "1"],
        ["a", "1", "2", "a", "1"],
        ["3", "x", "y", "3"],
        [-1, -2, -1],
        [-1, -2, "-1"],
        [2**61 - 1, 0, 2**61, 1],
    ],
    ids=str,
)
def test_the_first_repeated_id_is_found(given: list[str | int], in_memory: int) -> None:
    found, expected = ids(*given, in_memory=in_memory), found_simply(given)
    assert found == expected


def test_random_ids_are_found_as_a_set_would() -> None:
    dice = random.Random(2)
    for _ in range(300):
        kinds: list[Callable[[int], str | int]] = [
            str, lambda _: str(dice.randrange(400)), lambda _: dice.randrange(400), lambda _: f"x{dice.randrange(400)}",
        ]  # fmt: skip
        given = [dice.choice(kinds)(index) for index in range(dice.randrange(60))]
        expected = found_simply(given)
        found = ids(*given, in_memory=dice.choice([2, 10, 100]))
        # Of rows that were spilled one is named after the last row, unless it repeats a default id: that is seen first.
        assert (found is None) == (expected is None)


def test_a_repeated_id_among_many_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UniqueIds.__init__, "__defaults__", (5,))
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "a", "id": f"x{n % 90}"}) for n in range(100)))
    with pytest.raises(InputError, match=r"in\.jsonl:91: id 'x0' was given before"):
        list(read_rows(str(file)))


def test_no_room_for_the_ids_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match="No space left on device: set TMPDIR to a folder"):
        ids("a", "b", in_memory=1)


# -- the whole way ---------------------------------------------------------------------------------------------------
def test_a_job_with_a_referenced_input(desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "10")
    write(desk / "in.jsonl")
    result = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--name", "big")
    assert result.code == 0, result.err
    job = JobFolder(desk / "runs" / "big")
    assert job.job().rows == len(list(iter_rows(job))) == 50
    assert not job.input.exists()


@pytest.mark.parametrize("over", ["10", "1000000"])
def test_a_refused_input_leaves_no_folder(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    monkeypatch.setenv(VARIABLE, over)
    (desk / "in.jsonl").write_text('{"prompt": "a"}\n' * 30 + '{"prompt": 3}\n')
    result = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--name", "big")
    assert result.code == 2
    assert "in.jsonl:31: " in result.err
    assert not (desk / "runs").exists()


HOSTILE: dict[str, bytes] = {
    "zeros.jsonl": b"\0" * 5000,
    "bom-only.jsonl": b"\xef\xbb\xbf\n",
    "utf-16.jsonl": '{"prompt": "a"}\n'.encode("utf-16"),
    "surrogate.jsonl": b'{"prompt": "\\ud800"}\n',
    "deep.jsonl": b'{"prompt": "a", "tag": ' + b"[" * 200_000 + b"\n",
    "huge.jsonl": b'{"prompt": "a", "id": ' + b"9" * 5000 + b"}\n",
    "nan.jsonl": b'{"prompt": "a", "sampling": {"temperature": NaN}}\n',
    "twice.jsonl": b'{"prompt": "a", "prompt": "b"}\n',
    "array.jsonl": b'[{"prompt": "a"}\n',
    "packed.jsonl": b"\x1f\x8b\x08\0\0\0\0\0",
    "ids.jsonl": b'{"prompt": "a"}\n{"prompt": "b", "id": "0"}\n',
    "batch.jsonl": b'{"custom_id": "a", "url": "/v1/files", "body": {}}\n',
    "ragged.csv": b"prompt,id\na,1,2\n",
    "quote.csv": b'prompt,id\n"a,1\n',
    "semicolons.csv": b"frage;id\na;1\n",
    "torn.parquet": b"PAR1\0\0\0\0PAR",
    "book.xlsx": b"PK\x03\x04",
    "latin.txt": b"caf\xe9\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_line_and_no_folder(desk: Path, model: Path, run_cli: Cli, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (desk / name).write_bytes(HOSTILE[name])
    result = run_cli("submit", "model", "--input", name, "--scheduler", "slurm")
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("Error: ")
    assert name in result.err
    assert not (desk / "runs").exists()
