"""Replicas of several lanes (--attention-dp) on the local scheduler: each row once, and equal to plain vLLM.

vLLM's CPU back-end has no expert parallelism, and lacks what lanes exchange: a plug-in brings that.
The rehearsal's engine compares the steps of all ranks of a replica in place of it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.campaign.rows import make_rows, with_answers
from tests.conftest import CAMPAIGN_SEED, FEW_ROWS
from tests.local.test_campaign import check_kills
from tests.real_jobs import (
    GREEDY,
    LONG_SAMPLING,
    PATIENCE_S,
    PROMPTS,
    check_complete,
    in_lanes,
    processes_of,
    rehearsed_texts,
    started,
    submit_long,
    submit_tiny,
    wait_for,
)
from vllm_hpc import Job
from vllm_hpc.jobfolder.shard_names import shard_numbers

LAYOUTS = [{"tp": 1, "attention_dp": 2}, {"tp": 2, "attention_dp": 2}]
VLLM = [pytest.mark.vllm, pytest.mark.full]


@pytest.mark.ranks
@pytest.mark.parametrize("layout", [pytest.param(LAYOUTS[0], marks=pytest.mark.full), LAYOUTS[1]], ids=str)
def test_rehearsed_lanes(tmp_path: Path, layout: dict[str, int]) -> None:
    job = submit_tiny(
        None, tmp_path, **in_lanes(**layout, rehearse={"fault": "die", "fault_s": 0.2, "tokens_per_s": 500})
    )
    rows = check_complete(job, rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"])))
    assert {row["replica"] for row in rows} == {0}
    assert {file.name.partition(".")[0] for file in (job.path / "shards").iterdir()} == {"replica-0-0", "replica-0-1"}
    assert job.status().attempts == 2, "a rank died in the first"


@pytest.mark.ranks
@pytest.mark.full
def test_one_row_for_four_lanes_of_two_replicas(tmp_path: Path) -> None:
    """Lanes without any row take idle steps; another replica need not wait for them."""
    job = submit_tiny(None, tmp_path, PROMPTS[:1], **in_lanes(tp=1, attention_dp=2, dp=2))
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()
    assert len(list(job.results())) == 1
    assert len(job.ranks()) == 4


@pytest.mark.vllm
@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_lanes_answer_as_plain_vllm(
    mixture: Path, mixtures_answers: list[str], tmp_path: Path, layout: dict[str, int]
) -> None:
    check_complete(submit_tiny(mixture, tmp_path, **in_lanes(**layout)), mixtures_answers)


@pytest.mark.vllm
@pytest.mark.full
def test_a_lane_without_any_row(mixture: Path, mixtures_answers: list[str], tmp_path: Path) -> None:
    job = submit_tiny(mixture, tmp_path, PROMPTS[:1], **in_lanes(tp=1, attention_dp=2))
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()
    assert [row["text"] for row in job.results()] == mixtures_answers[:1]


@pytest.mark.ranks
@pytest.mark.parametrize(
    "how", ["drain", pytest.param("TERM", marks=pytest.mark.full), pytest.param("KILL", marks=pytest.mark.full)]
)
@pytest.mark.parametrize("kind", ["rehearsed", pytest.param("vllm", marks=VLLM)])
def test_lanes_end_together_and_a_resume_finishes(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, how: str
) -> None:
    model = request.getfixturevalue("mixture") if kind == "vllm" else None
    job = started(submit_long(model, tmp_path, **in_lanes(tp=1, attention_dp=2)))
    end_by(job, how, rank=1)
    status = job.wait(PATIENCE_S)
    assert status.state in ("PARTIAL", "FAILED", "CANCELLED"), (status, status.reason, job.logs()[-3000:])
    wait_for(lambda: not processes_of(job), "no process is left", 60)
    done = job.collect().rows["done"]
    assert 0 < done < 3000
    found = [row["index"] for row in job.results(partial=True) if "error" not in row]
    assert len(found) == len(set(found)) == done
    job.resume()
    started(job)
    wait_for(lambda: job.status().rows.done > done, "the next attempt goes on")
    job.cancel()
    job.wait(PATIENCE_S)
    attempts = {shard_numbers(shard).attempt for shard in job.folder.shard_files()}
    assert attempts == {1, 2}


@pytest.mark.full
@pytest.mark.ranks
@pytest.mark.parametrize("how", ["drain", "TERM", "KILL"])
@pytest.mark.parametrize("kind", ["rehearsed", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_a_lane_that_runs_dummy_steps_ends_with_the_other(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, how: str
) -> None:
    """One row: the lane that has not claimed it is told to end, or killed, while the other generates."""
    model = request.getfixturevalue("mixture") if kind == "vllm" else None
    pace = {"rehearse": {"tokens_per_s": 20}} if model is None else {}
    job = submit_tiny(model, tmp_path, PROMPTS[:1], **LONG_SAMPLING, **in_lanes(tp=1, attention_dp=2, **pace))
    claimed = [job.folder.claimed(lane, 1) for lane in (0, 1)]
    wait_for(lambda: any(file.exists() and file.stat().st_size for file in claimed), "the row is claimed", PATIENCE_S)
    idle = next(lane for lane in (0, 1) if not claimed[lane].stat().st_size)
    end_by(job, how, rank=idle)
    status = job.wait(PATIENCE_S)
    wait_for(lambda: not processes_of(job), "no process is left", 60)
    if how == "drain":
        assert (status.state, status.rows.done) == ("COMPLETED", 1), (status.reason, job.logs()[-3000:])
        return
    assert (status.state, status.rows.done) == ("FAILED", 0), (status.reason, job.logs()[-3000:])
    job.resume()
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()[-3000:]


def end_by(job: Job, how: str, rank: int) -> None:
    if how == "drain":
        job.folder.drain.touch()
        return
    told = next(record for record in job.ranks() if record.rank == rank)
    os.kill(told.pid, getattr(signal, f"SIG{how}"))


@pytest.mark.full
@pytest.mark.ranks
def test_kills_at_random_of_rehearsed_lanes(tmp_path: Path) -> None:
    expected = with_answers(None, make_rows(FEW_ROWS, CAMPAIGN_SEED), tmp_path)
    check_kills("local-lanes2", None, expected, tmp_path)


@pytest.mark.full
@pytest.mark.vllm
def test_kills_at_random_of_lanes(mixture: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = with_answers(mixture, make_rows(FEW_ROWS, CAMPAIGN_SEED), tmp_path_factory.mktemp("answers"))
    check_kills("local-lanes2", mixture, expected, tmp_path)
