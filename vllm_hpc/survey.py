"""What an input asks of the engine: how many rows, how long the longest can get, how many tokens in all."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.checks import as_path
from vllm_hpc.rows import Row, read_rows

# Files up to this size are read whole for a plan; of larger ones the first rows (a submit reads all rows anyway).
WHOLE_BYTES = 32 << 20
SAMPLE_ROWS = 10_000
# No tokenizer makes more tokens than a text has bytes (byte fallback is the worst case); special tokens come on top.
SPECIAL_TOKENS = 16
TOKENS_PER_MESSAGE = 64  # the role, and what a chat template writes around a message
# English text in the tokenizers of today's models: 4 to 4.5 bytes a token. Only for estimates, never for limits.
BYTES_PER_TOKEN = 4


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """An input in numbers. ``longest``: the most tokens that a row can take, prompt and output, whatever the tokenizer.

    ``prompt_tokens`` and ``output_tokens`` are totals: estimated from bytes, and as if every row used its max_tokens.
    """

    rows: int
    longest: int
    prompt_tokens: int
    output_tokens: int
    is_sample: bool = False
    has_chats: bool = False

    @property
    def tokens_per_row(self) -> int:
        """Prompt and output of a row on average, at least 1."""
        return max(1, (self.prompt_tokens + self.output_tokens) // max(1, self.rows))


def survey(path: str | None, max_tokens: int, template_bytes: int, whole: bool) -> Survey:
    """Read an input (None: the sample prompts), checking every row. Raises InputError.

    ``max_tokens`` is for rows that name none, ``template_bytes`` the length of the model's chat template, of which a
    chat can repeat each fixed text once. With ``whole`` false a large file is only sampled.
    """
    file = None if path is None else as_path(path, "--input")
    size = file.stat().st_size if file and file.is_file() else 0
    sampling = not whole and size > WHOLE_BYTES
    rows = longest = prompt_tokens = output_tokens = read = 0
    has_chats = False
    for row in read_rows(path):
        most, typical, length = _prompt(row, template_bytes)
        output = _max_tokens(row, max_tokens)
        has_chats = has_chats or "messages" in row
        rows, read = rows + 1, read + length
        longest = max(longest, most + output)
        prompt_tokens, output_tokens = prompt_tokens + typical, output_tokens + output
        if sampling and rows >= SAMPLE_ROWS:
            share = max(1.0, size / max(1, read))
            return Survey(
                rows=int(rows * share), longest=longest, prompt_tokens=int(prompt_tokens * share),
                output_tokens=int(output_tokens * share), is_sample=True,
                has_chats=has_chats,
            )  # fmt: skip
    return Survey(
        rows=rows, longest=longest, prompt_tokens=prompt_tokens, output_tokens=output_tokens, has_chats=has_chats
    )


def _prompt(row: Row, template_bytes: int) -> tuple[int, int, int]:
    """Of a prompt: the most tokens, the likely ones, and its length in the file."""
    if "messages" in row:
        length = len(msgspec.json.encode(row["messages"]))
        most = length + template_bytes + TOKENS_PER_MESSAGE * (len(row["messages"]) + 1)
        return most, length // BYTES_PER_TOKEN + 1, length
    prompt = row["prompt"]
    if isinstance(prompt, str):
        length = len(prompt.encode("utf-8", "surrogatepass"))
        return length + SPECIAL_TOKENS, length // BYTES_PER_TOKEN + 1, length
    return len(prompt), len(prompt), 6 * len(prompt)


def _max_tokens(row: Row, default: int) -> int:
    own: Any = row.get("sampling", {}).get("max_tokens")
    return own if type(own) is int and 0 < own < 1_000_000_000 else default
