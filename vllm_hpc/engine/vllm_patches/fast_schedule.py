"""A shortcut through vLLM's scheduler for sequences that only continue: one more token, in a block that has room.

For every sequence in every step the scheduler checks some thirty conditions, and makes an output that nobody reads
before the row ends: 9 of the 20 ms that Python needs for a step of 512 sequences, while the GPUs wait
(docs/performance.md). Nearly all of these sequences do the same as in the step before. Here one loop advances them. All
others, and new rows, go through vLLM's own code, and the result is the same as vLLM's own.
"""

from __future__ import annotations

import copy
import dataclasses
from itertools import islice
from typing import Any, NamedTuple

from vllm import LLMEngine, __version__
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from vllm_hpc.engine.vllm_patches.kv_slots import Slots
from vllm_hpc.engine.vllm_patches.table import minor_of


class _Names(NamedTuple):
    """What a version of vLLM calls these attributes of a request.

    ``stale``: tokens in flight from before the request was preempted. ``in_flight``: how many of its computed tokens
    vLLM does not cache yet, in asynchronous scheduling.
    """

    stale: str
    in_flight: str


# The versions whose scheduler was compared with this line by line (PATCHES lists them, too). In all others vLLM's own
# code runs.
_READ = {
    "0.26": _Names("async_tokens_to_discard", "num_output_placeholders"),
    "0.32": _Names("num_stale_output_tokens", "num_output_placeholders"),
    "0.33": _Names("num_stale_output_tokens", "num_in_flight_tokens"),
}
# Scheduler features that this does not support, by vLLM's attribute; some exist in only one version.
_NOT_WITH = (
    "log_stats", "connector", "ec_connector", "aux_output_connector", "num_spec_tokens", "num_lookahead_tokens",
    "use_pp", "defer_block_free", "enable_return_routed_experts", "return_sampling_mask", "perf_metrics",
    "num_hash_lookahead_tokens", "can_skip_drafts",
)  # fmt: skip


# The scheduler's limits of a step; the last one is not in 0.26.
_LIMITS = ("max_num_scheduled_tokens", "max_num_running_reqs", "max_num_active_reqs")


class _Rule(NamedTuple):
    """How long a request only continues: while it has fewer tokens in all than ``limit``, and none of ``stops``."""

    limit: int
    stops: frozenset[int]


_NEVER = _Rule(0, frozenset())


class Steady:
    """The two halves of a step of one scheduler, in place of its ``schedule`` and its ``update_from_output``."""

    def __init__(self, scheduler: Any) -> None:
        """Raises AttributeError or ValueError if the scheduler does more than this patch supports."""
        names = _READ.get(minor_of(__version__))
        if names is None or type(scheduler) not in (Scheduler, AsyncScheduler) or _does_more(scheduler):
            raise ValueError("the scheduler does more here than the patch supports")
        self._stale, self._in_flight = names
        self._scheduler, self._slots = scheduler, Slots(scheduler.kv_cache_manager)
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        self._is_async = isinstance(scheduler, AsyncScheduler)
        self._is_v2: bool = scheduler.use_v2_model_runner
        self._rules: dict[str, _Rule] = {}
        # For requests with held-back tokens: all output tokens, and how many of them vLLM has already put out.
        self._held: dict[str, tuple[list[int], int]] = {}

    def schedule(self, throttle_prefills: bool = False) -> Any:
        """vLLM's ``Scheduler.schedule``: what the next step computes."""
        before = self._scheduler.running
        steady = self._find_steady(before)
        others = [request for request in before if request not in steady]
        if steady and self._slots.have_room_for(others):
            output = self._schedule_others(others, len(steady), throttle_prefills)
            self._scheduler.running = [*before, *self._scheduler.running[len(others) :]]
            self._count_on(output, before, steady)
        else:
            output = self._schedule(throttle_prefills)
        for ident in output.finished_req_ids:
            self._rules.pop(ident, None)
            self._held.pop(ident, None)
        return output

    def _find_steady(self, running: list[Any]) -> set[Any]:
        """The requests to which the next step only adds one token, without allocating anything for them.

        Never the first one: vLLM derives the common prefix from it, and every step keeps at least one for vLLM's code.
        """
        scheduler, slots, rules = self._scheduler, self._slots, self._rules
        steady: set[Any] = set()
        if scheduler._pause_state != PauseState.UNPAUSED:
            return steady
        step = scheduler.current_step + 1
        known = None if self._is_v2 else scheduler.prev_step_scheduled_req_ids
        for request in islice(running, 1, None):
            ident, next_computed = request.request_id, request.num_computed_tokens + 1
            tokens = len(request._all_token_ids)
            if (
                next_computed == tokens + request.num_output_placeholders
                and next_computed + 1 < rules.get(ident, _NEVER).limit
                and request.next_decode_eligible_step <= step
                and not request.spec_token_ids
                and not request.is_prefill_chunk
                and (known is None or ident in known)
                and slots.are_free(request, next_computed, tokens)
            ):
                steady.add(request)
        return steady

    def _schedule_others(self, others: list[Any], steady: int, throttle_prefills: bool) -> Any:
        """Schedule all but the steady ones with vLLM's own code, its limits reduced by what the steady ones take."""
        scheduler = self._scheduler
        scheduler.running = others.copy()
        before = {name: getattr(scheduler, name) for name in _LIMITS if hasattr(scheduler, name)}
        vars(scheduler).update({name: limit - steady for name, limit in before.items()})
        try:
            output = self._schedule(throttle_prefills)
        finally:
            vars(scheduler).update(before)
        if scheduler.running[: len(others)] != others:
            raise RuntimeError("vLLM's scheduler preempted a request although there was room")
        return output

    def _count_on(self, output: Any, running: list[Any], steady: set[Any]) -> None:
        """Add the steady ones to the output of the others, each at its place: in vLLM's order of ``running``."""
        theirs = output.scheduled_cached_reqs
        columns = (theirs.new_block_ids, theirs.num_computed_tokens, theirs.num_output_tokens)
        left = dict(zip(theirs.req_ids, zip(*columns, strict=True), strict=True))
        lines: dict[str, tuple[Any, int, int]] = {}
        counts: dict[str, int] = {}
        next_step = self._scheduler.current_step + 1
        for request in running:
            ident = request.request_id
            if request in steady:
                counts[ident] = 1
                computed, placeholders = request.num_computed_tokens, request.num_output_placeholders
                lines[ident] = (None, computed, len(request._output_token_ids) + placeholders)
                request.num_computed_tokens = computed + 1
                request.num_in_flight_tokens += 1
                if self._is_async:
                    request.num_output_placeholders = placeholders + 1
                    if self._is_v2:
                        request.next_decode_eligible_step = next_step
            elif ident in left:
                counts[ident] = output.num_scheduled_tokens[ident]
                lines[ident] = left.pop(ident)
        lines |= left
        blocks, computed_tokens, output_tokens = map(list, zip(*lines.values(), strict=True))
        output.scheduled_cached_reqs = dataclasses.replace(
            theirs, req_ids=list(lines), new_block_ids=blocks, num_computed_tokens=computed_tokens,
            num_output_tokens=output_tokens,
        )  # fmt: skip
        output.num_scheduled_tokens = counts | output.num_scheduled_tokens
        output.total_num_scheduled_tokens += len(steady)
        if not self._is_v2:
            self._scheduler.prev_step_scheduled_req_ids.update(counts)

    def update(self, scheduler_output: Any, runner_output: Any) -> Any:
        """vLLM's ``Scheduler.update_from_output``: take in the tokens of a step.

        Tokens of rows that go on are held back, and put out with the row's last ones.
        """
        if not runner_output.sampled_token_ids or runner_output.num_nans_in_logits or runner_output.pooler_output:
            return self._update(scheduler_output, runner_output)
        others = self._take_in(scheduler_output.num_scheduled_tokens, runner_output)
        rest = copy.copy(scheduler_output)
        rest.num_scheduled_tokens = others
        outputs = self._update(rest, runner_output)
        for one in (one for client in outputs.values() for one in client.outputs):
            if one.request_id in self._held:
                tokens, first = self._held.pop(one.request_id)
                one.new_token_ids = tokens[first:]
        for ident in others:
            request = self._scheduler.requests.get(ident)
            if ident not in self._rules and request is not None and request._output_token_ids:
                self._rules[ident] = _rule(request, self._scheduler.max_model_len)
        return outputs

    def _take_in(self, counts: dict[str, int], runner_output: Any) -> dict[str, int]:
        """Append the tokens of the requests that only continue. Returns the others."""
        requests, rules, sampled, places = (
            self._scheduler.requests, self._rules, runner_output.sampled_token_ids, runner_output.req_id_to_index
        )  # fmt: skip
        others: dict[str, int] = {}
        for ident, count in counts.items():
            request, rule = requests.get(ident), rules.get(ident, _NEVER)
            token = sampled[places[ident]] if ident in places else []
            if (
                request is not None
                and count == 1 == len(token)
                and len(request._all_token_ids) + 1 < rule.limit
                and token[0] not in rule.stops
                and request.status is RequestStatus.RUNNING
                and not getattr(request, self._stale)
            ):
                self._append(ident, request, token[0])
            else:
                others[ident] = count
        return others

    def _append(self, ident: str, request: Any, token: int) -> None:
        request.num_in_flight_tokens -= 1
        if ident not in self._held:
            self._held[ident] = (request._output_token_ids, len(request._output_token_ids))
        request._output_token_ids.append(token)
        request._all_token_ids.append(token)
        if not len(request._all_token_ids) % self._slots.size:
            request.update_block_hashes()
        if self._is_async:
            request.num_output_placeholders -= 1
            computed = request.num_computed_tokens - getattr(request, self._in_flight)
            if not self._slots.are_cached(ident, computed):
                self._scheduler.kv_cache_manager.cache_blocks(request, computed)


def turn_on(engine: LLMEngine) -> str:
    """Let this engine's scheduler use the shortcut. Returns why it does not, "" if it does."""
    try:
        scheduler: Any = engine.engine_core.engine_core.scheduler
        steady = Steady(scheduler)
    except ValueError as error:  # another kind of model, or of scheduler
        return str(error)
    except AttributeError as error:  # workers of vLLM's own, another kind of KV cache
        return f"the patch does not support this kind of engine: {error}"
    scheduler.schedule, scheduler.update_from_output = steady.schedule, steady.update
    return ""


def take_short_way(engine: LLMEngine) -> bool:
    """Turn it on; returns whether this engine's scheduler now uses the shortcut."""
    return not turn_on(engine)


def _does_more(scheduler: Any) -> bool:
    return (
        any(getattr(scheduler, name, None) for name in _NOT_WITH)
        or scheduler.policy != SchedulingPolicy.FCFS
        or scheduler.num_sampled_tokens_per_step != 1
        or scheduler.scheduler_config.long_prefill_token_threshold > 0
        or getattr(scheduler, "local_prefill_interval", 1) > 1  # from 0.33: some steps admit no prompts
    )


def _rule(request: Any, max_model_len: int) -> _Rule:
    """When vLLM's check_stop would stop it; never steady if vLLM looks at more than its tokens."""
    params = request.sampling_params
    if (
        params is None
        or params.output_kind != RequestOutputKind.FINAL_ONLY
        or params.num_logprobs is not None
        or params.stop
        or params.repetition_detection
        or request.lora_request
        or request.use_structured_output
        or request.has_encoder_inputs
        or request.resumable
    ):
        return _NEVER
    limit = min(request.num_prompt_tokens + request.max_tokens, max_model_len)
    return _Rule(limit, frozenset((params.eos_token_id, *(params.stop_token_ids or ()))))
