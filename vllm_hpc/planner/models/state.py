"""Layers with a state of fixed size for each sequence: Mamba, linear attention, short convolutions.

Sizes of states are vLLM's (model_executor/layers/mamba/mamba_utils.py, MambaStateShapeCalculator); widths of the
projections are those of the classes that have the keys.
"""

from __future__ import annotations

from vllm_hpc.planner.models.fields import MOST_WIDTH, Fields, NotCheckedError
from vllm_hpc.planner.models.shape import State

_FLOAT32, _HALF = 4, 2


def read_state(text: Fields, hidden: int, layers: int, beside: bool = False) -> State:
    """The state of ``layers`` layers; ``beside``: they have attention, too. Raises NotCheckedError."""
    for key, read in _READERS:
        if text.has(key):
            kind, parameters, size, cuts = read(text, hidden)
            return State(kind=kind, layers=layers, parameters=parameters, bytes=size, cuts=cuts, beside=beside)
    raise NotCheckedError(f"{text.origin}: nothing tells the size of the state of its layers")


_Read = tuple[str, int, int, tuple[tuple[str, int], ...]]


def _need(text: Fields, *names: str) -> int:
    value = text.size(*names, most=MOST_WIDTH)
    if value is None:
        raise NotCheckedError(f"{text.origin}: {names[0]!r} is missing")
    return value


def _mamba(text: Fields, hidden: int) -> _Read:
    """Mamba 1 (no heads) or Mamba 2."""
    heads = text.size("mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "num_heads", most=MOST_WIDTH)
    states = _need(text, "mamba_d_state", "ssm_state_size", "state_size")
    kernel = text.size("mamba_d_conv", "conv_kernel", "conv_kernel_size", most=1000) or 4
    expand = text.size("mamba_expand", "expand", most=1000) or 2
    if heads is None or (text.has("time_step_rank") and not text.has("n_groups")) or text.has("mamba_dt_rank"):
        return _mamba_1(text, hidden, states, kernel, expand)
    head = text.size("mamba_d_head", "mamba_headdim", "mamba_head_dim", "head_dim", most=MOST_WIDTH)
    inner = text.size("mamba_d_ssm", most=MOST_WIDTH) or (heads * head if head else expand * hidden)
    groups = text.size("mamba_n_groups", "mamba_ngroups", "n_groups", most=MOST_WIDTH) or 1
    mixed = inner + 2 * groups * states
    parameters = hidden * (inner + mixed + heads) + mixed * (kernel + 1) + inner * hidden + 3 * heads + inner
    size = inner * states * _state_bytes(text) + mixed * (kernel - 1) * _HALF
    cuts = (("Mamba heads", heads), *((("Mamba groups", groups),) if groups > 1 else ()))
    return "Mamba 2", parameters, size, cuts


def _mamba_1(text: Fields, hidden: int, states: int, kernel: int, expand: int) -> _Read:
    inner = text.size("intermediate_size", most=MOST_WIDTH) if text.has("state_size") else None
    inner = inner or expand * hidden
    rank = text.size("mamba_dt_rank", "time_step_rank", most=MOST_WIDTH) or -(-hidden // 16)
    parameters = 3 * hidden * inner + inner * (kernel + 1) + inner * (rank + 2 * states) + rank * inner + inner * states
    size = inner * states * _state_bytes(text) + inner * (kernel - 1) * _HALF
    return "Mamba", parameters + 2 * inner, size, (("Mamba width", inner),)


def _delta_net(text: Fields, hidden: int) -> _Read:
    """Gated delta networks: Qwen3-Next, Qwen3.5, Olmo Hybrid."""
    keys, values = _need(text, "linear_num_key_heads"), _need(text, "linear_num_value_heads")
    key_dim, value_dim = _need(text, "linear_key_head_dim"), _need(text, "linear_value_head_dim")
    kernel = text.size("linear_conv_kernel_dim", most=1000) or 4
    key, value = keys * key_dim, values * value_dim
    parameters = hidden * (2 * key + 2 * value + 2 * values) + (2 * key + value) * kernel + value * hidden
    size = values * key_dim * value_dim * _state_bytes(text) + (2 * key + value) * (kernel - 1) * _HALF
    return "linear attention", parameters, size, (("linear key heads", keys), ("linear value heads", values))


def _kimi(text: Fields, hidden: int) -> _Read:
    """Kimi delta attention: low-rank gates beside keys, values and queries of the same width."""
    table = text.table("linear_attn_config")
    own = Fields(table, f"{text.origin}: linear_attn_config") if table else text
    heads, dim = _need(own, "linear_num_heads", "num_heads"), _need(own, "linear_head_dim", "head_dim")
    kernel = own.size("short_conv_kernel_size", "linear_conv_kernel_dim", most=1000) or 4
    width = heads * dim
    parameters = 4 * hidden * width + 2 * (hidden * dim + dim * width) + hidden * heads + 3 * width * kernel + width
    size = heads * dim * dim * _FLOAT32 + 3 * width * (kernel - 1) * _HALF
    return "linear attention", parameters, size, (("linear heads", heads),)


def _lightning(text: Fields, hidden: int) -> _Read:
    """Lightning attention: MiniMax Text 01, Ling 2.5. A state of head_dim × head_dim for each head."""
    heads = _need(text, "num_attention_heads")
    dim = text.size("head_dim", most=MOST_WIDTH) or hidden // heads
    return "linear attention", 5 * hidden * heads * dim, heads * dim * dim * _FLOAT32, (("linear heads", heads),)


def _convolution(text: Fields, hidden: int) -> _Read:
    """Short convolutions with gates (LFM2)."""
    kernel = _need(text, "conv_L_cache")
    parameters = 4 * hidden * hidden + hidden * kernel
    return "convolution", parameters, hidden * (kernel - 1) * _HALF, (("hidden size", hidden),)


def _state_bytes(text: Fields) -> int:
    """Bytes of an element of a state: vLLM takes the model's dtype unless config.json names another."""
    named = text.word("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    return _FLOAT32 if named == "float32" else _HALF


# Which key tells the kind, in the order in which they are looked for.
_READERS = (
    ("linear_num_value_heads", _delta_net), ("linear_attn_config", _kimi), ("linear_num_heads", _kimi),
    ("conv_L_cache", _convolution), ("mamba_d_state", _mamba), ("ssm_state_size", _mamba), ("state_size", _mamba),
    ("attn_type_list", _lightning), ("layer_group_size", _lightning),
)  # fmt: skip
