"""How a prompt begins: a chain of checksums, by which prompts that share a beginning are found and sorted.

vLLM keeps the KV cache of a prompt's whole blocks, and a later prompt with the same first blocks does not compute them
again. No tokenizer is at hand where jobs are submitted, so a beginning is measured in bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from struct import pack
from typing import Any

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


def prefix_key(row: Row) -> bytes:
    """The checksums of a row's prompt, each of everything up to its border; empty if vLLM would share none of it.

    The longer the beginning that two prompts share, the longer that of their keys.
    """
    sums, found, begin = [], 0, 0
    text = memoryview(_beginning(row))
    for end in _borders():
        if end > len(text):
            break
        found = zlib.crc32(text[begin:end], found)
        sums.append(found)
        begin = end
    return pack(f">{len(sums)}I", *sums)


def shared_levels(one: bytes, other: bytes) -> int:
    """How many checksums two keys share."""
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


def _beginning(row: Row) -> bytes:
    """A prompt as bytes of which two are equal for as long as the prompts are; of tokens, four bytes each."""
    if "error" in row or not is_shared(row.get("sampling") or {}):
        return b""
    adapter = msgspec.json.encode(row["lora"]) if row.get("lora") else b""  # vLLM shares nothing between adapters
    if "messages" in row:
        return adapter + b"".join(_of_chat(row))
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return adapter + prompt.encode("utf-8", "surrogatepass")
    if not all(type(token) is int and 0 <= token < 1 << 32 for token in prompt):  # an error row of its own, later
        return b""
    return adapter + pack(f">{len(prompt)}I", *prompt)


def _of_chat(row: Row) -> Iterator[bytes]:
    """What a chat template writes first, then turn by turn, up to what is no text."""
    head = (row.get("chat_template"), row.get("chat_template_kwargs"), row.get("tools"))
    if any(head):
        yield msgspec.json.encode(head)
    for message in row["messages"]:
        yield msgspec.json.encode({key: value for key, value in message.items() if key != "content"})
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            if not isinstance(part, str | dict | None):
                return
            if isinstance(part, dict) and not isinstance(part.get("text"), str):
                return
            text = part["text"] if isinstance(part, dict) else part
            yield (text or "").encode("utf-8", "surrogatepass")
