"""Of an OpenAI batch a shard's line has in it the line that the user gets, under ``line``."""

from __future__ import annotations

import msgspec

_NONE = msgspec.Raw()


class _Held(msgspec.Struct):
    line: msgspec.Raw = _NONE


class _Batch(msgspec.Struct):
    """What tells such a line from a field ``line`` of the user's own."""

    custom_id: msgspec.Raw


_HELD, _BATCH = msgspec.json.Decoder(_Held), msgspec.json.Decoder(_Batch)


def output_line(line: bytes) -> bytes:
    """The line that is written to outputs.jsonl for a line of a shard."""
    held = _HELD.decode(line).line
    try:
        _BATCH.decode(held)
    except msgspec.DecodeError:  # none, or no object with that key
        return line
    return bytes(held) + b"\n"
