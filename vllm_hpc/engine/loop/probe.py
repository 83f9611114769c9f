"""The probe: a row of vllm-hpc's own, run before all others where the last attempt ended before it had finished a row.

If the engine dies of that too, the machine is the cause and no row of the user's (jobfolder/early_faults.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.engine.interface import Engine, Ready
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row

_KEY = "probe"
_PROMPT = "The capital of France is"
# One for the step that reads the prompt, and one for a step that only decodes.
_TOKENS = 2


def make_probe(record: JobRecord, make: Callable[[Row], Ready]) -> Ready | None:
    """The probe, with the job's own sampling, so that it needs the same kernels; None if this model cannot have it."""
    row: Row = {"index": -1, "id": _KEY, "prompt": _PROMPT}
    if record.plan.engine.get("runner") != "pooling":
        row["sampling"] = {"max_tokens": _TOKENS, "min_tokens": 0}
    try:
        return make(row)
    except Exception as error:  # noqa: BLE001 - a model without a tokenizer, or for images only: there is no probe then
        print(f"vllm-hpc: no probe, because its row cannot be made: {error}", flush=True)
        return None


def run_probe(engine: Engine, probe: Ready, report: RankReport, step: Callable[[], list[Any]]) -> None:
    """Run the probe to its end. All ranks of a replica take the same steps. Raises what a ``step`` raises."""
    report.enter(Phase.ADMIT, _KEY)
    try:
        engine.add_request(_KEY, probe)
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises here belongs to this row
        print(f"vllm-hpc: no probe, because vLLM refuses its row: {error}", flush=True)
        return
    is_running = True
    while is_running:
        report.enter(Phase.STEP)
        is_running = not any(output.finished for output in step())
    print("vllm-hpc: the last attempt died before a row was finished, but a probe has now: the rows follow", flush=True)
