"""The longest sequence of a model, as in vLLM 0.32 (config/model.py, _get_and_verify_max_len)."""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.models.fields import MOST_TOKENS, Fields, NotCheckedError, shown

DEFAULT_TOKENS = 2048  # vLLM's, if config.json does not say
_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Kinds of rope scaling whose factor is already part of max_position_embeddings. (vLLM 0.26 multiplied yarn's.)
_ALREADY_SCALED = ("llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
_LONGROPE = ("longrope", "su")
# An older and a newer name of one kind; any other two names contradict each other, and vLLM refuses them.
_ALIASES = {("su", "longrope"), ("mrope", "default")}


def context_length(text: Fields) -> int:
    """Tokens of the longest sequence. Raises NotCheckedError."""
    lengths = [length for key in _KEYS if (length := text.optional_count(key, most=MOST_TOKENS))]
    longest = text.optional_count("model_max_length", most=MOST_TOKENS) or min(lengths, default=DEFAULT_TOKENS)
    tables = _rope_tables(text)
    kinds = [_kind(text, table) for table in tables]
    if any(kind in _LONGROPE for kind in kinds):
        return text.optional_count("original_max_position_embeddings", most=MOST_TOKENS) or longest
    if text.word("model_type").startswith("gemma3"):
        return longest
    factor = 1.0
    for table, kind in zip(tables, kinds, strict=True):
        if kind not in _ALREADY_SCALED and "factor" in table:
            factor = _factor(text, table["factor"])
    return int(longest * factor)


def _rope_tables(text: Fields) -> list[dict[str, Any]]:
    """The parameters of RoPE: one table, or (transformers 5) one for each of the layer_types."""
    rope = text.table("rope_scaling") or text.table("rope_parameters") or {}
    kinds = text.texts("layer_types") or ()
    by_layer = [value for key, value in rope.items() if key in kinds and isinstance(value, dict)]
    return by_layer or [rope]


def _kind(text: Fields, rope: dict[str, Any]) -> str:
    new, old = rope.get("rope_type"), rope.get("type")
    kind = new or old or "default"
    if not isinstance(kind, str):
        raise NotCheckedError(f"{text.origin}: the type of rope_scaling is {shown(kind)}, not a string")
    if new and old and new != old and (old, new) not in _ALIASES:
        raise NotCheckedError(f"{text.origin}: rope_scaling has the types {shown(new)} and {shown(old)}")
    return kind


def _factor(text: Fields, factor: Any) -> float:
    if factor is None:
        return 1.0
    if not isinstance(factor, int | float) or not 0 < factor < 1e6:
        raise NotCheckedError(f"{text.origin}: the factor of rope_scaling is {shown(factor)}, not a number above 0")
    return float(factor)
