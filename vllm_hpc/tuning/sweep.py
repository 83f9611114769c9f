"""Which settings `vllm-hpc tune` tries and keeps: it changes one thing at a time.

A change is kept if its gain exceeds the noise between two runs of the same setting.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vllm_hpc.planner.tuned import Setting, Trial
from vllm_hpc.spec.errors import JobFailedError

# What can be swept, in this order. An fp8 KV cache changes the answers, so it is tried only on request.
SWEEPS = ("layout", "max_num_seqs", "max_num_batched_tokens", "kv_cache_dtype")
DEFAULT_SWEEP = SWEEPS[:3]
# Runs of one setting, except the first, differed by up to 2 % (docs/performance.md).
_BETTER = 1.02
# vLLM's defaults if the plan sets none (planner/engine_settings.py has those for GPUs).
DEFAULTS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}

Measure = Callable[[Setting], Trial]


def warmed(run: Measure, tell: Callable[[Trial], None]) -> Measure:
    """Run each new setting of this sweep twice; pass the first run to ``tell``, and count only the second.

    On a GPU, kernels are compiled in a job's first steps too: the first job on an H100 had 0.81 times the tokens/s of
    the second (docs/performance.md), which would have favoured whatever is tried later.
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
    """The best setting, found one coordinate at a time, and confirmed in a second comparison with the first one.

    Raises JobFailedError if the first one fails.
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
    if best is not first:  # the best of many trials may just have been lucky; their code is compiled by now
        best = _better(measure(start), measure(best.setting))
    return best.setting


def _better(best: Trial, other: Trial) -> Trial:
    """The other trial if it is faster by more than noise, else the best one."""
    return other if (other.tokens_per_s or 0.0) > _BETTER * (best.tokens_per_s or 0.0) else best


def _climb(best: Trial, name: str, measure: Measure, rows: int) -> Trial:
    """Halve or double a number repeatedly, as long as that is faster."""
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
    """The next number to try; None if it would change nothing, or vLLM would refuse it."""
    engine = {**DEFAULTS, **setting.engine}
    value: int = engine[name] * 2 if up else engine[name] // 2
    while name == "max_num_seqs" and not up and value * setting.dp >= rows:  # all rows would still run at once
        value //= 2
    seqs, tokens = (value if key == name else engine[key] for key in ("max_num_seqs", "max_num_batched_tokens"))
    if value < 1 or tokens < seqs:  # vLLM refuses more sequences than tokens per step
        return None
    # A replica never runs more sequences at once than it has rows.
    return None if name == "max_num_seqs" and up and engine[name] * setting.dp >= rows else value


def _changed(setting: Setting, name: str, value: object) -> Setting:
    return msgspec.structs.replace(setting, engine={**setting.engine, name: value})
