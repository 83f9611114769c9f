"""Structured output: what is set before the engine starts, and the check of a row's constraint."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm_hpc.engine.vllm_patches import is_on

if TYPE_CHECKING:
    from vllm import LLMEngine, SamplingParams

# Seconds. vLLM's default, 5, is measured on each rank: a slow rank would give up a row that the others run, and the
# replica would hang. There must be a limit, because a regular expression can grow without end.
_REGEX_LIMIT_S = "120"


def give_time_to_compile() -> None:
    """Set vLLM's limit for regular expressions, before the engine is made: vLLM reads its variables once."""
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", _REGEX_LIMIT_S)


def grammar_check(engine: LLMEngine, of_job: SamplingParams) -> Callable[[SamplingParams], None]:
    """What checks and compiles a row's grammar, and raises what is wrong with it; without the patch only vLLM does.

    Raises at once if the job's own constraint, in ``of_job``, does not compile.
    """
    if not is_on("early-grammar"):
        return _leave_to_vllm
    from vllm_hpc.engine.vllm_patches.early_grammar import GrammarCheck

    check = GrammarCheck(engine)
    check.settle(of_job)
    return check


def _leave_to_vllm(params: SamplingParams) -> None:
    """vLLM checks a constraint when the row is admitted."""
