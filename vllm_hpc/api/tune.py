"""tune: the fastest layout and settings, found from Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from vllm_hpc.api.errors import in_python
from vllm_hpc.api.functions import taken
from vllm_hpc.api.options import Options
from vllm_hpc.api.signatures import documented
from vllm_hpc.api.values import plain_model
from vllm_hpc.jobs.status import Status
from vllm_hpc.planner.tuned import Setting, Trial
from vllm_hpc.tuning import tune as tuning
from vllm_hpc.tuning.sweep import DEFAULT_SWEEP
from vllm_hpc.tuning.tune import Tuned


@in_python
@documented
def tune(
    model: str | os.PathLike[str] | None = None,
    *,
    sweep: tuple[str, ...] = DEFAULT_SWEEP,
    rows: int | None = None,
    prompt_tokens: int | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
    begin: Callable[[Setting, Path], None] = lambda setting, folder: None,
    look: Callable[[Status], None] = lambda status: None,
    **options: Unpack[Options],
) -> Tuned:
    """Find the fastest setting with short jobs, and save it for ``plan`` and ``submit``, as ``vllm-hpc tune`` does.

    ``sweep`` names what is tried. Without an input, each trial has ``rows`` rows of ``prompt_tokens`` random tokens.
    ``begin`` is called for each trial, ``look`` with each status of it, and ``tell`` after it. Raises RefusedError,
    JobFailedError.
    """
    given = taken(options)
    return tuning.tune(
        plain_model(model),
        sweep=sweep,
        rows=rows,
        prompt_tokens=prompt_tokens,
        tell=tell,
        begin=begin,
        look=look,
        **given,
    )
