"""How decoders that are not in the planner's table are built, as far as config.json does not say. A table, no code.

What is not here is taken for a Llama: a gated MLP, no biases, an output projection of its own.
"""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.models.families import Family

# model_type, or the beginning of one -> its MLP has no gate.
PLAIN_MLP = (
    "apertus", "arcee", "bloom", "codegen", "gptj", "gpt_j", "mpt", "nemotron", "nemotron_h", "persimmon", "phi", "opt",
    "falcon", "gpt2", "gpt_neox", "gpt_bigcode", "starcoder2", "jais", "whisper", "plamo_audio",
)  # fmt: skip
# Activations that no gated MLP has.
PLAIN_ACTIVATIONS = ("relu2", "relu", "xielu", "gelu_new", "gelu_fast", "quick_gelu")
# model_type -> the embedding is the output projection, if config.json does not say (transformers' classes).
TIED = frozenset({
    "bloom", "cohere", "cohere2", "cohere2_moe", "cohere2_vision", "ernie4_5", "ernie4_5_moe", "ernie4_5_vl_moe",
    "falcon_mamba", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text",
    "granite_swa", "lfm2", "lfm2_moe", "lfm2_vl", "mamba", "paligemma", "rnj1", "minicpm3", "opt", "whisper",
})  # fmt: skip
# model_type of a text model -> what its class has where config.json is silent, as text_configs often are.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
              "vocab_size": 32_000},
    "mistral": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "vocab_size": 32_000},
    "qwen2": {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
              "vocab_size": 151_936},
    "gemma": {"head_dim": 256}, "gemma2": {"head_dim": 256}, "gemma3n_text": {"head_dim": 256},
    "gemma4_text": {"head_dim": 256},
    "opt": {"hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072, "num_attention_heads": 12,
            "vocab_size": 50_272},
    "aria_text": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32_000},
    "qwen3_next": {"linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
                   "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 4},
}  # fmt: skip
# Classes whose queries have a gate as wide as they are.
GATED_QUERIES = ("qwen3_next", "qwen3_5", "qwen4", "muse_glimmer", "afmoe")

INFERRED = Family()
INFERRED_PLAIN = Family(gated_mlp=False)
