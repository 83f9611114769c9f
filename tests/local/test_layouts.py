"""Every layout on the local scheduler, under torchrun: complete, in order, equal to plain vLLM.

``make test`` has one real start for each kind of layout; of what is no matter of layouts it has rehearsals, and
``make test-full`` has vLLM for that too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ON_VLLM, REHEARSED
from tests.crafted import make_folder
from tests.real_jobs import ENGINE, PATIENCE_S, PROMPTS, check_complete, submit_tiny
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.environment_variables import SHARED_IMPORT

LAYOUTS: dict[str, dict[str, Any]] = {
    "TP=2": {"tp": 2},
    # vLLM's CPU back-end traces a pipeline's stages (mode 2: once); Inductor, in make test-full, takes half a minute.
    "PP=2": {"pp": 2, "engine": {**ENGINE, "compilation_config": {"mode": 2, "backend": "eager"}}},
    "DP=2": {"dp": 2},
    "DP=2xTP=2": {"dp": 2, "tp": 2},
}
ONE_RANK = {"tp": 1}
# On one worker: there plain vLLM is asked for the right answers once.
REAL = [pytest.mark.vllm]


@pytest.mark.parametrize(
    ("layout", "subject"),
    [
        pytest.param(ONE_RANK, *REHEARSED.values, id="TP=1-rehearsed", marks=REHEARSED.marks),
        pytest.param(ONE_RANK, *ON_VLLM.values, id="TP=1-vllm", marks=ON_VLLM.marks),
        *(pytest.param(layout, True, id=name, marks=REAL) for name, layout in LAYOUTS.items()),
        pytest.param({"pp": 2}, True, id="PP=2 compiled", marks=[*REAL, pytest.mark.full]),
    ],
    indirect=["subject"],
)
def test_layout(subject: Path | None, answers: list[str], tmp_path: Path, layout: dict[str, Any]) -> None:
    job = submit_tiny(subject, tmp_path, **layout, env={SHARED_IMPORT: "on"})
    check_complete(job, answers)
    forked = ["vllm-hpc: forked after its node's import of" in log.read_text() for log in job.path.glob("logs/rank-*")]
    assert forked == [bool(subject)] * len(job.ranks())
    told = job.collect()
    parts = sum(seconds for name, seconds in told.timings.items() if name != "collect")
    assert told.timings["launch"] > 0
    assert told.seconds is not None
    assert told.seconds / 2 < parts < told.seconds + 0.5, told  # its replicas' slowest parts need not be one replica's


def test_two_jobs_at_once_share_a_machine(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    jobs = [submit_tiny(subject, tmp_path, tp=2, name=name) for name in ("first", "second")]
    for job in jobs:
        check_complete(job, answers)


@pytest.mark.vllm
@pytest.mark.full
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


def test_names_and_folders_that_shells_trip_over(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    """A rehearsal reads no more of a model than its configuration, by the same name."""
    work = tmp_path / "a b'c\"d $(touch pwned) `x` é ü; #"
    work.mkdir()
    strange = work / "model $HOME"
    strange.symlink_to(subject or make_folder(tmp_path / "small"))
    job = submit_tiny(
        strange, work, tp=1, name="naïve \"job\" 'of' $(id) & more", env={"A_VALUE": "$(id) 'é' \"x\" \\"},
        rehearse=None if subject else {},
    )  # fmt: skip
    check_complete(job, answers)
    assert not list(tmp_path.rglob("pwned"))
