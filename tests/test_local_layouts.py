"""Every layout on the local scheduler, with real vLLM and torchrun: complete, in order, equal to plain vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import PATIENCE_S, PROMPTS, check_complete, submit_tiny
from vllm_hpc.rows import Row

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    "layout",
    [{"tp": 1}, {"tp": 2}, {"pp": 2}, {"dp": 2}, {"dp": 2, "tp": 2}],
    ids=["TP=1", "TP=2", "PP=2", "DP=2", "DP=2xTP=2"],
)
def test_layout(tiny: Path, reference: list[str], tmp_path: Path, layout: dict[str, Any]) -> None:
    job = submit_tiny(tiny, tmp_path, **layout)
    check_complete(job, reference)
    told = job.collect()
    parts = sum(seconds for name, seconds in told.timings.items() if name != "collect")
    assert told.timings["launch"] > 0
    assert told.seconds is not None
    assert told.seconds / 2 < parts < told.seconds + 0.5, told  # its replicas' slowest parts need not be one replica's


def test_two_jobs_at_once_share_a_machine(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    jobs = [submit_tiny(tiny, tmp_path, tp=2, name=name) for name in ("first", "second")]
    for job in jobs:
        check_complete(job, reference)


def test_a_bad_row_is_its_own_problem(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    bad: list[Row] = [
        {"id": "too long", "prompt": "word " * 2000},
        {"id": "bad value", "prompt": "a", "sampling": {"temperature": -1}},
        {"id": "bad name", "prompt": "a", "sampling": {"temprature": 1}},
        {"id": "bad type", "prompt": "a", "sampling": {"max_tokens": "many"}},
        {"id": "empty", "prompt": ""},
        {"id": "bad token", "prompt": [10**6]},
        {"id": "bad role", "messages": [{"role": "robot", "content": "hello"}]},
        {"id": "bad part", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ]
    job = submit_tiny(tiny, tmp_path, [*bad, *PROMPTS], tp=1)
    status = job.wait(PATIENCE_S)
    assert status.state == "PARTIAL", (status, job.logs())
    assert (status.rows.done, status.rows.failed) == (len(PROMPTS), len(bad))
    rows = list(job.results())
    assert all(set(row) == {"index", "id", "error"} for row in rows[: len(bad)]), rows[: len(bad)]
    assert [row["text"] for row in rows[len(bad) :]] == reference


def test_names_and_folders_that_shells_trip_over(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    work = tmp_path / "a b'c\"d $(touch pwned) `x` é ü; #"
    work.mkdir()
    strange = work / "model $HOME"
    strange.symlink_to(tiny)
    job = submit_tiny(
        strange, work, tp=1, name="naïve \"job\" 'of' $(id) & more", env={"A_VALUE": "$(id) 'é' \"x\" \\"}
    )
    check_complete(job, reference)
    assert not list(tmp_path.rglob("pwned"))
