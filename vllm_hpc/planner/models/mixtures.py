"""Experts of any config.json: their number, width and shared ones, under the names that classes use."""

from __future__ import annotations

from vllm_hpc.planner.models.fields import MOST_EXPERTS, MOST_WIDTH, Fields, NotCheckedError
from vllm_hpc.planner.models.shape import Experts

# vLLM's order (transformers_utils/model_arch_config_convertor.py, get_num_experts), then names of single classes.
_COUNT = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts", "num_routed_experts")
_PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k",
    "moe_router_topk", "experts_per_token", "num_selected_experts",
)  # fmt: skip
_WIDTH = (
    "moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", "expert_hidden_size",
    "moe_intermediate_dim", "expert_intermediate_size",
)  # fmt: skip
_SHARED_WIDTH = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim",
    "shared_intermediate_size", "moe_shared_intermediate_size",
)  # fmt: skip
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
_LLAMA_4 = "intermediate_size_mlp"


def has_experts(text: Fields) -> bool:
    """Whether there is more than one expert. Raises NotCheckedError."""
    if text.has("enable_moe_block") and not text.flag("enable_moe_block", False):  # Gemma 4
        return False
    return (_of(text).size(*_COUNT, most=MOST_EXPERTS) or 0) > 1


def read_experts(text: Fields, hidden: int, layers: int) -> Experts | None:
    """The experts of ``layers`` layers. Raises NotCheckedError if their size cannot be told."""
    own = _of(text)
    count = own.size(*_COUNT, most=MOST_EXPERTS) or 0
    width = _width(own) or own.size("intermediate_size", "ffn_hidden_size", most=MOST_WIDTH)
    if count <= 1 or not layers:
        return None
    if width is None:
        raise NotCheckedError(f"{text.origin}: {_WIDTH[0]!r} is missing")
    per_token = min(count, own.size(*_PER_TOKEN, most=MOST_EXPERTS) or 1)
    shared = _shared(text, width)
    return Experts(
        count=count, per_token=per_token, width=width, layers=layers, shared=shared,
        shared_gate=text.has("shared_expert_intermediate_size"),
    )  # fmt: skip


def _of(text: Fields) -> Fields:
    """Where the experts' keys are: DBRX has them in an object of their own."""
    table = text.table("ffn_config")
    return text if table is None else Fields(table, f"{text.origin}: ffn_config")


def _width(own: Fields) -> int | None:
    """An expert's width. Ernie 4.5 VL has as many experts again for images: both widths count."""
    widths = own.numbers(_WIDTH[0]) if own.is_list(_WIDTH[0]) else None
    if widths and len(widths) == 2 and "ernie" in own.word("model_type"):
        return min(sum(widths), MOST_WIDTH)
    return own.size(*_WIDTH, most=MOST_WIDTH)


def _shared(text: Fields, width: int) -> int:
    """The width of all shared experts together."""
    number = text.size(*_SHARED, most=10_000)
    each = text.size(*_SHARED_WIDTH, most=MOST_WIDTH)
    if text.has(_LLAMA_4):  # Llama 4: one beside the others, as wide as they
        return width
    if each is not None:
        return each * (number or 1) if text.has("moe_shared_expert_intermediate_size") else each
    widths = text.numbers(_WIDTH[0]) if text.is_list(_WIDTH[0]) else None
    return (max(widths) if widths else width) * (number or 0)
