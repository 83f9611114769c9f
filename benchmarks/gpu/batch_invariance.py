"""Whether vLLM's batch-invariant mode gives a row the same tokens in batches of other sizes: vLLM alone, one engine.

    python -m benchmarks.gpu.batch_invariance --shape llama-1b

Random weights, 128 prompts of 256 tokens, greedy and sampled; all at once, then 32 at a time. It prints how many rows
are equal, and where the others first differ. If rows differ here, it is not the job's doing (docs/determinism.md).
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any

from benchmarks.gpu.shapes import make_random, shape_parser

_PROMPTS, _PROMPT_TOKENS, _TOKENS = 128, 256, 48


def differences(these: list[list[int]], others: list[list[int]]) -> list[int]:
    """The first token that differs, of each row that has one."""
    firsts = [
        next((at for at, (one, other) in enumerate(zip(a, b, strict=True)) if one != other), None)
        for a, b in zip(these, others, strict=True)
    ]
    return sorted(first for first in firsts if first is not None)


def main() -> int:
    """Run the batches; 1 if a row differs."""
    given = shape_parser(__doc__, 1).parse_args()
    os.environ |= {"VLLM_BATCH_INVARIANT": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from vllm import LLM, SamplingParams

    model = make_random(given.shape, given.work / f"{given.shape}-random")
    llm: Any = LLM(str(model), max_model_len=2048, max_num_seqs=256, enable_prefix_caching=False, seed=0)
    draw = random.Random(0)
    prompts = [{"prompt_token_ids": draw.choices(range(300, 4000), k=_PROMPT_TOKENS)} for _ in range(_PROMPTS)]
    worst = 0
    for name, sampling in (("greedy", {"temperature": 0.0}), ("sampled", {"temperature": 0.8, "top_p": 0.95})):
        params = [SamplingParams(max_tokens=_TOKENS, ignore_eos=True, seed=row, **sampling) for row in range(_PROMPTS)]

        def run(size: int, params: list[Any] = params) -> list[list[int]]:
            batches = range(0, _PROMPTS, size)
            found = [llm.generate(prompts[at : at + size], params[at : at + size], use_tqdm=False) for at in batches]
            return [list(output.outputs[0].token_ids) for batch in found for output in batch]

        whole = run(_PROMPTS)
        for size in (_PROMPTS, 32):
            unequal = differences(whole, run(size))
            worst = max(worst, len(unequal))
            print(f"{name}, {size} at once: {_PROMPTS - len(unequal)} of {_PROMPTS} equal; first: {unequal[:12]}")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
