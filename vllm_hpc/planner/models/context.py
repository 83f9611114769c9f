"""The longest sequence of a model, as in vLLM 0.32 (config/model.py, _get_and_verify_max_len)."""

from __future__ import annotations

from vllm_hpc.planner.models.fields import Fields
from vllm_hpc.spec.errors import ModelError

MOST_TOKENS = 1_000_000_000
DEFAULT_TOKENS = 2048  # vLLM's, if config.json does not say
_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "max_seq_length")
# Kinds of rope scaling whose factor is already part of max_position_embeddings. (vLLM 0.26 multiplied yarn's.)
_ALREADY_SCALED = ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope")


def context_length(text: Fields) -> int:
    """Tokens of the longest sequence. Raises ModelError."""
    lengths = [length for key in _KEYS if (length := text.optional_count(key, most=MOST_TOKENS))]
    longest = text.optional_count("model_max_length", most=MOST_TOKENS) or min(lengths, default=DEFAULT_TOKENS)
    rope = text.table("rope_scaling") or text.table("rope_parameters") or {}
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    if kind == "longrope":
        original = text.optional_count("original_max_position_embeddings", most=MOST_TOKENS)
        return original or longest
    if kind in _ALREADY_SCALED or text.text("model_type", default="").startswith("gemma3"):
        return longest
    factor = rope.get("factor", 1.0)
    if not isinstance(factor, int | float) or not 0 < factor < 1e6:
        raise ModelError(
            f"{text.origin}: the factor of rope_scaling must be a number, not {factor!r}: copy config.json again"
        )
    return int(longest * factor)
