"""How a prompt begins: a chain of checksums, by which prompts that share a beginning are found and sorted.

vLLM keeps the KV cache of a prompt's whole blocks, and a later prompt with the same first blocks does not compute them
again. No tokenizer is at hand where jobs are submitted, so a beginning is measured in bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise, starmap
from typing import Any
from zlib import crc32

import msgspec

from vllm_hpc.rows.row import Row
from vllm_hpc.spec.sampling_names import CUTS

# Where checksums are taken, in bytes from the beginning: at 64 (16 tokens, the block of vLLM's cache), and then six
# times in each doubling, so that a shared length is known to within 11 %.
_FIRST, _IN_A_DOUBLING = 64, 6
# The bytes of one checksum in a key. Two beginnings with the same one are taken for equal, which costs a place in the
# order and nothing else.
SUM_BYTES = 4
# A key has no more, which covers prompts of 2 GiB.
_MOST_SUMS = 150
# Sampling with which vLLM computes a prompt whole, or not from its first token on.
_UNSHARED = frozenset({"prompt_logprobs", *CUTS})


def prefix_head(row: Row) -> int:
    """The first checksum of a row's prompt; 0 if it has none, or vLLM would share none of it."""
    text = prefix_text(row, _FIRST)
    return crc32(text) if len(text) == _FIRST else 0


def prefix_text(row: Row, most: int | None = None) -> bytes:
    """A row's prompt, or its first ``most`` bytes, as bytes of which two are equal for as long as the prompts are.

    Of tokens, four bytes each; none of what vLLM would not share.
    """
    prompt = row.get("prompt")
    if type(prompt) is str and not (row.get("sampling") or row.get("lora") or "error" in row):  # most rows, and fast
        return prompt[:most].encode("utf-8", "surrogatepass")[:most]
    begin = bytearray()
    for part in _beginning(row, most):
        begin += part[:most]
        if most is not None and len(begin) >= most:
            break
    return bytes(begin[:most])


def prefix_key(text: bytes) -> bytes:
    """The checksums of a prompt, one for each piece between two borders.

    The longer the beginning that two prompts share, the longer that of their keys.
    """
    pieces = map(text.__getitem__, _pieces()[: bisect_right(_borders(), len(text))])
    return array("I", map(crc32, pieces)).tobytes()


def shared_levels(one: bytes, other: bytes) -> int:
    """How many checksums two keys share."""
    if one[:SUM_BYTES] != other[:SUM_BYTES]:
        return 0
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most // SUM_BYTES
    low, high = 0, most // SUM_BYTES
    while high - low > 1:
        middle = (low + high) // 2
        same = one[: middle * SUM_BYTES] == other[: middle * SUM_BYTES]
        low, high = (middle, high) if same else (low, middle)
    return low


def level_bytes(level: int) -> int:
    """The bytes of a prompt up to a border; level 0 is its beginning."""
    return _borders()[level - 1] if level else 0


def is_shared(sampling: dict[str, Any]) -> bool:
    """Whether vLLM takes the beginning of a prompt with this sampling from its cache."""
    return all(sampling.get(name) is None for name in _UNSHARED)


@cache
def _borders() -> tuple[int, ...]:
    return tuple(int(_FIRST * 2 ** (number / _IN_A_DOUBLING)) for number in range(_MOST_SUMS))


@cache
def _pieces() -> tuple[slice, ...]:
    return tuple(starmap(slice, pairwise((0, *_borders()))))


def _beginning(row: Row, most: int | None = None) -> Iterator[bytes]:
    """The parts of prefix_text. ``most``: of a prompt no more characters, or tokens, are needed."""
    sampling = row.get("sampling")
    if "error" in row or (sampling and not is_shared(sampling)):
        return
    if row.get("lora"):  # vLLM shares nothing between adapters
        yield msgspec.json.encode(row["lora"])
    if "messages" in row:
        yield from _of_chat(row)
        return
    prompt = row["prompt"][:most]
    if isinstance(prompt, str):
        yield prompt.encode("utf-8", "surrogatepass")
        return
    with suppress(TypeError, OverflowError):  # no list of tokens: an error row of its own, later
        yield array("I", prompt).tobytes()


def _of_chat(row: Row) -> Iterator[bytes]:
    """What a chat template writes first, then turn by turn, up to what is no text."""
    head = (row.get("chat_template"), row.get("chat_template_kwargs"), row.get("tools"))
    if any(head):
        yield msgspec.json.encode(head)
    for message in row["messages"]:
        content = message.get("content")
        yield msgspec.json.encode({key: value for key, value in message.items() if key != "content"})
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part or ""
            if not isinstance(text, str):
                return
            yield text.encode("utf-8", "surrogatepass")
