"""Published models: what their config.json says (the keys that decide memory), how large they are, and what a token's
KV cache takes.

``parameters`` is the published number (model card, or the sum over the published safetensors). ``kv_bytes`` is 2
(keys and values) × layers × KV heads × head size × 2 bytes (bf16); for MLA, layers × (kv_lora_rank +
qk_rope_head_dim) × 2 bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Published(NamedTuple):
    """One model as its makers published it."""

    name: str
    parameters: int
    kv_bytes: int
    config: dict[str, Any]


def _llama(**keys: Any) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", **keys}


def _sizes(hidden: int, width: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
    }


def _of(architecture: str, model_type: str, sizes: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, "torch_dtype": "bfloat16", **sizes, **keys}


# Nobody's: small, with heads enough for every TP that the tests of layouts ask for.
SMALL_CONFIG = _llama(**_sizes(1024, 4096, 16, 64, 16, 32000), max_position_embeddings=4096)

_DEEPSEEK_MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
_V3 = _of(
    "DeepseekV3ForCausalLM", "deepseek_v3", _sizes(7168, 18432, 61, 128, 128, 129280), **_DEEPSEEK_MLA,
    q_lora_rank=1536, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048,
    first_k_dense_replace=3, moe_layer_freq=1, topk_method="noaux_tc", n_group=8, topk_group=4,
    num_nextn_predict_layers=1, tie_word_embeddings=False,
    quantization_config={"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                         "weight_block_size": [128, 128]},
)  # fmt: skip
_GEMMA_3_27B = {
    "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
    "num_key_value_heads": 16, "head_dim": 128, "model_type": "gemma3_text", "sliding_window": 1024,
    "query_pre_attn_scalar": 168,
}  # fmt: skip
_SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 896, "model_type": "siglip_vision_model",
}  # fmt: skip

PUBLISHED: tuple[Published, ...] = (
    Published("Llama-3.1-8B", 8_030_261_248, 131_072, _llama(**_sizes(4096, 14336, 32, 32, 8, 128256))),
    Published("Llama-3.1-70B", 70_553_706_496, 327_680, _llama(**_sizes(8192, 28672, 80, 64, 8, 128256))),
    Published("Llama-3.1-405B", 405_853_388_800, 516_096, _llama(**_sizes(16384, 53248, 126, 128, 8, 128256))),
    Published(
        "Llama-3.2-1B", 1_235_814_400, 32_768,
        _llama(**_sizes(2048, 8192, 16, 32, 8, 128256), head_dim=64, tie_word_embeddings=True),
    ),
    Published(
        "Llama-3.2-3B", 3_212_749_824, 114_688,
        _llama(**_sizes(3072, 8192, 28, 24, 8, 128256), head_dim=128, tie_word_embeddings=True),
    ),
    Published("Llama-2-7B", 6_738_415_616, 524_288, _llama(**_sizes(4096, 11008, 32, 32, 32, 32000))),
    Published("TinyLlama-1.1B", 1_100_048_384, 22_528, _llama(**_sizes(2048, 5632, 22, 32, 4, 32000))),
    Published("Yi-34B", 34_388_917_248, 245_760, _llama(**_sizes(7168, 20480, 60, 56, 8, 64000))),
    Published("Falcon3-7B", 7_455_550_464, 114_688, _llama(**_sizes(3072, 23040, 28, 12, 4, 131072), head_dim=256)),
    Published(
        "SmolLM2-135M", 134_515_008, 23_040,
        _llama(**_sizes(576, 1536, 30, 9, 3, 49152), tie_word_embeddings=True),
    ),
    Published(
        "SmolLM2-1.7B", 1_711_376_384, 196_608,
        _llama(**_sizes(2048, 8192, 24, 32, 32, 49152), tie_word_embeddings=True),
    ),
    Published(
        "Mistral-7B-v0.1", 7_241_732_096, 131_072,
        _of("MistralForCausalLM", "mistral", _sizes(4096, 14336, 32, 32, 8, 32000), sliding_window=4096),
    ),
    Published(
        "Mistral-Nemo-12B", 12_247_782_400, 163_840,
        _of("MistralForCausalLM", "mistral", _sizes(5120, 14336, 40, 32, 8, 131072), head_dim=128,
            sliding_window=None),
    ),
    Published(
        "Mixtral-8x7B", 46_702_792_704, 131_072,
        _of("MixtralForCausalLM", "mixtral", _sizes(4096, 14336, 32, 32, 8, 32000), num_local_experts=8,
            num_experts_per_tok=2, sliding_window=None),
    ),
    Published(
        "Mixtral-8x22B", 140_620_634_112, 229_376,
        _of("MixtralForCausalLM", "mixtral", _sizes(6144, 16384, 56, 48, 8, 32000), num_local_experts=8,
            num_experts_per_tok=2, sliding_window=None),
    ),
    Published(
        "Qwen2.5-0.5B", 494_032_768, 12_288,
        _of("Qwen2ForCausalLM", "qwen2", _sizes(896, 4864, 24, 14, 2, 151936), tie_word_embeddings=True,
            use_sliding_window=False, sliding_window=32768),
    ),
    Published(
        "Qwen2.5-7B", 7_615_616_512, 57_344,
        _of("Qwen2ForCausalLM", "qwen2", _sizes(3584, 18944, 28, 28, 4, 152064), use_sliding_window=False),
    ),
    Published(
        "Qwen2.5-32B", 32_763_876_352, 262_144,
        _of("Qwen2ForCausalLM", "qwen2", _sizes(5120, 27648, 64, 40, 8, 152064), use_sliding_window=False),
    ),
    Published(
        "Qwen2.5-72B", 72_706_203_648, 327_680,
        _of("Qwen2ForCausalLM", "qwen2", _sizes(8192, 29568, 80, 64, 8, 152064), use_sliding_window=False),
    ),
    Published(
        "Qwen2-57B-A14B", 57_409_011_712, 57_344,
        _of("Qwen2MoeForCausalLM", "qwen2_moe", _sizes(3584, 18944, 28, 28, 4, 151936), num_experts=64,
            num_experts_per_tok=8, moe_intermediate_size=2560, shared_expert_intermediate_size=20480,
            decoder_sparse_step=1),
    ),
    Published(
        "Qwen3-8B", 8_190_735_360, 147_456,
        _of("Qwen3ForCausalLM", "qwen3", _sizes(4096, 12288, 36, 32, 8, 151936), head_dim=128),
    ),
    Published(
        "Qwen3-32B", 32_762_123_264, 262_144,
        _of("Qwen3ForCausalLM", "qwen3", _sizes(5120, 25600, 64, 64, 8, 151936), head_dim=128),
    ),
    Published(
        "Qwen3-30B-A3B", 30_532_122_624, 98_304,
        _of("Qwen3MoeForCausalLM", "qwen3_moe", _sizes(2048, 6144, 48, 32, 4, 151936), head_dim=128,
            num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, decoder_sparse_step=1),
    ),
    Published(
        "Qwen3-235B-A22B", 235_093_634_560, 192_512,
        _of("Qwen3MoeForCausalLM", "qwen3_moe", _sizes(4096, 12288, 94, 64, 4, 151936), head_dim=128,
            num_experts=128, num_experts_per_tok=8, moe_intermediate_size=1536, decoder_sparse_step=1),
    ),
    Published(
        "Gemma-2-2B", 2_614_341_888, 106_496,
        _of("Gemma2ForCausalLM", "gemma2", _sizes(2304, 9216, 26, 8, 4, 256000), head_dim=256, sliding_window=4096),
    ),
    Published(
        "Gemma-2-9B", 9_241_705_984, 344_064,
        _of("Gemma2ForCausalLM", "gemma2", _sizes(3584, 14336, 42, 16, 8, 256000), head_dim=256,
            sliding_window=4096),
    ),
    Published(
        "Gemma-2-27B", 27_227_128_320, 376_832,
        _of("Gemma2ForCausalLM", "gemma2", _sizes(4608, 36864, 46, 32, 16, 256000), head_dim=128,
            sliding_window=4096),
    ),
    Published(
        "Gemma-3-1B", 999_885_952, 26_624,
        _of("Gemma3ForCausalLM", "gemma3_text", _sizes(1152, 6912, 26, 4, 1, 262144), head_dim=256,
            sliding_window=512, sliding_window_pattern=6),
    ),
    Published(
        "Gemma-3-27B", 27_432_406_640, 507_904,
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16",
         "text_config": _GEMMA_3_27B, "vision_config": _SIGLIP},
    ),
    Published(
        "DeepSeek-V2-Lite", 15_706_484_224, 31_104,
        _of("DeepseekV2ForCausalLM", "deepseek_v2", _sizes(2048, 10944, 27, 16, 16, 102400), **_DEEPSEEK_MLA,
            q_lora_rank=None, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6,
            moe_intermediate_size=1408, first_k_dense_replace=1, moe_layer_freq=1, topk_method="greedy", n_group=1,
            topk_group=1),
    ),
    Published(
        "DeepSeek-V2", 235_741_434_880, 69_120,
        _of("DeepseekV2ForCausalLM", "deepseek_v2", _sizes(5120, 12288, 60, 128, 128, 102400), **_DEEPSEEK_MLA,
            q_lora_rank=1536, n_routed_experts=160, n_shared_experts=2, num_experts_per_tok=6,
            moe_intermediate_size=1536, first_k_dense_replace=1, moe_layer_freq=1,
            topk_method="group_limited_greedy", n_group=8, topk_group=3),
    ),
    Published("DeepSeek-V3", 671_026_419_200, 70_272, _V3),
    Published("DeepSeek-R1", 671_026_419_200, 70_272, _V3),
    Published(
        "gpt-oss-20b", 20_914_757_184, 49_152,
        _of("GptOssForCausalLM", "gpt_oss", _sizes(2880, 2880, 24, 64, 8, 201088), head_dim=64,
            num_local_experts=32, num_experts_per_tok=4, sliding_window=128, attention_bias=True,
            quantization_config={"quant_method": "mxfp4"}),
    ),
    Published(
        "gpt-oss-120b", 116_829_156_672, 73_728,
        _of("GptOssForCausalLM", "gpt_oss", _sizes(2880, 2880, 36, 64, 8, 201088), head_dim=64,
            num_local_experts=128, num_experts_per_tok=4, sliding_window=128, attention_bias=True,
            quantization_config={"quant_method": "mxfp4"}),
    ),
    Published(
        "Phi-2", 2_779_683_840, 327_680,
        _of("PhiForCausalLM", "phi", _sizes(2560, 10240, 32, 32, 32, 51200)),
    ),
    Published(
        "Phi-3-mini-4k", 3_821_079_552, 393_216,
        _of("Phi3ForCausalLM", "phi3", _sizes(3072, 8192, 32, 32, 32, 32064), sliding_window=2047, pad_token_id=32000),
    ),
    Published(
        "Phi-4", 14_659_507_200, 204_800,
        _of("Phi3ForCausalLM", "phi3", _sizes(5120, 17920, 40, 40, 10, 100352), sliding_window=None,
            pad_token_id=100257),
    ),
    Published(
        "Falcon-7B", 6_921_720_704, 8_192,
        _of("FalconForCausalLM", "falcon", {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
            "vocab_size": 65024}, multi_query=True, parallel_attn=True, new_decoder_architecture=False, bias=False),
    ),
    Published(
        "Falcon-40B", 41_303_293_952, 122_880,
        _of("FalconForCausalLM", "falcon", {"hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128,
            "vocab_size": 65024, "num_kv_heads": 8}, parallel_attn=True, new_decoder_architecture=True, bias=False),
    ),
    Published(
        "OLMo-2-7B", 7_298_617_344, 524_288,
        _of("Olmo2ForCausalLM", "olmo2", _sizes(4096, 11008, 32, 32, 32, 100352)),
    ),
    Published(
        "OLMoE-1B-7B", 6_919_161_856, 131_072,
        _of("OlmoeForCausalLM", "olmoe", _sizes(2048, 1024, 16, 16, 16, 50304), num_experts=64, num_experts_per_tok=8),
    ),
    Published(
        "Command-R-35B", 34_980_831_232, 1_310_720,
        _of("CohereForCausalLM", "cohere", _sizes(8192, 22528, 40, 64, 64, 256000)),
    ),
    Published(
        "StarCoder2-7B", 7_173_923_840, 65_536,
        _of("Starcoder2ForCausalLM", "starcoder2", _sizes(4608, 18432, 32, 36, 4, 49152), use_bias=True,
            sliding_window=4096),
    ),
    Published(
        "GPT-2", 124_439_808, 36_864,
        _of("GPT2LMHeadModel", "gpt2", {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257,
            "n_positions": 1024}),
    ),
    Published(
        "Pythia-6.9B", 6_857_302_016, 524_288,
        _of("GPTNeoXForCausalLM", "gpt_neox", {"hidden_size": 4096, "intermediate_size": 16384,
            "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50432}, tie_word_embeddings=False),
    ),
    Published(
        "OPT-6.7B", 6_658_473_984, 524_288,
        _of("OPTForCausalLM", "opt", {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32,
            "num_attention_heads": 32, "vocab_size": 50272, "max_position_embeddings": 2048,
            "word_embed_proj_dim": 4096}),
    ),
)  # fmt: skip
