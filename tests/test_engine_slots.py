"""Where an allocation is spared, vLLM's own scheduler would have done nothing: held against it in real steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine_run import ENVIRONMENT

pytestmark = pytest.mark.vllm

SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams, TokensPrompt
from vllm_hpc.engine.slots import Slots, spare_allocations
model, how = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(model, enforce_eager=True, seed=0, dtype="float32", max_model_len=256, max_num_seqs=12, **how)
prompts = [[5 + (n * 7 + k) % 90 for k in range(3 + n * 5 % 70)] for n in range(24)]
prompts += [list(range(5, 75)) + [n] for n in range(6)]  # a common beginning of more than a block
params = [SamplingParams(temperature=0, ignore_eos=True, max_tokens=1 + n * 11 % 90) for n in range(30)]

def generate():
    outputs = llm.generate([TokensPrompt(prompt_token_ids=one) for one in prompts], params, use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in outputs]

scheduler = llm.llm_engine.engine_core.engine_core.scheduler
manager = scheduler.kv_cache_manager
slots, allocate, cache = Slots(manager), manager.allocate_slots, manager.cache_blocks
group = manager.coordinator.single_type_managers[0]
seen = {"spared": 0, "asked": 0, "wrong": 0, "preempted": 0}
preempt = scheduler._preempt_request

def state(request):
    ident = request.request_id
    return (
        [block.block_id for block in group.req_to_blocks.get(ident, [])], group.num_cached_block.get(ident, 0),
        manager.block_pool.get_num_free_blocks(), dict(group._partial_hit_reqs),
    )

def watched(request, num_new_tokens, *others, **named):
    plain = not others and not any(named.values())
    free = plain and slots.are_free(request, num_new_tokens)
    before = state(request)
    found = allocate(request, num_new_tokens, *others, **named)
    if plain:
        seen["spared" if free else "asked"] += 1
    if free and (found is not manager.empty_kv_cache_blocks or state(request) != before):
        seen["wrong"] += 1
    return found

def watched_cache(request, tokens):
    before, there = state(request), slots.are_cached(request, tokens)
    cache(request, tokens)
    seen["wrong"] += there and state(request) != before

def watched_preempt(*given, **named):
    seen["preempted"] += 1
    return preempt(*given, **named)

manager.allocate_slots, manager.cache_blocks, scheduler._preempt_request = watched, watched_cache, watched_preempt
plain = generate()
manager.allocate_slots, manager.cache_blocks = allocate, cache
hits = llm.llm_engine.reset_prefix_cache() and seen.copy()
first = spare_allocations(llm.llm_engine)
spared = generate()
print(json.dumps({**hits, "is_spared": first and manager.allocate_slots is not allocate, "equal": plain == spared}))
"""


@pytest.mark.parametrize(
    "how",
    [
        {"block_size": 32},
        {"block_size": 32, "enable_prefix_caching": False},
        {"block_size": 32, "max_num_batched_tokens": 24},
        {"block_size": 32, "num_gpu_blocks_override": 20},
    ],
    ids=["plain", "no prefix cache", "prompts in parts", "too little room"],
)
def test_what_is_spared_would_have_done_nothing(tiny: Path, how: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tiny), json.dumps(how)],
        capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == 0
    assert found["spared"] > 8 * found["asked"]
    assert (found["is_spared"], found["equal"]) == (True, True)
    assert bool(found["preempted"]) is ("num_gpu_blocks_override" in how)
