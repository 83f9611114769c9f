"""Inputs of several files: given one by one, as a folder, a pattern or standard input; one input with one order."""

from __future__ import annotations

import gzip
import io
import os
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from vllm_hpc.rows.find import find_files
from vllm_hpc.rows.ids import UniqueIds
from vllm_hpc.rows.input_file import STDIN, InputFile, StandardInput
from vllm_hpc.rows.read import find_sources, read_rows
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError, RefusedError

pytestmark = pytest.mark.inputs

ROW = '{"prompt": "%s"}\n'
COMPLETION = '{"custom_id": "%s", "url": "/v1/completions", "body": {"prompt": "p"}}\n'
EMBEDDING = '{"custom_id": "%s", "url": "/v1/embeddings", "body": {"input": "p"}}\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four shards in a folder, beside what is there in real folders."""
    monkeypatch.chdir(tmp_path)
    shards = tmp_path / "shards"
    (shards / "deeper" / "still").mkdir(parents=True)
    for name in ("part-10", "part-2", "part-1"):
        (shards / f"{name}.jsonl").write_text(ROW % name)
    (shards / "part-3.jsonl.gz").write_bytes(gzip.compress((ROW % "part-3").encode()))
    (shards / "deeper" / "a.jsonl").write_text(ROW % "deep")
    (shards / "deeper" / "still" / "b.txt").write_text("deeper\n")
    for name in ("_SUCCESS", ".part-1.jsonl.crc", "README.md", ".hidden.jsonl", "part-4.jsonl.tmp"):
        (shards / name).write_text("no rows")
    return tmp_path


def prompts(*given: str) -> list[str]:
    return [row["prompt"] for row in read_rows(given)]


def refused(*given: str) -> str:
    with pytest.raises(InputError) as caught:
        list(read_rows(given))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_are_read_in_the_order_in_which_they_are_given(desk: Path) -> None:
    rows = list(read_rows(["shards/part-2.jsonl", "shards/deeper/still/b.txt", "shards/part-3.jsonl.gz"]))
    assert rows == [
        {"index": 0, "id": "0", "prompt": "part-2"},
        {"index": 1, "id": "1", "prompt": "deeper"},
        {"index": 2, "id": "2", "prompt": "part-3"},
    ]


@pytest.mark.parametrize("folder", ["shards", "shards/", "./shards", "shards//", "{}/shards"])
def test_a_folder_is_its_files_by_name(desk: Path, folder: str) -> None:
    found = find_sources(folder.format(desk))
    assert [source.file.path.name for source in found.all] == [
        "part-1.jsonl", "part-10.jsonl", "part-2.jsonl", "part-3.jsonl.gz",
    ]  # fmt: skip
    (note,) = found.notes
    assert note.endswith("4 files read, 6 skipped ('.hidden.jsonl', '.part-1.jsonl.crc', 'README.md', ...)")


PATTERNS = {
    "shards/*.jsonl": ["part-1", "part-10", "part-2"],
    "shards/part-?.jsonl*": ["part-1", "part-2", "part-3"],
    "shards/part-[12]*.jsonl": ["part-1", "part-10", "part-2"],
    "shards/**/*.jsonl": ["deep", "part-1", "part-10", "part-2"],
    "s*/d*/**/*": ["deep", "deeper"],
    "./shards/../shards/part-1.jso*": ["part-1"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_what_it_matches_by_name(desk: Path, pattern: str) -> None:
    assert prompts(pattern) == PATTERNS[pattern]


def test_a_pattern_says_what_it_skips(desk: Path) -> None:
    (note,) = find_sources("shards/*").notes
    assert note == "input 'shards/*': 4 files read, 4 skipped ('README.md', '_SUCCESS', 'deeper', ...)"
    assert find_sources("shards/*.jsonl").notes == ()


def test_a_file_named_like_a_pattern_is_that_file(desk: Path) -> None:
    for name in ("a[1].jsonl", "what?.jsonl", "*.jsonl"):
        (desk / name).write_text(ROW % name)
        assert prompts(name) == [name]


def test_the_home_folder_is_found(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(desk))
    assert prompts("~/shards/*.jsonl") == PATTERNS["shards/*.jsonl"]
    assert len(prompts("~/shards")) == 4


class Refusal(NamedTuple):
    given: tuple[str, ...]
    said: str


REFUSED = [
    Refusal(("",), "--input is empty: name a file, a folder or a pattern"),
    Refusal(("shards", ""), "--input is empty"),
    Refusal(("none.jsonl",), "no such input: 'none.jsonl'"),
    Refusal(("none/*.jsonl",), "input 'none/*.jsonl' matches no .jsonl"),
    Refusal(("shards/*.md",), "input 'shards/*.md' matches no .jsonl"),
    Refusal(("shards/[.jsonl",), "input 'shards/[.jsonl' matches no .jsonl"),
    Refusal(("empty",), "input 'empty' is a folder without a .jsonl"),
    Refusal(("only-folders",), "a pattern for the folders in it, as in 'only-folders/**/*'"),
    Refusal(("shards/part-1.jsonl", "shards/part-1.jsonl"), "input 'shards/part-1.jsonl' is given twice: give it once"),
    Refusal(("shards", "shards/part-2.jsonl"), "input 'shards/part-2.jsonl' is given twice: give it once"),
    Refusal(("shards/*.jsonl", "shards/part-1*"), "input 'shards/part-1.jsonl' is given twice: give it once"),
    Refusal(("shards/part-1.jsonl", "./link.jsonl"), "'link.jsonl' is the same file as 'shards/part-1.jsonl'"),
    Refusal(("dangling",), "no such input: 'dangling/to.jsonl'"),
    Refusal(("pipes",), "input 'pipes/in.jsonl' is a pipe or a device"),
    Refusal(("shards", "other.bin"), "input 'other.bin': only .jsonl"),
    Refusal(("shards", "broken.jsonl"), "broken.jsonl:2: "),
    Refusal(("broken.jsonl", "shards"), "broken.jsonl:2: "),
    Refusal(("shards", "other.csv"), "other.csv:1: no column 'prompt'"),
    Refusal(("blank.jsonl", "blank.txt"), "blank.jsonl and 1 other file have no prompt"),
    Refusal(("~no-such-user/*.jsonl",), "no-such-user"),
    Refusal(("s3://bucket/in.jsonl",), "--input 's3://bucket/in.jsonl' is an address: download it first"),
    Refusal(("hf://datasets/org/name/*.parquet",), "is an address: download it first"),
    Refusal(("a\0*.jsonl",), "--input 'a\\x00*.jsonl' has a NUL"),
    Refusal(("a\0.jsonl",), "--input 'a\\x00.jsonl' has a NUL"),
    Refusal(("loop/**/*.jsonl",), "is the same file as 'loop/a.jsonl'"),
    Refusal(("x" * 300 + "*.jsonl",), "too long"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case.given)[:40])
def test_what_is_no_input_is_refused_by_name(desk: Path, case: Refusal) -> None:
    for name in ("empty", "only-folders/in", "dangling", "pipes", "loop"):
        (desk / name).mkdir(parents=True)
    (desk / "only-folders" / "in" / "a.jsonl").write_text(ROW % "a")
    (desk / "dangling" / "to.jsonl").symlink_to("nowhere")
    (desk / "loop" / "a.jsonl").write_text(ROW % "a")
    (desk / "loop" / "back").symlink_to(".")
    (desk / "link.jsonl").symlink_to("shards/part-1.jsonl")
    os.mkfifo(desk / "pipes" / "in.jsonl")
    (desk / "other.bin").write_bytes(b"\0")
    (desk / "other.csv").write_text("question\na\n")
    (desk / "broken.jsonl").write_text(ROW % "a" + "{\n")
    (desk / "blank.jsonl").write_text("\n")
    (desk / "blank.txt").write_text("")
    with pytest.raises(RefusedError) as caught:
        list(read_rows(case.given))
    assert case.said in str(caught.value)


def test_a_file_that_cannot_be_opened_is_named(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: InputFile) -> None:
        raise PermissionError(13, "Permission denied", str(file.path))

    monkeypatch.setattr(InputFile, "_open", refuse)  # root may read everything
    assert refused("shards") == "cannot read input 'shards/part-1.jsonl': Permission denied"


FOLDERS = [
    (["a.jsonl", "log.txt"], "has files of several formats ('a.jsonl', 'log.txt'): choose by a quoted pattern, as in "
     "--input 'in/*.jsonl'; give one"),
    (["LICENSE.txt", "README.txt", "part.csv.gz"], "('LICENSE.txt', 'part.csv.gz'): choose by a quoted pattern, as in"),
    (["data.parquet", "dataset_infos.json"], "('data.parquet', 'dataset_infos.json')"),
    (["README.txt", "part-1.txt"], "input 'in' has 'README.txt', whose lines would be prompts: choose the others by a"),
    (["a.csv", "b.tsv"], "('a.csv', 'b.tsv'): choose by a quoted pattern, as in --input 'in/*.csv'"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "said"), FOLDERS, ids=lambda value: str(value)[:30])
def test_a_folder_has_files_of_one_format(desk: Path, names: list[str], said: str) -> None:
    (desk / "in").mkdir()
    for name in names:
        (desk / "in" / name).write_bytes(gzip.compress(b"prompt\na\n") if name.endswith("gz") else b"{}\n")
    words = refused("in") if "whose lines" in said else refused("in/")
    assert said in words.replace("in//", "in/")


def test_the_pattern_in_the_advice_chooses(desk: Path) -> None:
    folder = desk / "my [odd] folder"
    folder.mkdir()
    (folder / "a.jsonl").write_text(ROW % "a")
    (folder / "b.ndjson.gz").write_bytes(gzip.compress((ROW % "b").encode()))
    assert prompts(folder.name) == ["a", "b"], "two names of one format"
    (folder / "log.txt").write_text("none\n")
    words = refused(folder.name)
    option, pattern = shlex.split(words.partition("as in ")[2].partition(";")[0])
    assert (option, prompts(pattern)) == ("--input", ["a"])


@pytest.mark.parametrize("pattern", ["in/*.txt", "in/**/*", "in/*"])
def test_a_pattern_takes_no_readme_for_prompts(desk: Path, pattern: str) -> None:
    (desk / "in").mkdir()
    for name in ("part-1.txt", "ReadMe.txt"):
        (desk / "in" / name).write_text("text\n")
    assert "has 'ReadMe.txt', whose lines would be prompts" in refused(pattern)
    assert prompts("in/part-*.txt") == prompts("in/ReadMe.txt") == ["text"]


@pytest.mark.parametrize("row", [ROW % "a", '{"custom_id": "a", "body": {}}\n', '\n{"messages": []}\n'])
def test_rows_in_json_are_no_prompts(desk: Path, row: str) -> None:
    (desk / "in.txt").write_text(row)
    assert refused("in.txt").endswith("but this is a row in JSON: name the file .jsonl")


def test_a_prompt_may_be_json(desk: Path) -> None:
    (desk / "in.txt").write_text('{"name": "a"}\n{"prompt": "b"}\n{{ c }}\n')
    assert len(prompts("in.txt")) == 3


# -- one input -------------------------------------------------------------------------------------------------------
def test_ids_are_unique_over_all_files(desk: Path) -> None:
    (desk / "a.jsonl").write_text('{"prompt": "a", "id": "x"}\n{"prompt": "b"}\n')
    (desk / "b.jsonl").write_text('\n{"prompt": "c", "id": "y"}\n{"prompt": "d", "id": "x"}\n')
    assert refused("a.jsonl", "b.jsonl").startswith("b.jsonl:3: id 'x' was given before")
    (desk / "c.jsonl").write_text('{"prompt": "c", "id": "0"}\n')
    assert refused("shards/part-1.jsonl", "c.jsonl").startswith("c.jsonl:1: id '0' was given before")


def test_a_repeated_id_among_many_is_named_with_its_file(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UniqueIds.__init__, "__defaults__", (5,))
    for part in range(3):
        lines = [f'{{"prompt": "a", "id": "x{(part * 40 + n) % 95}"}}\n' for n in range(40)]
        (desk / f"{part}.jsonl").write_text("".join(lines))
    assert refused("[012].jsonl").startswith("2.jsonl:16: id 'x0' was given before")


def test_a_default_id_is_the_place_in_all_files(desk: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    (desk / "a.jsonl").write_text(ROW % "a" + '{"prompt": "b", "id": 7}\n')
    (desk / "b.csv").write_text('prompt\nc\n"d\nd"\n')
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["e", "f"]}), desk / "c.parquet")
    (desk / "d.txt").write_text("g\n")
    rows = list(read_rows("?.*"))
    assert [(row["index"], row["id"]) for row in rows] == [
        (0, "0"), (1, 7), (2, "2"), (3, "3"), (4, "4"), (5, "5"), (6, "6"),
    ]  # fmt: skip
    (desk / "c.parquet").rename(desk / "z.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["e", None]}), desk / "z.parquet")
    assert "z.parquet: row 2: " in refused("a.jsonl", "z.parquet")


def test_empty_files_are_said_and_not_in_the_way(desk: Path) -> None:
    (desk / "a.jsonl").write_text("")
    (desk / "c.jsonl").write_text("\n \n")
    (desk / "d.jsonl").write_text(COMPLETION % "d")
    (desk / "b.jsonl").write_text(COMPLETION % "b")
    sources = find_sources("?.jsonl")
    rows: list[Row] = [row for _, numbered in sources.each() for _, row in numbered]
    assert [row["id"] for row in rows] == ["b", "d"]
    assert sources.notes == ("2 of 4 files have no row, the first: a.jsonl",)
    assert sources.begins == [0, 0, 1, 1, 2]


def test_an_openai_batch_is_not_mixed_with_other_rows(desk: Path) -> None:
    (desk / "batch.jsonl").write_text(COMPLETION % "a")
    (desk / "table.csv").write_text("prompt\na\n")
    said = "batch.jsonl is an OpenAI batch, but {} is not: submit a job for each"
    assert refused("batch.jsonl", "table.csv") == said.format("table.csv")
    assert refused("shards", "batch.jsonl") == said.format("shards/part-1.jsonl")


def test_openai_batches_are_of_one_url(desk: Path) -> None:
    for name, line in (("a", COMPLETION), ("b", COMPLETION), ("c", EMBEDDING)):
        (desk / f"{name}.jsonl").write_text(line % name)
    assert [row["id"] for row in read_rows(["a.jsonl", "b.jsonl"])] == ["a", "b"]
    words = refused("a.jsonl", "b.jsonl", "c.jsonl")
    assert words == "c.jsonl: url '/v1/embeddings', but a.jsonl has '/v1/completions': submit a job for each"


def test_a_file_that_changes_meanwhile_is_named(desk: Path) -> None:
    rows = read_rows(["shards/part-1.jsonl", "shards/part-2.jsonl"])
    next(rows)
    (desk / "shards" / "part-1.jsonl").write_text(ROW % "other")
    with pytest.raises(InputError, match=r"^shards/part-1\.jsonl changed while it was read"):
        list(rows)


def test_progress_is_over_all_files(desk: Path) -> None:
    for name in "abcd":
        (desk / f"{name}.jsonl").write_text(ROW % "a" * 100)
    sources = find_sources("?.jsonl")
    shares = [sources.share for _, rows in sources.each() for number, _ in rows if number == 100]
    assert shares == [0.25, 0.5, 0.75, 1.0]


# -- standard input --------------------------------------------------------------------------------------------------
def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_lines_of_json(desk: Path, monkeypatch: pytest.MonkeyPatch, pack: type[bytes]) -> None:
    pipe(monkeypatch, pack((ROW % "a" + ROW % "b").encode()))
    assert prompts(STDIN) == ["a", "b"]
    assert prompts("shards/part-1.jsonl", STDIN) == ["part-1", "a", "b"], (
        "once more: it is kept while the process lives"
    )


def test_standard_input_is_read_at_several_places_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"".join(b'{"prompt": "%d"}\n' % number for number in range(50_000)))
    first, second = read_rows(STDIN), read_rows(STDIN)
    assert all(row == next(second) for row in first)


def test_standard_input_that_gives_nothing_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"")
    assert refused(STDIN) == "standard input has no prompt: write one row per line"
    pipe(monkeypatch, b'{"prompt": "a"}\nplain text\n')
    assert refused(STDIN).startswith("standard input:2: not valid JSON")
    for content in (b"id,prompt\n1,a\n", b"plain text\n", b"prompt\ta\n"):
        pipe(monkeypatch, content)
        assert refused(STDIN).startswith("standard input:1: not valid JSON")
        assert refused(STDIN).endswith("a table or plain text is read from a file named .csv, .tsv or .txt")
    pipe(monkeypatch, b"PAR1")
    assert refused(STDIN) == "input 'standard input' is Parquet: write it to a file named .parquet, and give that"
    pipe(monkeypatch, b"PK\x03\x04")
    assert refused(STDIN).startswith("input 'standard input' is compressed")
    pipe(monkeypatch, b'{"prompt": "a"}\n')
    assert refused(STDIN, STDIN) == "input 'standard input' is given twice: give it once"
    monkeypatch.setattr("sys.stdin", None)
    assert refused(STDIN) == "--input - reads standard input, but there is none: name a file"


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert "is a terminal: pipe rows into it" in refused(STDIN)


def test_no_room_for_standard_input_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"a")

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert "No space left on device: set TMPDIR to a folder with room for it" in refused(STDIN)


def test_standard_input_is_never_read_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"a")
    assert not StandardInput().is_seekable
    assert [str(file) for file in find_files([STDIN]).files] == ["standard input"]
