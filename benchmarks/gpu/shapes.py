"""Models of published shapes with dummy weights: a config.json, and a tokenizer of the right size, made here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-05,
    "max_position_embeddings": 131072, "rope_theta": 500000.0, "torch_dtype": "bfloat16", "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    # huggingface.co/meta-llama/Llama-3.2-1B
    "llama-1b": _LLAMA | {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    # huggingface.co/meta-llama/Llama-3.1-8B
    "llama-8b": _LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False,
    },
    # What two GPUs have of it is what four have of llama-8b, but for the vocabulary: TP=4's share of work at TP=2.
    "llama-8b-half": _LLAMA | {
        "hidden_size": 4096, "intermediate_size": 7168, "num_hidden_layers": 32, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False,
    },
    # huggingface.co/Qwen/Qwen2.5-32B
    "qwen-32b": _LLAMA | {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648,
        "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064,
        "rope_theta": 1000000.0, "tie_word_embeddings": False,
    },
    # huggingface.co/meta-llama/Llama-3.1-70B
    "llama-70b": _LLAMA | {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False,
    },
    # huggingface.co/Qwen/Qwen3-30B-A3B
    "qwen-30b-a3b": _LLAMA | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rope_theta": 1000000.0, "tie_word_embeddings": False,
    },
    # For trying the benchmark itself where there is no GPU.
    "tiny": _LLAMA | {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096, "max_position_embeddings": 4096,
        "torch_dtype": "float32", "tie_word_embeddings": False,
    },
}  # fmt: skip


def shape_parser(description: str | None, times: int) -> argparse.ArgumentParser:
    """The options of a benchmark of one shape: which, how often, and where its files lie."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-8b", choices=sorted(SHAPES))
    parser.add_argument("--times", type=int, default=times)
    parser.add_argument("--work", type=Path, default=Path("/tmp/vllm-hpc-gpu"))
    return parser


def make(name: str, folder: Path) -> Path:
    """Write a shape's folder, unless it is there, and return it."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = SHAPES[name]
        _write_tokenizer(shape["vocab_size"], folder)
        (folder / "config.json").write_text(json.dumps(shape, indent=1))
    return folder


def make_random(name: str, folder: Path) -> Path:
    """The same with weights of a fresh initialisation (seed 0), in safetensors.

    vLLM's dummy weights are so small that every row has the same tokens, whatever the rounding (measured: 1024 of 1024
    rows equal with and without batch invariance).
    """
    make(name, folder)
    if not list(folder.glob("*.safetensors")):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
        model.save_pretrained(folder)
    return folder


def _write_tokenizer(size: int, folder: Path) -> None:
    """A byte-level BPE without merges: what it costs to turn a token into text is what it costs in a real one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"Ġw{number}" for number in range(size - len(words))]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
