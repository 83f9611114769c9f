"""Which settings `vllm-hpc tune` tries and keeps: it changes one thing at a time.

A change is kept if its gain exceeds the noise between two runs of the same setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.planner.tuned import BETTER, Setting, Trial
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.errors import JobFailedError

# What can be swept, in this order. The rest changes the answers, so it is tried only on request.
DEFAULT_SWEEP = ("layout", "max_num_seqs", "max_num_batched_tokens")
SWEEPS = (*DEFAULT_SWEEP, *CHANGES_ANSWERS)
# vLLM's defaults if the plan sets none (planner/engine_settings.py has those for GPUs).
DEFAULTS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}

Measure = Callable[[Setting], Trial]


class Change(NamedTuple):
    """Engine arguments that change answers, and whether the best setting may have them."""

    engine: dict[str, Any]
    is_allowed: bool


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
    start: Setting, sweep: tuple[str, ...], measure: Measure, layouts: Callable[[Setting], list[Setting]], rows: int,
    changes: Iterable[Change] = (),
) -> Setting:  # fmt: skip
    """The best setting, found one coordinate at a time, and confirmed in a second comparison with the first one.

    ``changes`` are tried on top of it, each by itself and with those before it that are allowed and faster. Raises
    JobFailedError if the first one fails.
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
    if best is not first:  # the best of many trials may just have been lucky; their code is compiled by now
        best = _better(measure(start), measure(best.setting))
    return _with_changes(best, measure, changes).setting


def _with_changes(plain: Trial, measure: Measure, changes: Iterable[Change]) -> Trial:
    """The plain setting with what is allowed and makes it faster, confirmed likewise."""
    best = plain
    for engine, is_allowed in changes:
        other = measure(msgspec.structs.replace(best.setting, engine={**best.setting.engine, **engine}))
        best = _better(best, other) if is_allowed else best
    return best if best is plain else _better(measure(plain.setting), measure(best.setting))


def _better(best: Trial, other: Trial) -> Trial:
    """The other trial if it is faster by more than noise, else the best one."""
    return other if (other.tokens_per_s or 0.0) > BETTER * (best.tokens_per_s or 0.0) else best


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
