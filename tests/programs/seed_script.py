"""What the seed's own code prints, as a job or under torchrun."""

from __future__ import annotations

import re
from pathlib import Path

from tests.programs.script_jobs import completed, log_of
from vllm_hpc import Job

SCRIPT = Path(__file__).parents[2] / "jobs/tp-pp/torchrun_example.py"
PROMPTS = ["Hello, my name is", "The capital of France is"]


def answers(said: str) -> list[tuple[str, str]]:
    """The prompts and texts that rank 0 has printed."""
    return re.findall(r"^Prompt: '(.*)'\nGenerated text: (.*)$", said, re.MULTILINE)


def check_seed_script(job: Job) -> list[tuple[str, str]]:
    """It has run on all four ranks, and rank 0 alone has printed its answers, which are returned."""
    completed(job)
    found = answers(log_of(job))
    assert [prompt for prompt, _ in found] == PROMPTS
    assert not any(answers(log_of(job, rank)) for rank in (1, 2, 3))
    assert all({"vllm", "torch", "python"} <= rank.versions.keys() for rank in job.ranks())
    assert not list(Path("/dev/shm").glob(f"vllm-hpc-{job.status().job_id}[-_]*"))
    return found
