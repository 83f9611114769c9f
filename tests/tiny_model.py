"""A tiny random Llama with a tokenizer and a chat template: 4 layers, 8 heads, 4 kv heads, float32, 6 MB.

With --experts a Qwen3 mixture instead: 2 layers, 8 experts of which a token takes 2.
"""

from __future__ import annotations

import sys
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONTEXT = 256  # tokens


def make_tiny_model(folder: Path, context: int = CONTEXT) -> None:
    """Write the model into ``folder``; the same seed gives the same weights every time. ``context`` is in tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    _make_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=context, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        initializer_range=0.4,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)


def make_tiny_mixture(folder: Path, context: int = CONTEXT) -> None:
    """Write a mixture of experts into ``folder``, likewise."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    _make_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64,
        decoder_sparse_step=1, max_position_embeddings=context, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        initializer_range=0.4, norm_topk_prob=True,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).to(torch.float32).save_pretrained(folder)


def _make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--experts"]
    make = make_tiny_mixture if "--experts" in sys.argv else make_tiny_model
    make(Path(words[0]), *map(int, words[1:]))
