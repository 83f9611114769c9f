"""Which rows an attempt tries alone, after what became of the attempts before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from vllm_hpc.engine.loop.suspect_rows import Prior, Suspects, SuspectTrial, earlier_attempts, explain_suspects
from vllm_hpc.jobfolder.chunks import EvenChunks as Chunks
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Claimed, Crash, Retry

CHUNKS = Chunks(total=40, size=10)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job of 40 rows over two replicas."""
    return crafted.make_job(tmp_path / "job", 40, shape=crafted.layout(dp=2))


def claimed(folder: JobFolder, attempt: int, *lines: Claimed, replica: int = 0) -> None:
    with folder.claimed(replica, attempt).open("ab") as file:
        file.writelines(msgspec.json.encode(line) + b"\n" for line in lines)


def crash(folder: JobFolder, attempt: int, replica: int = 0) -> None:
    write_json(folder.crash(replica, attempt), Crash(replica, "RuntimeError", "illegal address"))


def finished(folder: JobFolder, attempt: int, *rows: int, replica: int = 0) -> None:
    with folder.shard(replica, attempt).open("ab") as file:
        file.writelines(msgspec.json.encode(crafted.result(row)) + b"\n" for row in rows)


def over(folder: JobFolder, attempt: int, code: int | None = 1, cause: str = "exit") -> None:
    """The attempt was, and ended so; None: without an exit record."""
    crafted.start(folder, attempt)
    if code is not None:
        crafted.end(folder, code, cause, attempt)


def judge(folder: JobFolder, attempt: int, replica: int = 0, task: int = 0, most: int = 40) -> SuspectTrial:
    """What attempt ``attempt`` hears when it begins."""
    prior = Prior(folder, folder.job())
    before = earlier_attempts(folder, task, attempt)
    prior.record(folder, replica, before, CHUNKS, most)
    return prior.judge(folder, replica, before, CHUNKS, most)


def rows_of(trial: SuspectTrial) -> list[int]:
    return [row for group in trial.groups for row in group]


def test_a_crash_puts_what_was_in_flight_on_trial_in_groups(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=2), Claimed(chunk=0))  # an array's tasks do not claim in the input's order
    finished(folder, 1, 0, 2, 20, 21)
    crash(folder, 1)
    over(folder, 1)
    trial = judge(folder, 2)
    assert rows_of(trial) == [1, *range(3, 10), *range(22, 30)]
    assert [len(group) for group in trial.groups] == [2] * 8


def test_death_at_a_trial_narrows_down_to_one_row_which_two_deaths_condemn(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    for attempt, last in ((2, [4, 5]), (3, [5]), (4, [5])):
        crash(folder, attempt - 1)
        over(folder, attempt - 1)
        judge(folder, attempt)
        claimed(folder, attempt, Claimed(trial=[0, 1]), Claimed(trial=last))
    crash(folder, 4)
    over(folder, 4)
    trial = judge(folder, 5)
    assert (trial.condemned, trial.groups) == ([5], [])
    assert explain_suspects(folder, 0, [1, 2, 3, 4]) == (
        "the engine died repeatedly with this row alone in it: RuntimeError: illegal address"
    )


def test_of_what_was_claimed_only_what_can_have_been_in_flight_is_tried(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=2), Claimed(chunk=0))
    finished(folder, 1, 20, 21, 23)
    crash(folder, 1)
    over(folder, 1)
    assert rows_of(judge(folder, 2, most=4)) == [0, *range(22, 23), *range(24, 30)]


def test_ranks_that_vanished_around_a_row_count_half(folder: JobFolder) -> None:
    finished(folder, 1, 3)  # so the rows are suspected, and not the machine
    for attempt in range(1, 5):
        claimed(folder, attempt, Claimed(trial=[7]))
        over(folder, attempt, code=137)
        trial = judge(folder, attempt + 1)
        assert (trial.groups, trial.condemned) == (([[7]], []) if attempt < 4 else ([], [7]))


def test_one_death_alone_condemns_nobody(folder: JobFolder) -> None:
    finished(folder, 1, 3)
    claimed(folder, 1, Claimed(trial=[7]))
    crash(folder, 1)
    over(folder, 1)
    assert judge(folder, 2) == SuspectTrial(groups=[[7]])


def test_a_silent_death_counts_when_the_same_rows_were_there_before(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    over(folder, 1, code=None)
    assert judge(folder, 2) == SuspectTrial()
    claimed(folder, 2, Claimed(chunk=0), Claimed(chunk=1))
    finished(folder, 2, *range(8))
    over(folder, 2, code=137)
    assert rows_of(judge(folder, 3)) == [8, 9]


@pytest.mark.parametrize(
    ("code", "cause"), [(0, "exit"), (0, "requeue"), (143, "TERM"), (143, "cancelled"), (143, "timeout")]
)
def test_an_end_that_was_ordered_puts_nobody_on_trial(folder: JobFolder, code: int, cause: str) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    over(folder, 1, code, cause)
    over(folder, 2, code, cause)
    claimed(folder, 2, Claimed(chunk=0))
    assert judge(folder, 3) == SuspectTrial()


def test_a_crash_that_a_requeue_followed_counts(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    crash(folder, 1)
    over(folder, 1, 1, "requeue")
    assert rows_of(judge(folder, 2)) == list(range(10))


def test_anothers_crash_acquits_this_replica(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    claimed(folder, 1, Claimed(chunk=1), replica=1)
    crash(folder, 1, replica=1)
    over(folder, 1)
    assert judge(folder, 2, replica=0) == SuspectTrial()
    assert rows_of(judge(folder, 2, replica=1)) == list(range(10, 20))


@pytest.mark.parametrize("why", ["another replica's crash", "a drain", "a death while it loaded", "a cancel"])
def test_who_is_on_trial_stays_so_whatever_else_ends_the_attempt(folder: JobFolder, why: str) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    crash(folder, 1)
    over(folder, 1)
    judge(folder, 2)
    if why != "a death while it loaded":
        claimed(folder, 2, Claimed(trial=[0, 1]))
        finished(folder, 2, 0, 1)
    if why == "another replica's crash":
        crash(folder, 2, replica=1)
    over(folder, 2, *{"a drain": (0, "requeue"), "a cancel": (143, "cancelled")}.get(why, (1, "exit")))
    left = list(range(10)) if why == "a death while it loaded" else list(range(2, 10))
    assert rows_of(judge(folder, 3)) == left


def test_an_attempt_that_never_judged_does_not_hide_the_one_before(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    crash(folder, 1)
    over(folder, 1)
    over(folder, 2)  # it died while it loaded
    assert rows_of(judge(folder, 3)) == list(range(10))


def test_only_attempts_of_the_same_task_are_judged(tmp_path: Path) -> None:
    folder = crafted.make_array(tmp_path / "job", 2, 40)
    crafted.start(folder, 1, task=1)
    claimed(folder, 1, Claimed(chunk=0), replica=1)
    crash(folder, 1, replica=1)
    crafted.end(folder, 1)
    crafted.start(folder, 2, task=0)
    assert earlier_attempts(folder, 0, 3) == [2]
    assert judge(folder, 3) == SuspectTrial()
    assert rows_of(judge(folder, 3, replica=1, task=1)) == list(range(10))


def test_what_is_on_trial_or_condemned_is_nobodys_to_claim(folder: JobFolder) -> None:
    prior = Prior(folder, folder.job())
    prior.reserve([SuspectTrial(groups=[[3], [4, 5]]), SuspectTrial(condemned=[9])])
    assert [row for row in range(40) if prior.rows[row]] == [3, 4, 5, 9]


def test_errors_are_retried_when_asked_and_condemned_rows_alone(folder: JobFolder) -> None:
    crafted.write_lines(
        folder.shard(0, 2), [{"index": row, "id": str(row), "error": {"type": "X", "message": ""}} for row in (5, 6)]
    )
    write_json(folder.suspects(0), Suspects(attempt=2, strikes={5: 4}))
    over(folder, 2, 0)
    assert judge(folder, 3) == SuspectTrial()
    write_json(folder.retry, Retry(2))
    prior = Prior(folder, folder.job())
    assert (prior.rows[5], prior.rows[6]) == (0, 0)
    assert judge(folder, 3) == SuspectTrial(groups=[[5]])
    assert judge(folder, 3) == SuspectTrial(groups=[[5]])  # asked again, by another replica or after a death
    found = read_json(folder.suspects(0), Suspects)
    assert found == Suspects(attempt=2, tried=[5], strikes={}, retried=2)


def test_a_shard_learnt_later_gives_no_error_that_is_to_be_retried(folder: JobFolder) -> None:
    """An array's task that takes over an earlier attempt's chunk reads its shard: of that, errors run again."""
    write_json(folder.retry, Retry(2))
    prior = Prior(folder, folder.job())
    row: dict[str, Any] = {"index": 5, "id": "5", "error": {"type": "X", "message": ""}}
    for attempt in (2, 3):
        crafted.write_lines(folder.shard(1, attempt), [row, crafted.result(6)])
    prior.learn(folder.shard(1, 2))
    assert (prior.rows[5], prior.rows[6]) == (0, 1)
    prior.learn(folder.shard(1, 3))
    assert prior.rows[5] == 1
    prior.learn(folder.shard(1, 99))  # it wrote none


def test_a_torn_line_among_the_claims_does_no_harm(folder: JobFolder) -> None:
    """A disk that was full for a moment: the next line was written behind half of one."""
    folder.claimed(0, 1).write_bytes(b'{"chunk":3}\n{"chu{"chunk":1}\n{"chunk":0}\n{"trial":[1')
    crash(folder, 1)
    over(folder, 1)
    assert rows_of(judge(folder, 2)) == [*range(10), *range(30, 40)]


@pytest.mark.inputs
def test_a_probe_that_dies_leaves_every_row_as_it_was(folder: JobFolder) -> None:
    claimed(folder, 1, Claimed(chunk=0))
    crash(folder, 1)
    over(folder, 1)
    before = judge(folder, 2)
    claimed(folder, 2, Claimed(probe=True))
    crash(folder, 2)
    over(folder, 2)
    assert judge(folder, 3) == before
    claimed(folder, 3, Claimed(probe=True), Claimed(trial=[0, 1]))  # it lived, and the first rows died
    crash(folder, 3)
    over(folder, 3)
    assert judge(folder, 4).groups == [[0], [1]]


@pytest.mark.inputs
def test_where_no_row_has_finished_a_suspect_runs_again_after_another_row(folder: JobFolder) -> None:
    """If that one dies too, the rows are not the cause (schedulers/in_script/requeue.py)."""
    claimed(folder, 1, Claimed(trial=[0]))
    crash(folder, 1)
    over(folder, 1)
    assert judge(folder, 2) == SuspectTrial(groups=[[1], [0]])
    finished(folder, 2, 1)
    claimed(folder, 2, Claimed(trial=[1]), Claimed(trial=[0]))
    crash(folder, 2)
    over(folder, 2)
    assert judge(folder, 3) == SuspectTrial(groups=[], condemned=[0])


@pytest.mark.inputs
def test_the_only_row_of_a_job_has_no_other_to_be_compared_with(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job", 1)
    claimed(folder, 1, Claimed(trial=[0]))
    crash(folder, 1)
    over(folder, 1)
    prior = Prior(folder, folder.job())
    assert prior.judge(folder, 0, [1], Chunks(1, 1), 4) == SuspectTrial(groups=[[0]])
