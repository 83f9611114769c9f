"""Rows that a caller in Python has in memory, as the input of a job: what is taken, what is refused, what is left."""

from __future__ import annotations

import datetime
import decimal
import gc
import importlib
import io
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.rows import kept_rows
from vllm_hpc.rows.given_input import rows_in
from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError, RequestError, VllmHpcError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.prompt_options import Files

pytestmark = pytest.mark.notebooks
CHAT = [{"role": "user", "content": "Hi"}]


def rows_of(given: Any, **options: Any) -> list[Row]:
    """The rows of a job with that input."""
    with rows_in({"input": given, **options}) as named:
        request = make_request({"model": "demo", **named})
        return list(read_rows(request.input, Reading.of(request)))


def contents(rows: list[Row]) -> list[Row]:
    """Rows without what every one has."""
    return [{name: value for name, value in row.items() if name not in ("index", "id")} for row in rows]


class Model:
    """As a model of pydantic."""

    def model_dump(self) -> dict[str, Any]:
        return {"prompt": "a"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b"], [{"prompt": "a"}, {"prompt": "b"}]),
        (("Is it? Yes.", ""), [{"prompt": "Is it? Yes."}, {"prompt": ""}]),
        (["a\nb\u2028c\0"], [{"prompt": "a\nb\u2028c\0"}]),
        ([{"prompt": "a", "url": 1}], [{"prompt": "a", "url": 1}]),
        ([CHAT, CHAT], [{"messages": CHAT}, {"messages": CHAT}]),
        ([tuple(CHAT)], [{"messages": CHAT}]),
        ([[{"from": "human", "value": "Hi"}]], [{"messages": CHAT}]),
        ([[1, 2], (3,)], [{"prompt": [1, 2]}, {"prompt": [3]}]),
        ({"prompt": ["a", "b"], "n": (1, 2)}, [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]),
        (range(0), InputError),
        ([Model()], [{"prompt": "a"}]),
    ],
    ids=range(11),
)
def test_rows_are_those_of_a_file(given: Any, expected: Any) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected):
            rows_of(given)
        return
    assert contents(rows_of(given)) == expected
    assert contents(rows_of(one for one in given)) == expected if not isinstance(given, dict) else True


def test_a_prompt_may_look_like_an_archive() -> None:
    """At the place where a tar archive says so."""
    (row,) = rows_of(["a" * 246 + "ustar"])
    assert row["prompt"].endswith("ustar")


def test_a_generator_is_read_once_a_row_at_a_time() -> None:
    asked: list[int] = []

    def rows() -> Iterator[str]:
        for number in range(5):
            asked.append(number)
            yield f"prompt {number}"

    assert len(rows_of(rows())) == 5
    assert asked == [0, 1, 2, 3, 4]


def test_values_become_json() -> None:
    (row,) = rows_of(
        [
            {
                "prompt": "a", "missing": float("nan"), "day": datetime.date(2026, 1, 2),
                "cost": decimal.Decimal("1.10"),
                "none": decimal.Decimal("NaN"), "took": datetime.timedelta(hours=1), "uuid": uuid.UUID(int=1),
                "path": Path("a/b"), "deep": {1: [float("nan"), (True, None)]}, "big": 2**70,
            }
        ]
    )  # fmt: skip
    assert contents([row]) == [
        {
            "prompt": "a", "missing": None, "day": "2026-01-02", "cost": "1.10", "none": None, "took": "PT3600S",
            "uuid": str(uuid.UUID(int=1)), "path": "a/b", "deep": {"1": [None, [True, None]]}, "big": 2**70,
        }
    ]  # fmt: skip


def looped() -> list[Any]:
    loop: list[Any] = []
    loop.append({"prompt": "a", "x": loop})
    return loop


class LazyFrame:
    collect_schema = None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], r"^input is empty \(list\): give at least one row$"),
        ({}, r"^input is empty"),
        ({"prompt": "a"}, r"^input is one row: write a list of rows, input=\[\{\.\.\.\}\]$"),
        ({"messages": CHAT}, r"^input is one row"),
        (CHAT, r"^input\[0\]: it is a message of a chat: write a list of chats"),
        ({"prompt": ["a"], "n": [1, 2]}, r"^input\['n'\] has 2 values, but input\['prompt'\] has 1$"),
        (
            [{"prompt": "a"}] * 3 + ["b"],
            r"^input\[3\]: it is a text, but input\[0\] is an object: give",
        ),
        (["a", 3], r"^input\[1\]: it must be a text, an object with 'prompt' or 'messages', or a chat .*, not an int$"),
        ([None], r"^input\[0\]: .*, not a NoneType$"),
        ([{"prompt": "a", "image": b"\xff"}], r"^input\[0\]: 'image' is bytes, which JSON does not have: decode them"),
        ([{"prompt": "a", "x": object()}], r"^input\[0\]: 'x' is an object, which JSON does not have: convert it"),
        ([{"prompt": "a", "x": {"b"}}], r"^input\[0\]: 'x' is a set"),
        ([{"prompt": "a", ("b",): 1}], r"is a tuple as a name"),
        ([{"prompt": "a", "x": {1: 2, "1": 3}}], r"^input\[0\]: 'x' is an object with two keys '1'"),
        ([{"prompt": "a", "x": 10**5000}], r"^input\[0\]: it has a whole number of more than 4300 digits"),
        (looped(), r"^input\[0\]: it is nested too deeply, or contains itself$"),
        ([{"question": "a"}], r"^input\[0\]: a row needs either 'prompt' or 'messages'"),
        ([{"id": 1, "prompt": "a"}] * 2, r"^input\[1\]: id 1 was given before.*\(the first: input\[0\]\)$"),
        (io.StringIO("a"), r"^input is .*StringIO: give the name of the file$"),
        (lambda: ["a"], r"^input is a function: call it"),
        (LazyFrame(), r"LazyFrame: collect\(\) it first$"),
    ],
    ids=range(21),
)
def test_what_is_wrong_is_one_line_with_its_place(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        rows_of(given)
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert not kept_rows._kept, "no row is left"


@pytest.mark.parametrize("given", [3, b"a", True])
def test_what_has_no_rows_is_refused_by_its_type(given: Any) -> None:
    with pytest.raises(RequestError, match=r"^--input must be a string or a list of strings"):
        rows_of(given)


def test_a_list_of_names_of_files_is_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a b.jsonl").write_text('{"prompt": "p"}\n')
    Path("folder").mkdir()
    Path("folder/c.txt").write_text("q\n")
    assert contents(rows_of(["a b.jsonl", "folder"])) == [{"prompt": "p"}, {"prompt": "q"}]
    assert contents(rows_of([Path("a b.jsonl"), "folder/*.txt"])) == [{"prompt": "p"}, {"prompt": "q"}]
    assert contents(rows_of(["folder", "Is it?"])) == [{"prompt": "folder"}, {"prompt": "Is it?"}]
    with pytest.raises(InputError, match=r"^no such input: 'x\.jsonl'"):
        rows_of(["x.jsonl", "y.csv"])
    with pytest.raises(RequestError, match=r"^input\[0\] is the file 'a b\.jsonl', but input\[1\] is none"):
        rows_of(["a b.jsonl", "Is it?"])
    with pytest.raises(InputError, match=r"^no such input: 'Is it so'"):
        rows_of(Files(["Is it so"]))


@pytest.mark.parametrize("given", ["What is the capital of France?", "a\nb", "Say " + "a" * 9000, "a \0"])
def test_a_text_that_is_no_file_says_how_to_run_it(given: str) -> None:
    with pytest.raises(RequestError, match=r"^input '.*' is not a file: to run a text itself, .* input=\['"):
        rows_of(given)


def test_columns_are_chosen(tmp_path: Path) -> None:
    row = {"question": "q", "qid": 7, "id": 1, "url": "u", "text": "t", "image": b""}
    expected = {"index": 0, "id": 7, "prompt": "q", "url": "u"}
    assert rows_of([row], prompt="question", id="qid", keep=["url"]) == [expected]
    (row_of_template,) = rows_of([row], prompt="{{ qid }}: {{ question }} {{ text }}", id="qid", keep="url")
    assert row_of_template == {**expected, "prompt": "7: q t"}
    del row["image"]
    assert rows_of([row], prompt="question", id="qid") == [{**expected, "in_id": 1, "in_text": "t"}]
    assert rows_of([row], prompt="question", id="qid", keep=[]) == [{"index": 0, "id": 7, "prompt": "q"}]
    (tmp_path / "a.csv").write_text("question,qid,url,other\nq,7.0,u,o\n")
    options: dict[str, Any] = {"prompt": "question", "id": "qid"}
    assert rows_of(str(tmp_path / "a.csv"), keep=["url"], **options) == [{**expected, "id": "7"}]
    assert rows_of([row], prompt="question", keep=["question"]) == [
        {"index": 0, "id": 1, "question": "q", "prompt": "q"}
    ], "asked for by its name, it is copied, too"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": ["urll"]}, r"^input has no row with a field 'urll': correct --keep 'urll', or"),
        ({"id": "qidd"}, r"^input\[0\]: the row has no 'qidd' \(--id-column\), only 'prompt', 'qid'"),
        ({"id": 3}, "^id must be the name of the column"),
        ({"id": "qid", "prompt": "qid"}, "both 'qid'"),
        ({"id": "a", "id_column": "b"}, "^id and id_column are both given"),
        ({"id": "prompt"}, "^--id-column prompt is what the model reads"),
        ({"id": " "}, "^--id-column must be"),
        ({"keep": [" "]}, "^--keep must be"),
        ({"keep": 3}, r"^--keep must be a list of strings such as"),
        ({"prompt": "{{"}, "^--prompt-template"),
    ],
    ids=range(10),
)
def test_columns_that_are_not_there_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(VllmHpcError, match=words):
        rows_of([{"prompt": "p", "qid": 1}], **options)


def test_an_error_of_the_caller_s_generator_is_his(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def rows() -> Iterator[str]:
        yield "a"
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="the database is gone") as caught:
        prepare(input=rows(), rehearse=True, scheduler="local")
    assert caught.value.__notes__ == ["vllm-hpc: raised by input after 1 row; nothing was submitted"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(InputError, match=r"No space left on device: set TMPDIR to a folder with room for them$"):
        rows_of(["a"])


def test_a_job_has_the_rows_and_says_where_they_are_from(desk: Path) -> None:
    prepared = prepare(input=(text for text in "ab"), rehearse=True, scheduler="local")
    assert prepared.request.input == "<2 rows from memory: generator>"
    assert plan_only(input=["a"], rehearse=True, scheduler="local").layout.tp == 1
    other = prepare(input=(text for text in "cd"), rehearse=True, scheduler="local", name="other")
    assert other.request.input == "<2 rows from memory: generator, 2>", "both are kept"
    assert [[row["prompt"] for row in one.intake.rows()] for one in (prepared, other)] == [["a", "b"], ["c", "d"]]
    del prepared, other
    gc.collect()
    with pytest.raises(InputError, match="no such input"):
        prepare(input=Files(["<2 rows from memory: generator>"]), rehearse=True, scheduler="local")
    assert list(desk.glob("runs")) == []


LIBRARIES = ("pandas", "polars", "pyarrow", "datasets")
COLUMNS = {"question": ["p", "q"], "qid": ["x", "y"], "n": [1, None], "f": [0.5, None]}
MADE: dict[str, Callable[[Any], Any]] = {
    "pandas": lambda pandas: pandas.DataFrame(COLUMNS).astype({"n": "Int64"}),
    "polars": lambda polars: polars.DataFrame(COLUMNS),
    "pyarrow": lambda pyarrow: pyarrow.table(COLUMNS).to_reader(),
    "datasets": lambda datasets: datasets.Dataset.from_dict(COLUMNS),
}
SLOW = {"datasets": pytest.mark.full}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in LIBRARIES])
def test_tables_are_rows(name: str) -> None:
    library = pytest.importorskip(name)
    found = rows_of(MADE[name](library), prompt="question", id="qid")
    assert found == [
        {"index": 0, "id": "x", "prompt": "p", "n": 1, "f": 0.5},
        {"index": 1, "id": "y", "prompt": "q", "n": None, "f": None},
    ]


def test_pandas_has_an_index_and_times() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b"], "at": pandas.to_datetime(["2026-01-02", None])})
    frame.index = pandas.Index(["x", "y"], name="key")
    assert [row["at"] for row in rows_of(frame)] == ["2026-01-02T00:00:00", None]
    assert [row["id"] for row in rows_of(frame, id="key")] == ["x", "y"]
    assert contents(rows_of(frame["prompt"])) == [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(InputError, match=r"^input\.iloc\[0\]: 'image' is bytes"):
        rows_of(frame.assign(image=b""))
    for wrong, words in (
        (frame.rename(columns={"at": "prompt"}), "two columns 'prompt': rename one"),
        (pandas.concat({"a": frame}, axis=1), "several levels"),
    ):
        with pytest.raises(InputError, match=words):
            rows_of(wrong)
    assert "int64" in str(pandas.Series([1]).dtype)
    numpy = importlib.import_module("numpy")
    row = {"prompt": numpy.str_("a"), "i": numpy.int64(1), "f": numpy.float32(0.5), "a": numpy.arange(2)}
    row |= {"t": numpy.datetime64("2026-01-02"), "nat": numpy.datetime64("NaT"), "nan": numpy.float32("nan")}
    assert contents(rows_of([row])) == [
        {"prompt": "a", "i": 1, "f": 0.5, "a": [0, 1], "t": "2026-01-02", "nat": None, "nan": None}
    ]


def test_arrow_s_interface_needs_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Table:
        def __arrow_c_stream__(self) -> None:
            """Not called."""

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"is not installed: pip install 'vllm-hpc\[tables\]'$"):
        rows_of(Table())
