"""Formats of the input: tables and OpenAI batch files, read as they are meant or refused with file and line."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows.read import checked_rows, find_sources, read_rows
from vllm_hpc.rows.row import Row, carried_fields
from vllm_hpc.spec.errors import InputError

CHAT = [{"role": "user", "content": "hi"}]
CHATS, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def read(folder: Path, content: str | bytes, name: str) -> list[Row]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(str(path)))


def request(body: Any, url: str = CHATS, custom_id: Any = "a", **more: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more}) + "\n"


def chat(**body: Any) -> str:
    return request({"model": "m", "messages": CHAT, **body})


def completion(**body: Any) -> str:
    return request({"prompt": "p", **body}, COMPLETIONS)


def embedding(**body: Any) -> str:
    return request({"input": "p", **body}, EMBEDDINGS)


# -- OpenAI batch ----------------------------------------------------------------------------------------------------
def test_a_batch_of_chats(tmp_path: Path) -> None:
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    (row,) = read(tmp_path, chat(max_tokens=5, **kwargs), "in.jsonl")
    assert row == {
        "index": 0,
        "id": "a",
        "batch": {"custom_id": "a", "url": CHATS, "model": "m"},
        "messages": CHAT,
        "sampling": {"max_tokens": 5},
        "chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "low"},
    }
    assert carried_fields(row) == {}


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        (completion(), "p"),
        (completion(prompt=[1, 2]), [1, 2]),
        (completion(prompt=["one"]), "one"),
        (completion(prompt=[[1, 2]]), [1, 2]),
        (embedding(input="text"), "text"),
        (embedding(input=["text"], encoding_format="float", user="u"), "text"),
    ],
)
def test_a_batch_of_prompts(tmp_path: Path, line: str, prompt: Any) -> None:
    (row,) = read(tmp_path, line, "in.jsonl")
    assert row["prompt"] == prompt
    assert (row.get("task") == "embed") == (row["batch"]["url"] == EMBEDDINGS)


@pytest.mark.parametrize(
    ("url", "body"),
    [(CHATS, {"messages": CHAT}), (COMPLETIONS, {"prompt": "p"}), (EMBEDDINGS, {"input": "p"})],
)
def test_a_url_without_a_version_is_azures(tmp_path: Path, url: str, body: Row) -> None:
    lines = request(body, url.removeprefix("/v1")) + request(body, url, "b")
    assert [row["batch"]["url"] for row in read(tmp_path, lines, "in.jsonl")] == [url, url]


@pytest.mark.parametrize(
    ("body", "url"), [({"messages": CHAT}, CHATS), ({"prompt": "p"}, COMPLETIONS), ({"input": "p"}, EMBEDDINGS)]
)
def test_a_request_without_a_url_is_told_which(tmp_path: Path, body: Row, url: str) -> None:
    """As Mistral's, Together's and Fireworks'."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, json.dumps({"custom_id": "a", "body": body}), "in.jsonl")
    said = """'url' is missing: a batch request has 'custom_id', 'url' and 'body': add it, as jq -c '. + """
    assert f'{said}{{url: "{url}"}}\'' in str(caught.value)


def test_a_prompt_of_a_request_is_not_told_about_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'prompt' must be a string or a list of token ids$"):
        read(tmp_path, completion(prompt={"text": "a"}), "in.jsonl")


def test_other_keys_of_a_request_are_said_once(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(
        request({"messages": CHAT}, metadata={"a": 1}, temperature=0, none=None)
        + request({"messages": CHAT}, custom_id="b", metadata=2)
    )
    sources = find_sources(str(file))
    rows = list(checked_rows(sources))
    assert [carried_fields(row) for row in rows] == [{}, {}]
    (note,) = sources.row_notes.lines()
    assert note.startswith(
        "2 rows: neither applied nor copied: 'metadata', 'temperature': a batch request has only custom_id"
    )


def test_an_embedding_may_be_shortened(tmp_path: Path) -> None:
    (row,) = read(tmp_path, embedding(dimensions=64), "in.jsonl")
    assert row["sampling"] == {"dimensions": 64}


SCHEMA = {"type": "object"}
SAMPLING: list[tuple[str, dict[str, Any]]] = [
    (chat(temperature=0, top_p=0.5, n=2), {"temperature": 0, "top_p": 0.5, "n": 2}),
    (chat(stop=["x"], seed=1), {"stop": ["x"], "seed": 1}),
    (chat(presence_penalty=1, frequency_penalty=2), {"presence_penalty": 1, "frequency_penalty": 2}),
    (chat(logit_bias={"5": -100}), {"logit_bias": {"5": -100}}),
    (chat(max_tokens=5, max_completion_tokens=7), {"max_tokens": 7}),
    (chat(logprobs=True), {"logprobs": 0}),
    (chat(logprobs=True, top_logprobs=3), {"logprobs": 3}),
    (chat(logprobs=False, top_logprobs=0), {}),
    (completion(logprobs=2), {"logprobs": 2}),
    (completion(best_of=2, n=2), {"n": 2}),
    (chat(response_format={"type": "text"}), {}),
    (chat(response_format={"type": "json_object"}), {"structured_outputs": {"json_object": True}}),
    (
        chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}),
        {"structured_outputs": {"json": SCHEMA}},
    ),
    (chat(guided_json=SCHEMA), {"structured_outputs": {"json": SCHEMA}}),
    (chat(guided_regex="a+"), {"structured_outputs": {"regex": "a+"}}),
    (chat(guided_choice=["a"]), {"structured_outputs": {"choice": ["a"]}}),
    (chat(structured_outputs={"grammar": "g"}), {"structured_outputs": {"grammar": "g"}}),
    (chat(top_k=4, min_p=0.1, repetition_penalty=1.1), {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1}),
    (chat(stop_token_ids=[1], ignore_eos=True), {"stop_token_ids": [1], "ignore_eos": True}),
    (chat(min_tokens=2), {"min_tokens": 2}),
    (chat(user="u", metadata={"a": 1}, store=True, service_tier="flex", stream=False), {}),
    (chat(tools=[{"type": "function"}], tool_choice="none"), {}),
    (chat(tools=[], temperature=None, stream=None, audio=None), {}),
]


@pytest.mark.parametrize(("line", "sampling"), SAMPLING, ids=lambda value: str(value)[:1])
def test_parameters_become_vllms(tmp_path: Path, line: str, sampling: Row) -> None:
    (row,) = read(tmp_path, line, "in.jsonl")
    assert row["sampling"] == sampling


REFUSED_BATCHES: list[tuple[str, int, str]] = [
    (chat(tools=[{"type": "function"}]), 1, "'tools'"),
    (chat(tool_choice="required"), 1, "'tool_choice'"),
    (chat(functions=[{}]), 1, "'functions'"),
    (chat(stream=True), 1, "'stream'"),
    (chat(stream=0), 1, "'stream'"),
    (chat(audio={}), 1, "'audio'"),
    (chat(modalities=["text", "audio"]), 1, "'modalities'"),
    (chat(n=2, best_of=4), 1, "'best_of'"),
    (chat(use_beam_search=True), 1, "'use_beam_search'"),
    (chat(nonsense=1), 1, "'nonsense'"),
    (chat(logprobs=2), 1, "'logprobs'"),
    (chat(top_logprobs=2), 1, "'top_logprobs'"),
    (chat(max_tokens=0), 1, "max_tokens"),
    (chat(max_tokens="5"), 1, "max_tokens"),
    (chat(response_format={"type": "grammar"}), 1, "'response_format'"),
    (chat(response_format="json"), 1, "'response_format'"),
    (chat(response_format={"type": "json_schema"}), 1, "schema"),
    (chat(guided_json={}, response_format={"type": "json_object"}), 1, "exclude each other"),
    (chat(structured_outputs=3), 1, "'structured_outputs'"),
    (chat(chat_template_kwargs=3), 1, "'chat_template_kwargs'"),
    (chat(messages=[]), 1, "'messages'"),
    (chat(model=3), 1, "'model'"),
    (completion(prompt=["a", "b"]), 1, "has 2 prompts"),
    (completion(prompt=""), 1, "is empty"),
    (completion(prompt={}), 1, "'prompt' must be"),
    (completion(echo=True), 1, "'echo'"),
    (completion(suffix="s"), 1, "'suffix'"),
    (completion(logprobs=True), 1, "'logprobs'"),
    (embedding(input=["a", "b"]), 1, "has 2 prompts"),
    (embedding(input=[]), 1, "is empty"),
    (embedding(encoding_format="base64"), 1, "'encoding_format'"),
    (embedding(dimensions=0), 1, "'dimensions'"),
    (embedding(temperature=0), 1, "'temperature'"),
    (request({"input": "a"}, COMPLETIONS), 1, "'prompt' is missing"),
    (request([]), 1, "'body'"),
    (request({}, "/v1/responses"), 1, "/v1/responses"),
    (request({}, ["x"]), 1, "is not supported"),  # type: ignore[arg-type]
    (request({"messages": CHAT}, custom_id=3), 1, "'custom_id'"),
    (request({"messages": CHAT}, custom_id=""), 1, "'custom_id'"),
    (request({"messages": CHAT}, method="GET"), 1, "'method'"),
    (
        request({"messages": CHAT}, sampling={}),
        1,
        "'sampling' is not a field of a batch request: put it into the 'body'",
    ),
    (request({"messages": CHAT}, tools=[]), 1, "'tools' is not a field of a batch request"),
    (chat() + chat(), 2, "'a' was given before"),
    (chat() + completion(), 2, "use one url per file"),
    (chat() + '{"prompt": "x"}\n', 2, "like the first line: use one kind per file"),
    ('{"prompt": "x"}\n' + chat(), 2, "use one kind per file"),
]


@pytest.mark.parametrize(("content", "line", "said"), REFUSED_BATCHES, ids=lambda value: str(value)[:1])
def test_what_cannot_be_done_is_refused_with_its_word(tmp_path: Path, content: str, line: int, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, "in.jsonl")
    assert f"in.jsonl:{line}: " in str(caught.value)
    assert said in str(caught.value)


# -- plain rows ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a", "prompt": "b"}', "'prompt' appears twice"),
        ('{"id": 1, "prompt": "a", "id": 2}', "'id' appears twice"),
        ('{"messages": [{"role": "user", "content": "c"}], "chat_template_kwargs": 3}', "'chat_template_kwargs'"),
        ('{"prompt": "a", "tag": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"prompt": "a", "tag": 1e999}', "not valid JSON"),
        ("\0" * 5000, "not valid JSON"),
        ('[{"prompt": "a"}\n', "the file ends within the array"),
    ],
    ids=lambda value: value[:20],
)
def test_a_row_that_leaves_doubt_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=r"in\.jsonl:1: ") as caught:
        read(tmp_path, content, "in.jsonl")
    assert said in str(caught.value)


def test_an_id_inside_a_carried_field_is_none(tmp_path: Path) -> None:
    (row,) = read(tmp_path, '{"id": "x", "prompt": "a", "user": {"id": 3, "prompt": 4}}', "in.jsonl")
    assert carried_fields(row) == {"user": {"id": 3, "prompt": 4}}


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x04\x22\x4d\x18"])
@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.csv"])
def test_what_is_compressed_in_another_way_is_refused_whatever_its_name(
    tmp_path: Path, magic: bytes, name: str
) -> None:
    with pytest.raises(InputError, match="is compressed: unpack it first"):
        read(tmp_path, magic + b"\0" * 9, name)


# -- CSV -------------------------------------------------------------------------------------------------------------
def test_a_csv(tmp_path: Path) -> None:
    content = '\ufeffprompt,id,tag,sampling\r\n"a\n""b"", c",x,007,"{""n"": 2}"\r\n\r\nd\0,,,\r\n'
    assert read(tmp_path, content, "in.CSV") == [
        {"index": 0, "id": "x", "prompt": 'a\n"b", c', "tag": "007", "sampling": {"n": 2}},
        {"index": 1, "id": "1", "prompt": "d\0", "tag": ""},
    ]


def test_a_csv_of_chats(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "messages\n" + _quoted(CHAT), "in.csv")
    assert row["messages"] == CHAT


def _quoted(value: Any) -> str:
    return '"' + json.dumps(value).replace('"', '""') + '"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no prompt"),
        (b"prompt,id\n", "has no prompt"),
        (b"frage;id\na;1\n", ":1: no column 'prompt' or 'messages', only 'frage', 'id'"),
        (b"prompt,prompt\na,b\n", ":1: column 'prompt' appears twice"),
        (b"prompt,\na,0\n", ":2: a value in column 2, which has no name"),
        (b"prompt,id\na,1\nb,2,3\n", ":3: 3 cell"),
        (b'prompt,id\n"a\nb",1\nc\n', ":4: 1 cell"),
        (b'prompt,id\nx,1\n"a,1\nb,2\n', ":3: unexpected end"),
        (b'prompt,id\n"a"b,1\n', ":2: ',' expected"),
        (b"prompt,id\ra,1\rb,2\r", ":1: lines end in CR"),
        (b"prompt\n\xe9\n", ":2: not UTF-8"),
        ("prompt\na\n".encode("utf-16"), ":1: not UTF-8"),
        (b"prompt,id\n,1\n", ":2: a row needs either"),
        (b"prompt,messages\na,b\n", ":2: column 'messages': not valid JSON"),
        (b"prompt,sampling\na,3\n", ":2: 'sampling' must be"),
        (b"prompt,id\na,x\nb,x\n", ":3: id 'x' was given before"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_csv_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, "in.csv")
    assert said in str(caught.value)


# -- Parquet ---------------------------------------------------------------------------------------------------------
def parquet(folder: Path, columns: dict[str, Any], types: dict[str, Any] | None = None) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    arrays = {name: arrow.array(values, type=(types or {}).get(name)) for name, values in columns.items()}
    pq.write_table(arrow.table(arrays), folder / "in.parquet")
    return folder / "in.parquet"


def test_parquet_values_become_json(tmp_path: Path) -> None:
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    columns = {
        "prompt": ["a"], "id": [7], "day": [when.date()], "when": [when], "price": [decimal.Decimal("1.10")],
        "score": [math.nan], "flag": [True], "nested": [{"a": [1.5, None]}], "nothing": [None],
        "sampling": ['{"n": 2}'],
    }  # fmt: skip
    (row,) = read_rows(str(parquet(tmp_path, columns)))
    assert row == {
        "index": 0, "id": 7, "prompt": "a", "sampling": {"n": 2}, "day": "2026-01-02", "when": "2026-01-02T03:04:05",
        "price": "1.10", "score": None, "flag": True, "nested": {"a": [1.5, None]}, "nothing": None,
    }  # fmt: skip


def test_parquet_of_structs_and_token_ids(tmp_path: Path) -> None:
    columns = {
        "messages": [[{"role": "user", "content": "hi", "name": None}], None],
        "prompt": [None, [1, 2]],
        "sampling": [{"n": 2, "seed": None}, None],
        "id": ["x", None],
    }
    assert list(read_rows(str(parquet(tmp_path, columns)))) == [
        {"index": 0, "id": "x", "messages": CHAT, "sampling": {"n": 2}},
        {"index": 1, "id": "1", "prompt": [1, 2]},
    ]


PARQUETS: list[tuple[dict[str, Any], str]] = [
    ({"question": ["a"]}, "no column 'prompt' or 'messages', only 'question'"),
    ({"prompt": ["a", None]}, "row 2: a row needs either"),
    ({"prompt": [1.5]}, "row 1: 'prompt' must be"),
    ({"prompt": [b"a"]}, "row 1: column 'prompt' (bytes) is of a type that JSON cannot express: convert it"),
    ({"prompt": ["a"], "id": [b"x"]}, "row 1: column 'id' (bytes) is of a type that JSON cannot express"),
    ({"prompt": ["a"], "sampling": [{"stop": [b"x"]}]}, "row 1: column 'sampling' (bytes) is of a type"),
    ({"prompt": ["a"], "id": [math.inf]}, "row 1: 'id' contains Infinity"),
    ({"prompt": ["a"], "id": [1.5]}, "row 1: 'id' must be"),
    ({"prompt": ["a", "b"], "id": [1, 1]}, "row 2: id 1 was given before"),
    ({"messages": [["hello"]]}, "row 1: every message"),
    ({"messages": [[{"content": "a"}]]}, "row 1: every message"),
    ({"messages": ["["]}, "row 1: column 'messages': not valid JSON"),
    ({"prompt": []}, "has no prompt"),
]


@pytest.mark.parametrize(("columns", "said"), PARQUETS, ids=lambda value: str(value)[:40])
def test_parquet_that_holds_no_rows_for_us_is_refused(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_rows(str(parquet(tmp_path, columns))))
    assert said in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 50, -1])
def test_truncated_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    file = parquet(tmp_path, {"prompt": ["a"] * 100})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"in\.parquet: not readable as Parquet"):
        list(read_rows(str(file)))


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path, {"prompt": [f"text {n}" for n in range(1000)]})
    data = bytearray(file.read_bytes())
    data[8:400] = b"\xff" * 392
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"in\.parquet"):
        list(read_rows(str(file)))


def test_without_pyarrow_the_words_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'vllm-hpc\[tables\]'"):
        read(tmp_path, b"PAR1", "in.parquet")
