"""What fp8 weights, an fp8 KV cache and speculation would give: estimates, for those who accept other answers."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.memory import Fit
from vllm_hpc.planner.models.quantization import online
from vllm_hpc.planner.speculation import MTP, Speculation, speculations
from vllm_hpc.planner.time_estimate import Generation, estimate_seconds
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.gpus import Gpu
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import EngineChoice

# How far off the estimated ratio may be. fp8 weights of the 8B shape on an H200 were within 3 % (docs/planner.md), and
# runs of one setting differ by up to 7 %; what was not measured has more room.
_NEAR, _FAR = 1.1, 1.25
# What is not even this much faster at best is no choice.
_WORTH = 1.1
# Of the tokens that a row is assumed to have where there is no input, the part that is generated.
_OUTPUT_PART = 4
_ROUNDED = "rounds what the model multiplies to 8 bits: answers may differ, and tune --sweep quantization says how much"
_CACHED = "rounds keys and values to 8 bits: answers may differ, and tune --sweep kv_cache_dtype says how much"
_SPECULATED = (
    "greedy answers differ only where rounding decides; sampled ones are others, of the same distribution, "
    "also with a seed"
)


class _Case(msgspec.Struct, frozen=True):
    """A layout, its memory and its rows, of which choices are estimated."""

    problem: PlanningProblem
    layout: Layout
    fit: Fit
    gpu: Gpu
    seconds: float

    @property
    def running(self) -> int:
        """Sequences that a replica runs at once."""
        assert self.problem.workload is not None
        share = -(-self.problem.workload.sequences // self.layout.dp)
        return max(1, min(share, int(self.problem.concurrent(self.fit))))


def engine_choices(
    problem: PlanningProblem, layout: Layout, fit: Fit | None, given: dict[str, Any], mtp_layers: int
) -> tuple[tuple[EngineChoice, ...], tuple[str, ...]]:
    """The choices for a layout, fastest first, and what is to be said of others.

    None on the CPU, where the GPU's speed is unknown, or if the layout does not fit. ``given``: the arguments of
    --engine, which are decided; ``mtp_layers``: the model's MTP heads.
    """
    case = _case(problem, layout, fit)
    if case is None:
        return (), ()
    found = [_weights(case, given), _cache(case, given)]
    speculated = _speculated(case, given, mtp_layers)
    worth = [one for one in speculated if one.gain_high >= _WORTH]
    choices = sorted(filter(None, [*found, *worth]), key=lambda one: -(one.gain_low + one.gain_high))
    return tuple(choices), _why_none(case) if speculated and not worth else ()


def _case(problem: PlanningProblem, layout: Layout, fit: Fit | None) -> _Case | None:
    gpu = problem.device.gpu if problem.device else None
    if gpu is None or fit is None:
        return None
    problem = problem if problem.workload else msgspec.structs.replace(problem, workload=_assumed(problem))
    seconds = problem.rough_seconds(layout, fit)
    return _Case(problem, layout, fit, gpu, seconds) if seconds else None


def _assumed(problem: PlanningProblem) -> Workload:
    """Many rows of the length that the planner assumes where there is no input."""
    rows, tokens = 16 * problem.settings.load.max_num_seqs, problem.settings.sequence_tokens
    output = max(1, tokens // _OUTPUT_PART)
    return Workload(rows=rows, longest=None, prompt_tokens=rows * (tokens - output), output_tokens=rows * output)


def _rows(case: _Case) -> str:
    workload = case.problem.workload
    assert workload is not None
    prompt, output = (round(tokens / max(1, workload.rows)) for tokens in (workload.prompt_tokens, _outputs(case)))
    return f"rows of {prompt} tokens in and {output} out"


def _outputs(case: _Case) -> int:
    return case.problem.workload.output_tokens if case.problem.workload else 0


def _weights(case: _Case, given: dict[str, Any]) -> EngineChoice | None:
    """fp8 weights, quantised while they load; the model's own must be in 16 bits."""
    load = case.problem.settings.load
    is_plain = case.problem.shape.quantization is None and load.quantization is None and load.weight_bytes == 2
    if not case.gpu.has_fp8 or not is_plain or "quantization" in given:
        return None
    engine = {"quantization": "fp8"}
    ratio = _ratio(case, msgspec.structs.replace(load, quantization=online("fp8")))
    if ratio is None:
        return None
    is_near = case.problem.shape.experts is None and case.layout.tp == case.layout.pp == 1
    measured = "1.30 to 1.41 were measured with 8B on one H200" if is_near else "not measured with experts, TP or PP"
    basis = f"an estimate for {case.gpu.name} and {_rows(case)}; {measured}"
    return _choice("quantization", engine, (ratio, ratio), _NEAR if is_near else _FAR, basis, _ROUNDED)


def _cache(case: _Case, given: dict[str, Any]) -> EngineChoice | None:
    """An fp8 KV cache: half the bytes to read, and room for twice the tokens."""
    load, shape = case.problem.settings.load, case.problem.shape
    # Attention sinks (gpt-oss) need kernels of which not all read fp8.
    if not case.gpu.has_fp8 or load.kv_bytes != 2 or "kv_cache_dtype" in given or shape.family.sinks:
        return None
    if not _outputs(case):
        return None
    ratio = _ratio(case, msgspec.structs.replace(load, kv_bytes=1))
    if ratio is None:
        return None
    room = case.problem.concurrent(case.fit)
    limits = room < min(load.max_num_seqs, -(-_sequences(case) // case.layout.dp))
    why = f"it has room for {room:.0f} at once, and would have for twice as many" if limits else "it has room enough"
    measured = "0.99 to 1.02 were measured with 8B on one H200"
    basis = f"an estimate for {case.gpu.name} and {_rows(case)}; {measured}; of the KV cache, {why}"
    return _choice("kv_cache_dtype", {"kv_cache_dtype": "fp8"}, (ratio, ratio), _NEAR, basis, _CACHED)


def _sequences(case: _Case) -> int:
    return case.problem.workload.sequences if case.problem.workload else 0


def _ratio(case: _Case, load: Any) -> float | None:
    """How much faster the layout would be with that load; None if that is not known."""
    settings = msgspec.structs.replace(case.problem.settings, load=load)
    changed = msgspec.structs.replace(case.problem, settings=settings)
    seconds = changed.rough_seconds(case.layout, changed.fit(case.layout))
    return case.seconds / seconds if seconds else None


def _speculated(case: _Case, given: dict[str, Any], mtp_layers: int) -> list[EngineChoice]:
    """Each kind of speculation that vLLM could run: not with PP, and only where something is generated."""
    if "speculative_config" in given or case.layout.pp > 1 or not _outputs(case):
        return []
    return [_of_speculation(case, one) for one in speculations(case.problem.shape, mtp_layers)]


def _of_speculation(case: _Case, one: Speculation) -> EngineChoice:
    low, high = (_speculating(case, one, tokens) for tokens in (one.tokens_low, one.tokens_high))
    basis = f"an estimate for {case.gpu.name} and {case.running} sequences at once, not measured; {one.basis}"
    return _choice(one.method, one.engine, (low, high), _NEAR, basis, _SPECULATED)


def _speculating(case: _Case, one: Speculation, tokens: float) -> float:
    """How much faster it is with that many tokens in a step. An MTP head is a layer and the output projection more."""
    problem, shape = case.problem, case.problem.shape
    assert problem.workload is not None
    cached = problem.cached_share(case.fit)
    work = Generation(
        shape, problem.settings.load, problem.workload, case.gpu, problem.overlaps(case.layout), cached,
        network_gbps=problem.network_gbps,
    )  # fmt: skip
    drafting = 1 + (1 / shape.layers if one is MTP else 0.0)
    work = work._replace(drafts=one.drafts, tokens_a_step=tokens)
    return case.seconds / (drafting * estimate_seconds(work, case.layout, case.fit, problem.concurrent(case.fit)))


def _choice(
    key: str, engine: dict[str, Any], ratios: tuple[float, float], spread: float, basis: str, answers: str
) -> EngineChoice:
    low, high = ratios
    allow = next(name for name, argument in CHANGES_ANSWERS.items() if argument in engine)
    return EngineChoice(
        key=key, allow=allow, engine=engine, gain_low=round(low / spread, 2), gain_high=round(high * spread, 2),
        basis=basis, answers=answers,
    )  # fmt: skip


def _why_none(case: _Case) -> tuple[str]:
    return (
        f"speculation is no choice: a replica runs {case.running} sequences at once, for which checking drafts takes "
        "longer than it saves",
    )
