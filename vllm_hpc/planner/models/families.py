"""How the decoders of each architecture are built, as far as config.json does not say. A table, no code.

For an architecture that is not here, the planner says that it is unknown and checks nothing. The numbers come from the
modelling files of transformers (tests/planner/test_models.py builds every one of them without weights and compares),
and from the model files of vLLM for what is split over TP ranks.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# Which keys of config.json describe the experts of a mixture, and its other peculiarities.
ExpertsKind = Literal["mixtral", "qwen", "olmoe", "deepseek", "gpt-oss"]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of decoder. A bias is True, False, or the key of config.json that decides it.

    ``norms`` is the number of norms per layer that are as wide as the hidden state, ``norm_tensors`` is 2 if a norm
    has a bias besides its weight. ``qk_norm``: over a head, or over all heads at once. ``window``: which layers use
    config.json's sliding_window if it has no layer_types: all, all if use_sliding_window is true, every second one
    (including the first), or all but every n-th (sliding_window_pattern).
    """

    gated_mlp: bool = True
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    head_bias: bool = False
    norms: int = 2
    norm_tensors: int = 1
    qk_norm: Literal["head", "full"] | None = None
    learned_positions: int | None = None  # rows beyond max_position_embeddings; None: no table of positions
    tied: bool = False  # if config.json does not say
    experts: ExpertsKind | None = None
    mla: bool = False
    sinks: bool = False
    window: Literal["all", "asked", "alternate", "pattern"] = "all"
    defaults: dict[str, Any] = {}


LLAMA = Family(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
MISTRAL = Family()
QWEN2 = Family(qkv_bias=True, window="asked")
QWEN3 = Family(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", window="asked")
DEEPSEEK = Family(mla=True, experts="deepseek")
GEMMA_3_TEXT = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "sliding_window": 4096, "sliding_window_pattern": 6, "max_position_embeddings": 131_072,
}  # fmt: skip
GEMMA_3 = Family(norms=4, qk_norm="head", tied=True, window="pattern", defaults=GEMMA_3_TEXT)

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "InternLM3ForCausalLM": Family(qkv_bias="qkv_bias", out_bias="bias", mlp_bias="bias"),
    "MistralForCausalLM": MISTRAL,
    "Mistral3ForConditionalGeneration": MISTRAL,
    "PixtralForConditionalGeneration": MISTRAL,  # only from Mistral's own params.json
    "MixtralForCausalLM": Family(experts="mixtral"),
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2VLForConditionalGeneration": QWEN2,
    "Qwen2_5_VLForConditionalGeneration": QWEN2,
    "Qwen2MoeForCausalLM": Family(qkv_bias=True, experts="qwen", window="asked"),
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": Family(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", experts="qwen", window="asked"
    ),
    "GemmaForCausalLM": Family(tied=True),
    "Gemma2ForCausalLM": Family(norms=4, tied=True, window="alternate"),
    "Gemma3ForCausalLM": GEMMA_3,
    "Gemma3ForConditionalGeneration": GEMMA_3,
    "DeepseekV2ForCausalLM": DEEPSEEK,
    "DeepseekV3ForCausalLM": DEEPSEEK,
    "KimiK2ForCausalLM": DEEPSEEK,
    "GptOssForCausalLM": Family(
        qkv_bias=True, out_bias=True, experts="gpt-oss", sinks=True, window="alternate"
    ),
    "Phi3ForCausalLM": Family(),
    "PhiForCausalLM": Family(
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, head_bias=True, norms=1, norm_tensors=2
    ),
    "FalconForCausalLM": Family(
        gated_mlp=False, qkv_bias="bias", out_bias="bias", mlp_bias="bias", norm_tensors=2, tied=True
    ),
    "Olmo2ForCausalLM": Family(qk_norm="full"),
    "OlmoeForCausalLM": Family(qk_norm="full", experts="olmoe"),
    "GraniteForCausalLM": LLAMA,
    "SmolLM3ForCausalLM": LLAMA,
    "CohereForCausalLM": Family(norms=1, tied=True),
    "Cohere2ForCausalLM": Family(norms=1, tied=True, window="pattern", defaults={"sliding_window_pattern": 4}),
    "Starcoder2ForCausalLM": Family(
        gated_mlp=False, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", norm_tensors=2, tied=True,
        defaults={"use_bias": True},
    ),
    "StableLmForCausalLM": Family(qkv_bias="use_qkv_bias", norm_tensors=2),
    "GPT2LMHeadModel": Family(
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, norm_tensors=2, learned_positions=0, tied=True
    ),
    "GPTBigCodeForCausalLM": Family(
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, norm_tensors=2, learned_positions=0, tied=True
    ),
    "GPTNeoXForCausalLM": Family(
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, norm_tensors=2
    ),
    "OPTForCausalLM": Family(
        gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, norm_tensors=2, learned_positions=2, tied=True
    ),
}  # fmt: skip

# model_type -> the class, for a config.json without 'architectures': transformers' table of classes with a language
# head (models/auto/modeling_auto.py, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES);
# internlm3 and kimi_k2 name theirs in their own repositories.
CLASSES: dict[str, str] = {
    "cohere": "CohereForCausalLM", "cohere2": "Cohere2ForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM", "falcon": "FalconForCausalLM", "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForConditionalGeneration", "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel", "gpt_bigcode": "GPTBigCodeForCausalLM", "gpt_neox": "GPTNeoXForCausalLM",
    "gpt_oss": "GptOssForCausalLM", "granite": "GraniteForCausalLM", "internlm3": "InternLM3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
    "mistral3": "Mistral3ForConditionalGeneration", "mixtral": "MixtralForCausalLM", "olmo2": "Olmo2ForCausalLM",
    "olmoe": "OlmoeForCausalLM", "opt": "OPTForCausalLM", "phi": "PhiForCausalLM", "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_moe": "Qwen2MoeForCausalLM", "qwen2_vl": "Qwen2VLForConditionalGeneration", "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM", "smollm3": "SmolLM3ForCausalLM", "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}  # fmt: skip
