"""Attention of any config.json: its heads, those of layers with a window, the latent of MLA, and sparse indexers."""

from __future__ import annotations

import msgspec

from vllm_hpc.planner.models.fields import MOST_WIDTH, Fields, NotCheckedError
from vllm_hpc.planner.models.shape import Heads, Mla
from vllm_hpc.planner.models.traits import GATED_QUERIES

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "num_attention_groups", "kv_n_heads", "n_kv_heads")
_HEAD_DIM = ("head_dim", "attention_head_dim", "hidden_size_per_head", "kv_channels", "head_size")
# What vLLM keeps the keys of a sparse attention's indexer in: fp8, with a float32 scale for 128 of them.
_INDEX_SCALE = 4


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """The attention of the layers that have one; fields as in Shape."""

    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_dim: int | None = None
    query_parts: int = 1
    extra: int = 0
    index_bytes: int = 0
    mla: Mla | None = None
    window_heads: Heads | None = None


def read_attention(text: Fields, hidden: int, layers: int) -> Attention:
    """The attention of a decoder. Raises NotCheckedError."""
    heads = text.size(*_HEADS, most=MOST_WIDTH)
    if heads is None:
        raise NotCheckedError(f"{text.origin}: {_HEADS[0]!r} is missing")
    mla = _mla(text)
    kv_heads = min(heads, _kv_heads(text) or heads)
    head_dim = text.size(*_HEAD_DIM, most=MOST_WIDTH) or hidden // heads
    v_dim = None if mla else text.optional_count("v_head_dim", most=MOST_WIDTH)
    indexer, index_bytes = _indexer(text, hidden, mla)
    full_dim = _full_dim(text)
    window_heads = _window_heads(text, Heads(heads, kv_heads, head_dim, v_dim or head_dim))
    if full_dim and full_dim != head_dim:  # Gemma 4: layers without a window have wider heads
        window_heads, head_dim = Heads(heads, kv_heads, head_dim, v_dim or head_dim), full_dim
        kv_heads = min(heads, text.size("num_global_key_value_heads", most=MOST_WIDTH) or kv_heads)
    if text.has("decoder_attention_heads"):  # Whisper's decoder attends to the audio, too
        indexer += 4 * hidden * hidden
    extra = indexer + _low_rank(text, hidden, heads * head_dim) if mla is None else indexer
    is_gated = text.word("model_type").startswith(GATED_QUERIES) or text.says("attn_output_gate")
    return Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, v_dim=v_dim, query_parts=2 if is_gated else 1,
        extra=extra, index_bytes=index_bytes, mla=mla, window_heads=window_heads,
    )  # fmt: skip


def _full_dim(text: Fields) -> int | None:
    """The head size of layers without a window, if it is another one."""
    for layer in (text.table("per_layer_config") or {}).values():
        if isinstance(layer, dict) and layer.get("head_dim"):
            return Fields(layer, f"{text.origin}: per_layer_config").optional_count("head_dim", most=MOST_WIDTH)
    return text.optional_count("global_head_dim", most=MOST_WIDTH)


def _low_rank(text: Fields, hidden: int, queries: int) -> int:
    """How many more parameters low-rank queries and outputs have than whole ones (DeepSeek V4); below 0: fewer."""
    rank = text.optional_count("q_lora_rank", most=MOST_WIDTH)
    more = rank * (hidden + queries) - hidden * queries if rank else 0
    groups, out = (text.optional_count(name, most=MOST_WIDTH) for name in ("o_groups", "o_lora_rank"))
    if groups and out:
        more += queries * out + groups * out * hidden - hidden * queries
    return more


def _kv_heads(text: Fields) -> int | None:
    if table := text.table("attn_config"):  # DBRX
        return Fields(table, f"{text.origin}: attn_config").size(*_KV_HEADS, most=MOST_WIDTH)
    if text.says("multi_query_attention"):  # ChatGLM
        return text.size("multi_query_group_num", most=MOST_WIDTH)
    return text.size(*_KV_HEADS, most=MOST_WIDTH)


def _mla(text: Fields) -> Mla | None:
    kv_rank = text.optional_count("kv_lora_rank", most=MOST_WIDTH)
    rope = text.optional_count("qk_rope_head_dim", most=MOST_WIDTH)
    nope, value = (text.optional_count(name, most=MOST_WIDTH) for name in ("qk_nope_head_dim", "v_head_dim"))
    if nope and not kv_rank:
        raise NotCheckedError(f"{text.origin}: 'kv_lora_rank' is missing")
    if not (kv_rank and nope and value and text.has("qk_rope_head_dim")):
        return None
    q_rank = text.optional_count("q_lora_rank", most=MOST_WIDTH)
    return Mla(kv_rank, rope or 0, nope, value, q_rank, caches_heads=text.word("model_type") == "minicpm3")


def _indexer(text: Fields, hidden: int, mla: Mla | None) -> tuple[int, int]:
    """Parameters of a sparse attention's indexer (DeepSeek V3.2, GLM 5), and bytes of its keys for a token."""
    heads = text.optional_count("index_n_heads", most=MOST_WIDTH)
    dim = text.optional_count("index_head_dim", most=MOST_WIDTH)
    if not (heads and dim and mla):
        return 0, 0
    return (mla.q_rank or hidden) * heads * dim + hidden * (dim + heads), dim + _INDEX_SCALE


def _window_heads(text: Fields, full: Heads) -> Heads | None:
    """The attention of layers with a window, if it differs from that of the others."""
    own, prefix = text, "swa_"
    if table := text.table("attention_other_setting"):  # Step 3.5
        own, prefix = Fields(table, f"{text.origin}: attention_other_setting"), ""
    given = [
        own.optional_count(f"{prefix}{name}", most=MOST_WIDTH)
        for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim")
    ]
    if not prefix and given[1] is None:
        given[1] = own.optional_count("num_attention_groups", most=MOST_WIDTH)
    if not any(given):
        return None
    dim = given[2] or full.head_dim
    found = Heads(given[0] or full.heads, given[1] or full.kv_heads, dim, given[3] or (dim if given[2] else full.v_dim))
    return None if found == full else found
