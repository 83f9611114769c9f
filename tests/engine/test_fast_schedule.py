"""What the short way through the scheduler makes of each step is what vLLM's own would have made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine_run import ENVIRONMENT

pytestmark = pytest.mark.vllm

ENGINES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no prefix cache": {"enable_prefix_caching": False},
    "prompts in parts": {"max_num_batched_tokens": 24},
    "too little room": {"num_gpu_blocks_override": 20},
}


@pytest.fixture(scope="module")
def told(tiny: Path) -> dict[str, Any]:
    """What is told of all runs, by engine, kind and way: of one process, which imports vLLM once."""
    engines = json.dumps([{"block_size": 32, **engine} for engine in ENGINES.values()])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.steady_run", str(tiny), engines],
        capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, cwd=Path(__file__).parents[2], timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return dict(zip(ENGINES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.full
@pytest.mark.parametrize(("kind", "scheduler"), [("real", "Scheduler"), ("pipelined", "AsyncScheduler")])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_step_is_what_vllm_would_have_made_of_it(
    told: dict[str, Any], engine: str, kind: str, scheduler: str
) -> None:
    short, own = told[engine][kind]["short"], told[engine][kind]["own"]
    assert short["scheduler"] == own["scheduler"] == scheduler
    assert short["rows"] == own["rows"]
    for number, (one, other) in enumerate(zip(short["steps"], own["steps"], strict=True)):
        assert one == other, f"step {number}"
    assert bool(own["preempted"]) is ("num_gpu_blocks_override" in ENGINES[engine])
    assert short["steady"] > 0.3 * short["tokens"]  # of all tokens, prompts' included
    assert short["left"] <= 1  # the last rows' end is told at the next step


def test_a_scheduler_that_is_not_known_goes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    from vllm_hpc.engine.vllm_patches import fast_schedule

    class Other:
        schedule = update_from_output = None

    scheduler = Other()
    engine: Any = SimpleNamespace(engine_core=SimpleNamespace(engine_core=SimpleNamespace(scheduler=scheduler)))
    with pytest.raises(ValueError, match="more here than the patch supports"):
        fast_schedule.Steady(scheduler)
    monkeypatch.setattr(fast_schedule, "Scheduler", Other)
    monkeypatch.setattr(fast_schedule, "_does_more", lambda scheduler: False)
    with pytest.raises(AttributeError, match="kv_cache_manager"):
        fast_schedule.Steady(scheduler)
    monkeypatch.setattr(fast_schedule, "__version__", "0.99.0")
    with pytest.raises(ValueError, match="more here than the patch supports"):
        fast_schedule.Steady(scheduler)
    assert fast_schedule.take_short_way(engine) is False
    assert vars(scheduler) == {}
    workers: Any = SimpleNamespace(engine_core=SimpleNamespace())  # the scheduler is in another process
    assert fast_schedule.take_short_way(workers) is False
