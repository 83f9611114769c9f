"""Kinds of speculation that vLLM has without a second model, and what is published about them.

A step checks drafts of the next tokens, and takes those that the model would have made itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.models.config import Shape

# Of the planner's table, the models for which vLLM has an MTP head (0.26 to 0.32, config/speculative.py,
# hf_config_override): DeepSeek V3's form, of which config.json says how many heads its checkpoint has.
_WITH_MTP = frozenset({"DeepseekV3ForCausalLM"})


class Speculation(msgspec.Struct, frozen=True):
    """A method, its drafts in a step, and the published range of tokens that a sequence gets in a step, at best."""

    method: str
    drafts: int
    tokens_low: float
    tokens_high: float
    basis: str
    more: dict[str, Any] = {}

    @property
    def engine(self) -> dict[str, Any]:
        """The engine argument."""
        config = {"method": self.method, "num_speculative_tokens": self.drafts, **self.more}
        return {"speculative_config": config}


# vLLM's own figures for prompt lookup on CNN/DailyMail, one request at a time: 2.8 times the speed (blog.vllm.ai,
# "How Speculative Decoding Boosts vLLM Performance by up to 2.8x", 2024). Where nothing repeats, no draft is right.
NGRAM = Speculation(
    "ngram", 4, 1.0, 2.8, "where answers repeat their prompt, up to 2.8 tokens a step were published; else 1",
    {"prompt_lookup_max": 4, "prompt_lookup_min": 2},
)  # fmt: skip
# The same where nothing repeats; Arctic's own figures for agents' code, 2.5 to 3 (arxiv.org/abs/2411.04975).
SUFFIX = Speculation(
    "suffix", 4, 1.0, 3.0,
    "where answers repeat prompts or earlier answers, up to 3 tokens a step were published; else 1; the ranks need "
    "arctic-inference: pip install arctic-inference",
)  # fmt: skip
# DeepSeek-V3's report (arxiv.org/abs/2412.19437, 5.4.3): 85 to 90 % of second tokens are accepted.
MTP = Speculation("mtp", 1, 1.85, 1.9, "1.85 to 1.9 tokens a step were published for DeepSeek V3")


def speculations(shape: Shape, mtp_layers: int) -> tuple[Speculation, ...]:
    """Those that a model can have; ``mtp_layers``: the MTP heads that its config.json tells of."""
    has_head = mtp_layers > 0 and shape.architecture in _WITH_MTP
    return (NGRAM, SUFFIX, *((MTP,) if has_head else ()))
