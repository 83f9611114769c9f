"""Many rows through many resubmissions, rehearsed: what takes a real model hours is done in a minute or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_jobs import ONE_CORE, PATIENCE_S, ends_as, rehearsed_texts, submit_tiny, wait_for, worked
from vllm_hpc import Job
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.ranks, pytest.mark.full, pytest.mark.pbs, pytest.mark.usefixtures("pbs")]

TASKS, RESUBMISSIONS = 4, 3
ROWS: list[Row] = [{"id": f"r{number}", "prompt": f"row {number}"} for number in range(100_000)]
MAX_TOKENS = 4
# 1,250 rows a second for each task, which is drained soon after its first: none is at its end before the last.
PACE = {"tokens_per_s": 5000}


def test_an_array_goes_on_three_times(tmp_path: Path) -> None:
    """Every task is drained three times, the array is submitted again each time, and the fourth one ends the rows."""
    job = submit_tiny(
        None, tmp_path, ROWS, scheduler="pbs", tp=2, dp=TASKS, array=True, max_tokens=MAX_TOKENS, rehearse=PACE,
        engine={"max_num_seqs": 256}, env=ONE_CORE, max_requeues=RESUBMISSIONS,
    )  # fmt: skip
    for number in range(1, RESUBMISSIONS + 1):
        drain_all(job, number)
    status = ends_as(job, "COMPLETED", PATIENCE_S)
    assert (status.rows.done, status.attempts) == (len(ROWS), RESUBMISSIONS + 1)
    ends = [job.folder.exit_of(attempt.attempt) for attempt in job.folder.attempts()]
    causes = [end.cause for end in ends if end]
    # A task whose rows the others have taken by then, on a slow machine, ends before it hears of the drain.
    rounds = [set(causes[first : first + TASKS]) for first in range(0, len(causes), TASKS)]
    assert all({"requeue"} <= each <= {"requeue", "exit"} for each in rounds[:-1])
    assert (len(causes), rounds[-1]) == (TASKS * (RESUBMISSIONS + 1), {"exit"})
    rows = list(job.results())
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [row["text"] for row in rows] == rehearsed_texts(ROWS, MAX_TOKENS)
    print(f"{worked(job):.0f} s of work and restarts")  # pytest -rP shows it


def drain_all(job: Job, number: int) -> None:
    """Drain each task of submission ``number`` once it has finished rows, and see that the array goes on.

    A file is made for each, which is all that its script does near the walltime.
    """
    left = set(range((number - 1) * TASKS + 1, number * TASKS + 1))

    def all_drain() -> bool:
        for attempt in [one for one in left if has_finished_rows(job, one)]:
            job.folder.drain_attempt(attempt).touch()
            left.remove(attempt)
        return not left

    wait_for(all_drain, "each task has finished rows")
    wait_for(lambda: len(job.folder.attempts()) > number * TASKS, "it has begun again")
    submitted = read_json(job.folder.submitted, Submitted)
    assert submitted is not None
    assert len(submitted.earlier) == number


def has_finished_rows(job: Job, attempt: int) -> bool:
    progress = job.folder.progress_of(range(TASKS))
    return any(run.attempt == attempt and run.rows for replica in progress for run in replica.runs)
