"""Measures an input: how many rows, how long the longest can get, how many tokens in total."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.rows.families import Sharing
from vllm_hpc.rows.prefix_scan import PrefixScan
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.sampling import DEFAULT_MAX_TOKENS, NO_SEED

# Inputs up to this size are read whole for a plan; of larger ones only the first rows (submit always reads all).
WHOLE_BYTES = 32 << 20
SAMPLE_ROWS = 10_000
# No tokenizer makes more tokens than the text has bytes (byte fallback is the worst case); special tokens are extra.
SPECIAL_TOKENS = 16
TOKENS_PER_MESSAGE = 64  # the role, and what a chat template adds around a message
# English text with current tokenizers: 4 to 4.5 bytes per token. Only for estimates, never for limits.
BYTES_PER_TOKEN = 4
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """An input in numbers. ``longest``: the most tokens that a row can take, prompt and output, with any tokenizer.

    None if a row has no limit that is known here. ``prompt_tokens`` and ``output_tokens`` are totals: estimated from
    bytes, and as if every row used its max_tokens. ``has_chats``: some row is a chat without a template of its own;
    ``has_tools``: one of these has tools; ``has_plain_chats``: one has none. ``outputs``: sequences of all rows (their
    n), if not one each. ``most_output``: the most output tokens of one sequence. ``sharing``: what prompts share, if it
    was looked at. ``unseeded``: rows that are sampled, and have no seed of their own.
    """

    rows: int
    longest: int | None
    prompt_tokens: int
    output_tokens: int
    is_sample: bool = False
    has_chats: bool = False
    has_tools: bool = False
    has_plain_chats: bool = False
    outputs: int | None = None
    most_output: int = 0
    sharing: Sharing | None = None
    unseeded: int = 0

    @property
    def sequences(self) -> int:
        """Sequences to generate: n for each row."""
        return self.rows if self.outputs is None else self.outputs

    @property
    def tokens_per_row(self) -> int:
        """Average tokens of a row, prompt and output, at least 1."""
        return max(1, (self.prompt_tokens + self.output_tokens) // max(1, self.rows))


def measure_workload(
    intake: Intake, sampling: dict[str, Any], template_bytes: int, whole: bool, may_share: bool = True
) -> Workload:
    """Read an input and check every row. Raises InputError.

    ``sampling`` is the job's, with max_tokens for rows without their own, and a seed if each row gets one;
    ``template_bytes`` is the length of the chat template of the job or the model, whose fixed text a chat contains at
    most once. With ``whole`` false, a large file is only sampled. ``may_share``: whether to look for prompts that begin
    alike.
    """
    rows = prompt_tokens = output_tokens = sequences = most_output = 0
    longest: int | None = 0
    is_sample = has_tools = has_plain_chats = False
    share, unseeded = 1.0, 0
    intake.beginnings = beginnings = PrefixScan() if may_share else None
    for row in intake.rows():
        most, typical = _prompt(row, template_bytes)
        limit, outputs = _limits(row, sampling)
        each = DEFAULT_MAX_TOKENS if limit is None else limit
        if "messages" in row and not row.get("chat_template"):
            has_tools, has_plain_chats = has_tools or bool(row.get("tools")), has_plain_chats or not row.get("tools")
        rows, sequences = rows + 1, sequences + outputs
        longest = None if longest is None or limit is None else max(longest, most + limit)
        prompt_tokens, output_tokens = prompt_tokens + typical, output_tokens + outputs * each
        most_output = max(most_output, each)
        unseeded += _is_unseeded(row, sampling)
        if beginnings:
            beginnings.add(row, typical, outputs * each)
        if not whole and rows % SAMPLE_ROWS == 0 and intake.size > WHOLE_BYTES:
            is_sample, share = True, max(1.0, 1 / max(1e-9, intake.share))
            break
    sharing = beginnings.sharing if beginnings else None
    return Workload(
        rows=int(rows * share), longest=longest, prompt_tokens=int(prompt_tokens * share),
        output_tokens=int(output_tokens * share), is_sample=is_sample, has_chats=has_tools or has_plain_chats,
        has_tools=has_tools, has_plain_chats=has_plain_chats,
        outputs=int(sequences * share), most_output=most_output,
        sharing=sharing.times(share) if sharing else None, unseeded=int(unseeded * share),
    )  # fmt: skip


def _prompt(row: Row, template_bytes: int) -> tuple[int, int]:
    """The most tokens that a prompt can take, and the likely number; none of a row that cannot be run."""
    if "error" in row:
        return 0, 0
    if "messages" in row:
        return _chat(row, template_bytes)
    prompt = row["prompt"]
    if isinstance(prompt, str):
        length = len(prompt.encode("utf-8", "surrogatepass"))
        return length + SPECIAL_TOKENS, length // BYTES_PER_TOKEN + 1
    return len(prompt), len(prompt)


def _chat(row: Row, template_bytes: int) -> tuple[int, int]:
    length = len(msgspec.json.encode((row["messages"], row.get("chat_template_kwargs"))))
    tools = row.get("tools") or []
    # A template may write tools on many lines, indented, and the server adds null for what they leave out.
    offered = len(msgspec.json.format(msgspec.json.encode(tools), indent=4)) if tools else 0
    own = row.get("chat_template")
    template = len(own.encode("utf-8", "surrogatepass")) if own else template_bytes
    parts = len(row["messages"]) + 2 * len(tools) + 1
    return length + offered + template + TOKENS_PER_MESSAGE * parts, (length + offered // 2) // BYTES_PER_TOKEN + 1


def _is_unseeded(row: Row, job: dict[str, Any]) -> bool:
    """Whether a row's answer depends on the rows that run before it: it is sampled, with the engine's own generator."""
    if row.get("task") == "embed" or "error" in row:
        return False
    own = row.get("sampling") or {}
    temperature, seed = (job.get(name) if own.get(name) is None else own[name] for name in ("temperature", "seed"))
    return temperature != 0 and seed in NO_SEED


def _max_tokens(sampling: dict[str, Any]) -> Any:
    """The limit under vLLM's name or OpenAI's, which wins (vllm_hpc.engine.rows.sampling)."""
    theirs = sampling.get("max_completion_tokens")
    return sampling.get("max_tokens") if theirs is None else theirs


def _limits(row: Row, job: dict[str, Any]) -> tuple[int | None, int]:
    """max_tokens of a row, None if it has no limit or none that is known here; and its number of outputs."""
    if row.get("task") == "embed" or "error" in row:
        return 0, 0
    own = row.get("sampling", {})
    limit, outputs = _max_tokens(own if _LIMITS & own.keys() else job), own.get("n", job.get("n", 1))
    return (
        limit if type(limit) is int and 0 < limit < 1_000_000_000 else None,
        outputs if type(outputs) is int and 0 < outputs < 100_000 else 1,
    )
