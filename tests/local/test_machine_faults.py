"""Faults of the machine under a real vLLM: a compiler that is missing in the first step, and a probe that lives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, PROMPTS, check_complete, submit_tiny

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.inputs]


def test_a_machine_without_a_compiler_ends_the_job_and_no_row_is_blamed(tiny: Path, tmp_path: Path) -> None:
    """The rank of a token's probability (vllm/v1/sample/ops/logprobs.py) is compiled in the first step with one."""
    environment = {"CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    job = submit_tiny(tiny, tmp_path, tp=1, sampling={"logprobs": 1}, env=environment, max_requeues=6)
    status = job.wait(PATIENCE_S)
    assert (status.state, status.attempts) == ("FAILED", 2), (status, job.logs()[-3000:])
    assert "InductorError: InvalidCxxCompiler: No working C++ compiler found" in status.reason
    assert job.collect().rows == {"total": len(PROMPTS), "done": 0, "failed": 0, "missing": len(PROMPTS)}
    assert "attempts 1 and 2 ended alike before a row was finished, and no row is the cause" in job.logs()


def test_after_a_probe_that_lives_the_rows_are_answered_as_ever(
    tiny: Path, reference: list[str], tmp_path: Path
) -> None:
    """Over TP=2: the first attempt dies in its first step, and the ranks of the second one run the probe in step."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1' and os.environ.get('VLLM_HPC_ATTEMPT') == '1':\n"
        "    from vllm_hpc.engine import vllm_engine\n"
        "    def step(self, work):\n"
        "        raise RuntimeError('CUDA error: unspecified launch failure')\n"
        "    vllm_engine.VllmEngine.step = step\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = submit_tiny(tiny, tmp_path, tp=2, env={"PYTHONPATH": path}, max_requeues=6)
    check_complete(job, reference)
    assert job.status().attempts == 2
    assert all("but a probe has now" in job.logs(rank=rank) for rank in (0, 1))
