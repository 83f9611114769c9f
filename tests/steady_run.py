"""Runs rows through vLLM's schedulers, their own way and the short one, and prints what each step was asked to compute.

    python -m tests.steady_run MODEL ENGINES.json

For each engine of the list four runs, each with a scheduler of its own, as that engine makes it. Real: the model runs
on the CPU. Pipelined: the asynchronous scheduler of GPUs, two steps in flight; what the model would have sampled is
made up here.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from vllm_hpc.engine.vllm_patches.fast_schedule import Steady, take_short_way

# Some tokens stop some rows.
PROMPTS = [[5 + (n * 7 + k) % 90 for k in range(3 + n * 5 % 70)] for n in range(24)]
PROMPTS += [[*range(5, 75), n] for n in range(16)]  # a common beginning of more than a block
SPECIAL: dict[int, dict[str, Any]] = {
    3: {"logprobs": 1},
    5: {"n": 2, "temperature": 0.5},
    7: {"stop": ["e", "a"]},
    9: {"min_tokens": 40, "max_tokens": 60},
    11: {"stop_token_ids": [*range(60, 90)]},
    13: {"max_tokens": 1},
    15: {"max_tokens": 400},  # more than the model takes
    17: {"detokenize": False},
    21: {"prompt_logprobs": 0},
    30: {"min_tokens": 20, "max_tokens": 70, "stop_token_ids": [*range(5, 90)]},
}


def main() -> None:
    """Run, and print a JSON list: for each engine what was told, by kind and way."""
    model, engines = sys.argv[1:]
    print(json.dumps([run_engine(model, engine) for engine in json.loads(engines)]))


def run_engine(model: str, engine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is told of each run, by kind and way."""
    llm = LLM(model, enforce_eager=True, seed=0, dtype="float32", max_model_len=256, max_num_seqs=12, **engine)
    core: Any = llm.llm_engine.engine_core.engine_core
    own = core.scheduler
    told: dict[str, dict[str, Any]] = {"real": {}, "pipelined": {}}
    for kind, way in itertools.product(told, ("own", "short")):
        core.scheduler = pipelined_scheduler(core) if kind == "pipelined" else another_scheduler(type(own), own)
        told[kind][way] = run(llm, core, kind, way)
    return told


def run(llm: LLM, core: Any, kind: str, way: str) -> dict[str, Any]:
    """Run all rows by the scheduler that the engine has now."""
    watch = Watch(core.scheduler)
    if way == "short":
        watch.take(take_short_way(llm.llm_engine))
    torch.manual_seed(0)  # as in an engine that has just been made
    rows = run_pipelined(core) if kind == "pipelined" else run_real(llm)
    return {**watch.told(), "rows": rows}


def parameters(number: int, **more: Any) -> SamplingParams:
    """Of a row: lengths are uneven, and some rows want more than tokens."""
    given = {"temperature": 0, "ignore_eos": number % 4 != 0, "max_tokens": 1 + number * 11 % 90}
    return SamplingParams(**{**given, **SPECIAL.get(number, {}), **more})


def run_real(llm: LLM) -> list[Any]:
    """What each row has come to, and how much of its prompt was in the cache."""
    params = [parameters(number) for number in range(len(PROMPTS))]
    prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in PROMPTS]
    return [
        (row.num_cached_tokens, one.token_ids, one.text, one.finish_reason, one.stop_reason, one.cumulative_logprob)
        for row in llm.generate(prompts, params, use_tqdm=False)
        for one in row.outputs
    ]


def pipelined_scheduler(core: Any) -> AsyncScheduler:
    """As the engine makes it on GPUs."""
    scheduler: AsyncScheduler = another_scheduler(AsyncScheduler, core.scheduler)
    scheduler.use_v2_model_runner = True
    return scheduler


def another_scheduler(kind: Any, own: Any) -> Any:
    """A new one beside an engine's own: nothing has run in it, and nothing is cached."""
    return kind(
        own.vllm_config, own.kv_cache_config, own.structured_output_manager, block_size=own.block_size,
        hash_block_size=own.kv_cache_manager.block_pool.hash_block_size,
    )  # fmt: skip


def run_pipelined(core: Any) -> list[Any]:
    """Each row's tokens and why it ended."""
    requests = []
    for number, prompt in enumerate(PROMPTS):
        params = parameters(number, n=1, logprobs=None, prompt_logprobs=None, stop=None, detokenize=False)
        params.output_kind = RequestOutputKind.FINAL_ONLY
        requests.append(
            Request(str(number), prompt, params, None, arrival_time=0.0, block_hasher=core.request_block_hasher)
        )
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    ends: dict[str, Any] = {}
    for outputs in pipelined(core.scheduler, requests):
        for client in outputs.values():
            for one in client.outputs:
                tokens[one.request_id] += one.new_token_ids
                ends[one.request_id] = str(one.finish_reason)
    return [(tokens[ident], ends[ident]) for ident in tokens]


def pipelined(scheduler: Any, requests: list[Request]) -> Iterator[Any]:
    """The outputs of each step, as vLLM's core takes them where it launches a batch before it hears the last one."""
    for request in requests:
        scheduler.add_request(request)
    made = dict.fromkeys((request.request_id for request in requests), 0)
    in_flight: deque[tuple[Any, ModelRunnerOutput]] = deque()
    while scheduler.has_requests() or in_flight:
        if scheduler.has_requests():
            output = scheduler.schedule()
            in_flight.append((output, sampled(output, scheduler, made)))
            if len(in_flight) < 2 and output.total_num_scheduled_tokens:
                continue
        yield scheduler.update_from_output(*in_flight.popleft())


def sampled(output: Any, scheduler: Any, made: dict[str, int]) -> ModelRunnerOutput:
    """A token of each request whose prompt is through, the same whenever it is asked for."""
    idents = list(output.num_scheduled_tokens)
    tokens: list[list[int]] = []
    for ident in idents:
        goes_on = not scheduler.requests[ident].is_prefill_chunk
        made[ident] += goes_on
        tokens.append([random.Random(f"{ident}:{made[ident]}").randrange(300)] if goes_on else [])
    return ModelRunnerOutput(idents, {ident: place for place, ident in enumerate(idents)}, tokens)


class Watch:
    """Tells what comes out of each step of a scheduler."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._names: dict[str, int] = {}
        self._steps: list[Any] = []
        self._steady: Steady | None = None
        self._counts = {"preempted": 0, "steady": 0, "tokens": 0}
        self._schedule, self._preempt = scheduler.schedule, scheduler._preempt_request
        scheduler.schedule, scheduler._preempt_request = self._watched, self._watched_preempt

    def take(self, is_taken: bool) -> None:
        """The short way is taken: watch that."""
        assert is_taken
        steady: Steady = self._scheduler.schedule.__self__
        find = steady._find_steady

        def found(running: list[Any]) -> set[Any]:
            these = find(running)
            self._counts["steady"] += len(these)
            return these

        steady._find_steady = found  # type: ignore[method-assign]
        steady._schedule = self._schedule
        self._steady, self._schedule = steady, steady.schedule
        self._scheduler.schedule = self._watched

    def told(self) -> dict[str, Any]:
        """All of it, and how many requests the short way still remembers."""
        left = len(self._steady._rules) + len(self._steady._held) if self._steady else 0
        return {**self._counts, "left": left, "scheduler": type(self._scheduler).__name__, "steps": self._steps}

    def _watched(self, *given: Any) -> Any:
        output = self._schedule(*given)
        cached, manager = output.scheduled_cached_reqs, self._scheduler.kv_cache_manager
        lines = zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        )
        self._counts["tokens"] += output.total_num_scheduled_tokens
        self._steps.append({
            "new": [
                (self._name(one.req_id), one.block_ids, one.num_computed_tokens) for one in output.scheduled_new_reqs
            ],
            "cached": [(self._name(ident), *rest) for ident, *rest in lines],
            "resumed": sorted(map(self._name, cached.resumed_req_ids)),
            "tokens": {self._name(ident): ids for ident, ids in cached.all_token_ids.items()},
            "scheduled": [(self._name(ident), count) for ident, count in output.num_scheduled_tokens.items()],
            "total": output.total_num_scheduled_tokens,
            "prefix": output.num_common_prefix_blocks,
            "finished": sorted(map(self._name, output.finished_req_ids)),
            "running": [self._name(one.request_id) for one in self._scheduler.running],
            "state": [
                (one.num_computed_tokens, one.num_output_placeholders, one.num_in_flight_tokens, one.num_tokens,
                 one.next_decode_eligible_step, len(one.block_hashes))
                for one in self._scheduler.running
            ],
            "waiting": len(self._scheduler.waiting),
            "free": manager.block_pool.get_num_free_blocks(),
        })  # fmt: skip
        return output

    def _watched_preempt(self, *given: Any, **named: Any) -> Any:
        self._counts["preempted"] += 1
        return self._preempt(*given, **named)

    def _name(self, ident: str) -> int:
        """Of a request: vLLM's own has something random in it."""
        return self._names.setdefault(ident, len(self._names))


if __name__ == "__main__":
    main()
