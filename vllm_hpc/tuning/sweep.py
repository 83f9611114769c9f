"""Which settings `vllm-hpc tune` tries, and which it keeps: one thing after another is changed.

A change is kept where it is faster by more than two runs of the same setting differ.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vllm_hpc.planner.tuned import Setting, Trial
from vllm_hpc.spec.errors import JobFailedError

# What is swept, in this order. An fp8 KV cache changes the answers: only where it is named.
SWEEPS = ("layout", "max_num_seqs", "max_num_batched_tokens", "kv_cache_dtype")
DEFAULT_SWEEP = SWEEPS[:3]
# Rounds of one setting differed by up to 2 % after the first (docs/performance.md).
_BETTER = 1.02
# vLLM's defaults where the plan names none (settings.py has them for GPUs).
DEFAULTS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}

Measure = Callable[[Setting], Trial]


def warmed(run: Measure, tell: Callable[[Trial], None]) -> Measure:
    """Run a setting twice the first time that this sweep comes to it, tell of the first run, and count the second.

    On a GPU, kernels are compiled in a job's first steps too: one H100's first job had 0.81 of the second's tokens/s
    (docs/performance.md), which would have spoken for whatever is tried later.
    """
    compiled: list[Setting] = []

    def run_warm(setting: Setting) -> Trial:
        if setting not in compiled:
            compiled.append(setting)
            first = run(setting)
            if first.tokens_per_s is None:
                return first
            tell(msgspec.structs.replace(first, counts=False))
        return run(setting)

    return run_warm


def search(
    start: Setting, sweep: tuple[str, ...], measure: Measure, layouts: Callable[[Setting], list[Setting]], rows: int
) -> Setting:
    """The best setting, one coordinate after another, and better than the first one a second time too.

    Raises JobFailedError where the first one fails.
    """
    first = measure(start)
    if first.tokens_per_s is None:
        raise JobFailedError(f"the planner's own choice failed: {first.why}; its job folder: {first.job}")
    best = first
    if "layout" in sweep:
        for setting in layouts(start):
            best = _better(best, measure(setting))
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        if name in sweep:
            best = _climb(best, name, measure, rows)
    if "kv_cache_dtype" in sweep:
        best = _better(best, measure(_changed(best.setting, "kv_cache_dtype", "fp8")))
    if best is not first:  # of many trials the luckiest wins; what they compiled is there by now
        best = _better(measure(start), measure(best.setting))
    return best.setting


def _better(best: Trial, other: Trial) -> Trial:
    """The other one only where it is faster by more than noise."""
    return other if (other.tokens_per_s or 0.0) > _BETTER * (best.tokens_per_s or 0.0) else best


def _climb(best: Trial, name: str, measure: Measure, rows: int) -> Trial:
    """Halve a number, or double it, and again as long as that is faster."""
    for up in (False, True):
        begun = best
        while (value := _next(best.setting, name, up, rows)) is not None:
            found = _better(best, measure(_changed(best.setting, name, value)))
            if found is best:
                break
            best = found
        if best is not begun:
            break
    return best


def _next(setting: Setting, name: str, up: bool, rows: int) -> int | None:
    """The number to try; None where it changes nothing, or vLLM refuses it."""
    engine = {**DEFAULTS, **setting.engine}
    value: int = engine[name] * 2 if up else engine[name] // 2
    while name == "max_num_seqs" and not up and value * setting.dp >= rows:  # as many would run at once as before
        value //= 2
    seqs, tokens = (value if key == name else engine[key] for key in ("max_num_seqs", "max_num_batched_tokens"))
    if value < 1 or tokens < seqs:  # vLLM refuses more sequences than tokens a step
        return None
    # More sequences than rows of a replica are never at once.
    return None if name == "max_num_seqs" and up and engine[name] * setting.dp >= rows else value


def _changed(setting: Setting, name: str, value: object) -> Setting:
    return msgspec.structs.replace(setting, engine={**setting.engine, name: value})
