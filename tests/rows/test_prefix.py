"""How a prompt begins, in checksums: equal for as long as vLLM would take blocks from its cache, and no longer."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_hpc.rows.prefix import level_bytes, prefix_head, prefix_key, prefix_text, shared_levels
from vllm_hpc.rows.row import Row

pytestmark = pytest.mark.throughput
LONG = "".join(random.Random(1).choices("abcdefgh ", k=5000))


def chat(*contents: Any, role: str = "user", **more: Any) -> Row:
    return {"messages": [{"role": role, "content": content} for content in contents], **more}


def shared(one: Row, other: Row) -> int:
    """The bytes that two rows are said to share."""
    return level_bytes(shared_levels(prefix_key(prefix_text(one)), prefix_key(prefix_text(other))))


@given(st.integers(0, 4000), st.integers(0, 900))
def test_shared_text_is_known_to_within_11_percent(length: int, more: int) -> None:
    one, other = {"prompt": LONG[:length] + "x" * more}, {"prompt": LONG[:length] + "y" * more}
    found = shared(one, other)
    assert found <= length + (0 if more else 1)
    assert found == 0 if length < 64 else found >= length / 1.13 - 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": LONG}, {"prompt": LONG}),
        ({"prompt": list(range(2000))}, {"prompt": [*range(1800), *range(200)]}),
        ({"prompt": "é" * 500}, {"prompt": "é" * 500 + "x"}),
        ({"prompt": "読" * 300}, {"prompt": "読" * 300 + "x"}),
        ({"prompt": "\ud800" * 200}, {"prompt": "\ud800" * 200}),
        (chat(LONG, "a"), chat(LONG, "b")),
        (chat([{"type": "text", "text": LONG}]), chat([{"type": "text", "text": LONG}, {"type": "text", "text": "b"}])),
        (chat(LONG, chat_template="{{ a }}"), chat(LONG, chat_template="{{ a }}")),
        (chat(LONG, tools=[{"type": "function"}]), chat(LONG + "b", tools=[{"type": "function"}])),
        ({"prompt": LONG, "lora": "a"}, {"prompt": LONG, "lora": "a"}),
        ({"prompt": LONG, "sampling": {"max_tokens": 3}}, {"prompt": LONG, "sampling": {"prompt_logprobs": None}}),
    ],
)
def test_what_begins_alike_is_found(one: Row, other: Row) -> None:
    assert shared(one, other) > 500
    assert prefix_head(one) == prefix_head(other) != 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": LONG, "lora": "a"}, {"prompt": LONG}),
        ({"prompt": LONG, "lora": "a"}, {"prompt": LONG, "lora": "b"}),
        (chat(LONG), {"prompt": LONG}),
        (chat(LONG, role="system"), chat(LONG)),
        (chat(LONG, chat_template="{{ a }}"), chat(LONG)),
        (chat(LONG, tools=[{"type": "function"}]), chat(LONG)),
        (chat(LONG, chat_template_kwargs={"thinking": True}), chat(LONG)),
        (chat([{"type": "image_url", "image_url": {"url": "a"}}, {"type": "text", "text": LONG}]),) * 2,
        ({"prompt": LONG, "sampling": {"prompt_logprobs": 0}},) * 2,
        ({"prompt": LONG, "sampling": {"truncate_prompt_tokens": 100}},) * 2,
        ({"prompt": LONG, "error": {"message": "no"}},) * 2,
        ({"prompt": [1.5] * 100},) * 2,
        ({"prompt": [-1] * 100},) * 2,
        ({"prompt": [1 << 40] * 100},) * 2,
        ({"prompt": "short"},) * 2,
        ({"prompt": []},) * 2,
        (chat(None),) * 2,
    ],
)
def test_what_vllm_does_not_share_is_not_counted(one: Row, other: Row) -> None:
    assert shared(one, other) == 0


def test_parts_after_an_image_are_not_counted() -> None:
    image = {"type": "image_url", "image_url": {"url": "a"}}
    one, other = (chat([{"type": "text", "text": LONG[:1000]}, image, {"type": "text", "text": LONG}]) for _ in "ab")
    assert 500 < shared(one, other) < 1100


@given(
    st.lists(st.sampled_from([{"prompt": LONG[:500]}, {"prompt": "é" * 100}, chat(LONG[:90]), {"prompt": [7] * 20}]))
)
def test_rows_with_a_head_have_a_key_that_begins_with_it(rows: list[Row]) -> None:
    for row in rows:
        assert prefix_key(prefix_text(row))[:4] == prefix_head(row).to_bytes(4, "little")
        assert all(prefix_text(row)[:most] == prefix_text(row, most) for most in (1, 63, 100, 1024))


@pytest.mark.parametrize("letter", ["a", "é", "読", "😀"])
def test_the_first_64_bytes_count_not_characters(letter: str) -> None:
    enough = -(-64 // len(letter.encode()))
    assert (
        prefix_head({"prompt": letter * enough}) == prefix_head({"prompt": letter * enough, "sampling": {"n": 1}}) != 0
    )
    assert prefix_head({"prompt": letter * (enough - 1)}) == 0
