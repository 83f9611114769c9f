"""States: derived from the records in the folder, then from the scheduler; never a guess."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crafted import end, error, layout, make_array, make_job, progress, rank, result, start, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import LAUNCHER_LOST, Progress, RankError, Run
from vllm_hpc.jobs.failure import first_error
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.status import read_status
from vllm_hpc.jobs.task_states import FINAL
from vllm_hpc.schedulers.client import Ask, ClientError, ClientTimeoutError
from vllm_hpc.schedulers.local import SCHEDULER, SupervisorRecord, this_process
from vllm_hpc.schedulers.scheduler import JobState
from vllm_hpc.spec.errors import FailedError, JobNotFoundError, RequestError, VllmHpcError


def started(tmp_path: Path, rows: int = 3, tp: int = 1, scheduler: str = "local") -> JobFolder:
    folder = make_job(tmp_path / "job", rows=rows, scheduler=scheduler, shape=layout(tp=tp))
    start(folder)
    return folder


def supervisor(folder: JobFolder, host: str, pid: int, started: int) -> None:
    boot = this_process("x").boot
    write_json(folder.supervisor, SupervisorRecord(job_id="77-1000", host=host, pid=pid, boot=boot, started=started))


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def says(monkeypatch: pytest.MonkeyPatch, seen: dict[str, JobState]) -> None:
    """The scheduler, whichever it is, answers so."""
    answer = replace(SCHEDULER, query=lambda job, job_id, tasks, ask: seen, id_alone=re.compile(".+"))
    monkeypatch.setattr("vllm_hpc.schedulers.polling.installed_scheduler", lambda name: answer)


def test_completed_is_every_row_with_a_result(tmp_path: Path) -> None:
    folder = started(tmp_path)
    progress(folder, done=3, tokens=100)
    end(folder)
    status = read_status(folder)
    assert status.state == "COMPLETED"
    assert (status.rows.total, status.rows.done, status.rows.failed) == (3, 3, 0)
    assert (status.job, status.job_id, status.scheduler, status.attempts) == (str(folder.path), "77-1000", "local", 1)
    assert (status.tokens_per_s, status.eta_s) == (2.0, None)


@pytest.mark.parametrize(
    ("done", "failed", "said"),
    [(2, 1, "1 row with errors"), (2, 0, "1 row missing"), (1, 1, "1 row with errors and 1 row missing")],
)
def test_partial_ended_in_good_order_with_rows_missing_or_in_error(
    tmp_path: Path, done: int, failed: int, said: str
) -> None:
    folder = started(tmp_path)
    progress(folder, done=done, failed=failed)
    folder.drain.touch()
    end(folder)
    status = read_status(folder)
    assert (status.state, status.reason) == ("PARTIAL", said)


def lost(rows: int) -> str:
    missing = "1 row missing" if rows == 1 else f"{rows} rows missing"
    return f"the script ended normally, but {missing}: see the logs, then 'vllm-hpc resume'"


@pytest.mark.parametrize(("failed", "rows"), [(0, 2), (1, 1)])
def test_rows_that_are_missing_although_nobody_stopped_the_job_are_a_failure(
    tmp_path: Path, failed: int, rows: int
) -> None:
    folder = started(tmp_path)
    progress(folder, done=1, failed=failed)
    end(folder)
    assert (read_status(folder).state, read_status(folder).reason) == ("FAILED", lost(rows))
    folder.cancelled.touch()
    assert read_status(folder).state == "PARTIAL"


def test_a_cancel_that_the_script_took_for_its_end_is_one(tmp_path: Path) -> None:
    """bash 5.2, in the middle of a command substitution: 'trap: unexpected EOF', and exit code 0."""
    early, late = started(tmp_path / "early"), started(tmp_path / "late")
    for folder in (early, late):
        end(folder, 0, "cancelled")
    rank(late, 0, "ok")
    progress(late, done=3, tokens=100)
    assert read_status(early).state == "CANCELLED"
    assert read_status(late).state == "COMPLETED"


def test_counts_are_summed_over_the_replicas(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=5, shape=layout(dp=2))
    start(folder)
    progress(folder, done=2, replica=0)
    progress(folder, done=2, failed=1, replica=1)
    end(folder)
    status = read_status(folder)
    assert (status.state, status.rows.done, status.rows.failed) == ("PARTIAL", 4, 1)


def test_a_script_that_ended_well_without_a_row_failed(tmp_path: Path) -> None:
    folder = started(tmp_path)
    end(folder)
    assert read_status(folder).state == "FAILED"


@pytest.mark.parametrize(
    ("cause", "code", "state"),
    [
        ("cancelled", 143, "CANCELLED"),
        ("timeout", 143, "TIMEOUT"),
        ("exit", 1, "FAILED"),
        ("TERM", 143, "FAILED"),
        ("SIGKILL", 137, "FAILED"),
    ],
)
def test_the_exit_record_decides(tmp_path: Path, cause: str, code: int, state: str) -> None:
    folder = started(tmp_path)
    progress(folder, done=2)
    end(folder, code, cause)
    status = read_status(folder)
    assert status.state == state
    assert status.state in FINAL
    assert status.reason


def test_a_failure_says_the_first_error_of_the_ranks(tmp_path: Path) -> None:
    folder = started(tmp_path)
    rank(folder, 0, "error", error=error("\n  no such layer \nmore"))
    end(folder, 1)
    assert read_status(folder).reason == "rank 0 on node-1: ValueError: no such layer more"


@pytest.mark.inputs
def test_a_failure_leaves_out_what_torch_says_of_every_compiler_error(tmp_path: Path) -> None:
    folder = started(tmp_path)
    # torch 2.13.0 without g++.
    said = (
        "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\n\nSet "
        "TORCHDYNAMO_VERBOSE=1 for the internal stack trace (please do this especially if you're reporting a bug to "
        'PyTorch). For even more developer context, set TORCH_LOGS="+dynamo"\n'
    )
    rank(folder, 0, "error", error=error(said))
    end(folder, 1)
    assert read_status(folder).reason.endswith("torch._inductor.config.cpp.cxx: (None, 'g++')")


def test_a_failure_before_the_ranks_says_the_end_of_the_log(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.scheduler_log.write_bytes(b"x" * 10_000 + b"\nmodule: command not found \xff\n\n")
    end(folder, 127)
    reason = read_status(folder).reason
    assert "127" in reason
    assert "module: command not found" in reason


def test_the_end_of_the_log_is_not_what_the_script_says_of_another_attempt(tmp_path: Path) -> None:
    folder = started(tmp_path)
    log = "vllm-hpc: n2 joined as node 1\nvllm-hpc: not joined within 20 s: n1\nsrun: error: Killed\n"
    folder.scheduler_log.write_text(log + "vllm-hpc: not running again: another attempt would end the same way\n")
    end(folder, 1)
    assert read_status(folder).reason.endswith("the log ends with: vllm-hpc: not joined within 20 s: n1")


SRUN = """\
srun: cluster configuration lacks support for cpu binding
vllm-hpc: node2 joined as node 1
{cause}
srun: error: node2: task 1: Exited with exit code 127
srun: launch/slurm: _step_signal: Terminating StepId=2891701.0
slurmstepd-node1: error: *** STEP 2891701.0 ON node1 CANCELLED AT 2026-11-30T16:34:55 ***
srun: error: node1: task 0: Terminated
srun: Force Terminated StepId=2891701.0
vllm-hpc: not running again: another attempt would end the same way
"""
HYDRA = """\
{cause}

===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 3126 RUNNING AT n1
=   EXIT CODE: 127
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
"""
OPEN_MPI = """\
{cause}
--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpiexec detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[25871,1],0]
  Exit code:    127
--------------------------------------------------------------------------
"""
PALS = "{cause}\nx3004c0s7b0n0.hsn: rank 1 exited with code 127\nx3004c0s7b0n1.hsn: rank 0 died from signal 15\n"
PBSDSH = "{cause}\npbsdsh: task 0x00000001 exit status 127\n"
USAGE = '{cause}\nTry "srun --help" for more information\n'


@pytest.mark.admins
@pytest.mark.parametrize("log", [SRUN, HYDRA, OPEN_MPI, PALS, PBSDSH, USAGE])
@pytest.mark.parametrize(
    "cause", ["environment: line 129: exec: nosuchwrapper: not found", "srun: unrecognized option '--nosuchoption=3'"]
)
def test_what_a_launcher_says_of_an_end_does_not_hide_its_cause(tmp_path: Path, log: str, cause: str) -> None:
    folder = started(tmp_path)
    folder.scheduler_log.write_text(log.format(cause=cause))
    end(folder, 127)
    assert read_status(folder).reason == f"the script ended with exit code 127; the log ends with: {cause}"


@pytest.mark.admins
@pytest.mark.parametrize(
    ("log", "said"),
    [
        (SRUN.format(cause=""), "srun: error: node2: task 1: Exited with exit code 127"),
        ("srun: error: n1: task 0: Segmentation fault\nsrun: error: n2: task 1: Terminated\n", "Segmentation fault"),
        ("srun: error: n1: task 0: Out Of Memory\nsrun: Force Terminated StepId=1.0\n", "task 0: Out Of Memory"),
        ("slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT x DUE TO NODE FAILURE ***\n", "DUE TO NODE FAILURE ***"),
        (
            "sh: module: not found\nvllm-hpc: node_setup ended with exit code 3 on n1\nsrun: error: n1: task 0: Killed",
            "the log ends with: sh: module: not found; vllm-hpc: node_setup ended with exit code 3 on n1",
        ),
        (
            "vllm-hpc: n1 joined as node 0\nvllm-hpc: node_setup ended with exit code 3 on n1\n",
            "the log ends with: vllm-hpc: node_setup ended with exit code 3 on n1",
        ),
        (
            "an old cause\nvllm-hpc: running again: x\nsrun: error: n1: task 0: Killed\n",
            "srun: error: n1: task 0: Killed",
        ),
    ],
)
def test_of_a_launchers_words_those_that_say_most_are_told(tmp_path: Path, log: str, said: str) -> None:
    folder = started(tmp_path)
    folder.scheduler_log.write_text(log)
    end(folder, 1)
    assert read_status(folder).reason.endswith(said)


def test_a_thousand_nodes_that_end_do_not_hide_the_cause(tmp_path: Path) -> None:
    folder = started(tmp_path)
    ends = "".join(f"srun: error: node{n}: task {n}: Exited with exit code 1\n" for n in range(1000))
    folder.scheduler_log.write_text(f"bash: exec: nosuchwrapper: not found\n{ends}")
    end(folder, 1)
    assert read_status(folder).reason.endswith("exec: nosuchwrapper: not found")


def test_a_supervisor_that_is_gone_without_a_record_means_failed(tmp_path: Path) -> None:
    folder = started(tmp_path)
    supervisor(folder, platform.node(), dead_pid(), 0)
    status = read_status(folder)
    assert status.state == "FAILED"
    assert "gone" in status.reason


def test_a_process_that_only_has_the_pid_is_not_the_supervisor(tmp_path: Path) -> None:
    folder = started(tmp_path)
    supervisor(folder, platform.node(), os.getpid(), this_process("x").started - 3600)
    assert read_status(folder).state == "FAILED"


def test_a_supervisor_that_never_came_up_means_failed(tmp_path: Path) -> None:
    assert read_status(started(tmp_path)).state == "FAILED"


def test_a_supervisor_on_another_host_is_unknown(tmp_path: Path) -> None:
    folder = started(tmp_path)
    supervisor(folder, "elsewhere", 1, 0)
    status = read_status(folder)
    assert status.state == "UNKNOWN"
    assert "elsewhere" in status.reason
    assert not status.is_final


def test_a_live_supervisor_means_running_and_says_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path, rows=4, tp=2)
    write_json(folder.supervisor, this_process("77-1000"))
    assert (read_status(folder).state, read_status(folder).reason) == ("RUNNING", "starting")
    rank(folder, 0, "running")
    assert "1 of 2 ranks is loading" in read_status(folder).reason
    progress(folder, done=1, failed=1, tokens=400)
    monkeypatch.setattr("vllm_hpc.jobs.progress.time.time", lambda: 1010.0 + 100)
    status = read_status(folder)
    assert "generating on 1 of 1" in status.reason
    assert (status.tokens_per_s, status.eta_s) == (4.0, 100.0)


def test_what_runs_now_is_told_and_not_what_ran_before(tmp_path: Path) -> None:
    folder = started(tmp_path, rows=4, tp=2)
    write_json(folder.supervisor, this_process("77-1000"))
    rank(folder, 0, "running")
    progress(folder, done=1, failed=1, tokens=400)
    start(folder, 2)
    status = read_status(folder)
    assert (status.reason, status.tokens_per_s, status.rows.done) == ("attempt 2: starting", None, 1)
    rank(folder, 0, "running", attempt=2)
    assert read_status(folder).reason == "attempt 2: 1 of 2 ranks is loading the model"


def test_a_drain_is_told_and_promises_no_end(tmp_path: Path) -> None:
    folder = started(tmp_path, rows=4)
    write_json(folder.supervisor, this_process("77-1000"))
    progress(folder, done=1, tokens=400)
    assert read_status(folder).eta_s is not None
    folder.drain.touch()
    status = read_status(folder)
    assert (status.reason, status.eta_s) == ("draining: rows in flight are finished, no more are admitted", None)


def test_bad_rows_promise_no_end(tmp_path: Path) -> None:
    folder = started(tmp_path, rows=4)
    write_json(folder.supervisor, this_process("77-1000"))
    progress(folder, done=0, failed=2)
    assert read_status(folder).eta_s is None


def test_an_interrupted_submission_is_unknown(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job")
    folder.submitted.unlink()
    status = read_status(folder)
    assert (status.state, status.job_id, status.is_final) == ("UNKNOWN", None, False)


def test_the_job_id_of_an_interrupted_submission_comes_from_the_attempt(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.submitted.unlink()
    assert read_status(folder).job_id == "77-1000"


def test_an_old_exit_record_does_not_end_a_new_attempt(tmp_path: Path) -> None:
    folder = started(tmp_path)
    end(folder, 1)
    start(folder, attempt=2)
    write_json(folder.supervisor, this_process("77-1000"))
    assert (read_status(folder).state, read_status(folder).attempts) == ("RUNNING", 2)
    end(folder, 143, "cancelled", attempt=2)
    assert read_status(folder).state == "CANCELLED"


def test_attempt_10_comes_after_attempt_9(tmp_path: Path) -> None:
    folder = started(tmp_path)
    for attempt in range(2, 11):
        start(folder, attempt)
        end(folder, 1, attempt=attempt)
    progress(folder, done=3)
    end(folder, 0, attempt=10)
    assert (read_status(folder).state, read_status(folder).attempts) == ("COMPLETED", 10)


@pytest.mark.parametrize("torn", ["", '{"attempt": 1, "exit_co'])
def test_a_torn_exit_record_is_none(tmp_path: Path, torn: str) -> None:
    folder = started(tmp_path, scheduler="slurm")
    folder.exit_record(1).write_text(torn)
    assert read_status(folder).state == "UNKNOWN"


def test_an_exit_record_that_comes_between_two_looks_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path)
    progress(folder, done=3)

    def query(job: JobFolder, job_id: str, tasks: Sequence[str], ask: Ask) -> dict[str, JobState]:
        end(folder)
        return {job_id: JobState("gone", "it has left")}

    monkeypatch.setattr("vllm_hpc.schedulers.polling.installed_scheduler", lambda name: replace(SCHEDULER, query=query))
    assert read_status(folder).state == "COMPLETED"


@pytest.mark.parametrize(
    ("phase", "state"), [("waiting", "PENDING"), ("running", "RUNNING"), ("gone", "FAILED"), ("unknown", "UNKNOWN")]
)
def test_without_a_record_the_scheduler_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, state: str
) -> None:
    folder = make_job(tmp_path / "job")
    says(monkeypatch, {"77-1000": JobState(phase, "in its own words")})
    status = read_status(folder)
    assert (status.state, status.reason) == (state, "in its own words")


@pytest.mark.parametrize("phase", ["failed", "gone"])
@pytest.mark.parametrize(
    ("said", "raised", "reason"),
    [
        ("", "", "the script was ended by a signal (TERM); the log ends with: slurmstepd: killed"),
        ("", "no such layer", "rank 0 on node-1: ValueError: no such layer"),
        ("NODE_FAIL", "", "NODE_FAIL"),
        ("NODE_FAIL", "no such layer", "NODE_FAIL; rank 0 on node-1: ValueError: no such layer"),
    ],
)
def test_a_record_of_a_signal_is_told_where_the_scheduler_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, said: str, raised: str, reason: str
) -> None:
    folder = started(tmp_path, scheduler="slurm")
    says(monkeypatch, {"77": JobState(phase, said)})
    folder.scheduler_log.write_text("slurmstepd: killed\n")
    end(folder, 143, "TERM")
    if raised:
        rank(folder, 0, "error", error=error(raised))
    assert read_status(folder).reason == reason


def test_without_any_record_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path, scheduler="slurm")
    says(monkeypatch, {"77": JobState("failed")})
    assert read_status(folder).reason == "it left no exit record"


def test_a_task_that_waits_does_not_read_another_tasks_exit_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts are numbered in the order in which tasks start: here the second task was the first."""
    folder = make_array(tmp_path / "job", tasks=2)
    start(folder, attempt=1, task=1)
    end(folder, 1)
    says(monkeypatch, {"77_0": JobState("waiting", "waits: Resources")})
    status = read_status(folder)
    assert (status.state, status.reason) == ("PENDING", "1 of 2 tasks; task 0: waits: Resources")


def test_the_last_counts_of_a_job_that_was_killed_come_from_its_rows(tmp_path: Path) -> None:
    """Replicas write their counts every second; rows at once."""
    folder = started(tmp_path, rows=5)
    progress(folder, done=1)
    errors = [{**result(index), "error": {"type": "E", "message": "m"}} for index in (1, 3)]
    write_lines(folder.shard(0, 1), [result(0), *errors], torn='{"index": 4')
    assert read_status(folder).rows == Rows(5, 1, 2), "no supervisor: it has ended"
    write_lines(folder.shard(0, 2), [result(1), result(0)])
    end(folder, 137, "SIGKILL")
    status = read_status(folder)
    assert (status.state, status.rows) == ("FAILED", Rows(5, 2, 1))


def test_the_rows_of_a_job_that_has_ended_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path)
    write_lines(folder.shard(0, 1), [result(0)])
    end(folder, 1)
    assert read_status(folder).rows == Rows(3, 1)
    monkeypatch.setattr("vllm_hpc.jobs.progress._count", lambda shards, total: pytest.fail("counted again"))
    assert read_status(folder).rows == Rows(3, 1)


def test_of_a_killed_writer_only_what_its_counts_do_not_cover_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = started(tmp_path, rows=6)
    write_lines(folder.shard(0, 1), [result(0)])
    write_lines(folder.shard(0, 2), [result(1)])
    covered = folder.shard(0, 2).stat().st_size
    failed = {"index": 4, "id": "4", "error": {"type": "E", "message": "m"}}
    write_lines(folder.shard(0, 2), [result(1), result(3), result(3), failed], torn='{"index": 5')
    write_json(folder.progress(0), Progress(replica=0, attempt=2, done=2, shard_bytes=covered))
    end(folder, 137, "SIGKILL")
    monkeypatch.setattr("vllm_hpc.jobs.progress._count", lambda shards, total: pytest.fail("all were counted"))
    assert read_status(folder).rows == Rows(6, 3, 1)


@pytest.mark.parametrize("unclear", ["another replica", "a newer shard", "a shorter shard", "not said"])
def test_where_it_is_unclear_what_the_counts_cover_all_is_counted(tmp_path: Path, unclear: str) -> None:
    folder = make_job(tmp_path / "job", rows=5, shape=layout(dp=2))
    start(folder)
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    known = Progress(replica=0, attempt=1, done=1, shard_bytes=None if unclear == "not said" else 10)
    if unclear == "another replica":
        write_lines(folder.shard(1, 1), [result(2)])
    elif unclear == "a newer shard":
        write_lines(folder.shard(0, 2), [result(2)])
    elif unclear == "a shorter shard":
        known = Progress(replica=0, attempt=1, done=1, shard_bytes=10**6)
    write_json(folder.progress(0), known)
    end(folder, 137, "SIGKILL")
    assert read_status(folder).rows.done == (3 if unclear in ("another replica", "a newer shard") else 2)


def test_the_speed_of_a_running_job_is_that_of_its_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = started(tmp_path, rows=100)
    start(folder, 2)
    write_json(folder.supervisor, this_process("77-1000"))
    runs = (
        Run(attempt=1, rows=40, completion_tokens=9000, seconds={"generate": 10.0}),
        Run(attempt=2, rows=10, completion_tokens=1000, seconds={"generate": 20.0}),
    )
    both = Progress(
        replica=0,
        attempt=2,
        done=48,
        failed=2,
        completion_tokens=10_000,
        started_at=2000.0,
        updated_at=2020.0,
        runs=runs,
    )
    write_json(folder.progress(0), both)
    monkeypatch.setattr("vllm_hpc.jobs.progress.time.time", lambda: 2020.0)
    status = read_status(folder)
    assert (status.tokens_per_s, status.eta_s) == (50.0, 100.0)
    folder.supervisor.unlink()
    end(folder, 1)
    assert read_status(folder).tokens_per_s == round(10_000 / 30, 1)


def test_an_attempt_that_has_not_generated_yet_has_no_speed(tmp_path: Path) -> None:
    folder = started(tmp_path, rows=100)
    start(folder, 2)
    write_json(folder.supervisor, this_process("77-1000"))
    before = Run(attempt=1, rows=40, completion_tokens=9000, seconds={"generate": 10.0})
    write_json(folder.progress(0), Progress(replica=0, attempt=2, done=40, started_at=2000.0, runs=(before,)))
    assert (read_status(folder).tokens_per_s, read_status(folder).eta_s) == (0.0, None)


def test_shards_that_were_removed_are_no_error(tmp_path: Path) -> None:
    folder = started(tmp_path)
    progress(folder, done=1)
    end(folder, 1)
    folder.shards.rmdir()
    assert read_status(folder).rows == Rows(3, 1)


def test_a_running_job_is_not_counted(tmp_path: Path) -> None:
    folder = started(tmp_path)
    write_json(folder.supervisor, this_process("77-1000"))
    write_lines(folder.shard(0, 1), [result(0)])
    assert read_status(folder).rows == Rows(3)
    assert not folder.counted.exists()


def test_no_job_folder_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(JobNotFoundError, match="not a job folder"):
        read_status(JobFolder(tmp_path))


def test_the_first_real_error_is_the_earliest_that_is_no_echo(tmp_path: Path) -> None:
    folder = started(tmp_path, tp=4)
    rank(folder, 0, "error", at=1, error=error("lost a peer", is_echo=True))
    rank(folder, 1, "error", at=3, error=error("later"))
    rank(folder, 2, "error", at=2, error=error("the cause"))
    rank(folder, 3, "running")
    assert first_error(folder) == ("rank 2 on node-1: ValueError: the cause", "Traceback: the cause")


def test_a_vanished_rank_comes_before_the_echoes(tmp_path: Path) -> None:
    folder = started(tmp_path, tp=2)
    rank(folder, 0, "error", at=1, error=error("lost a peer", is_echo=True))
    rank(folder, 1, "running")
    alive = first_error(folder)
    assert alive is not None
    assert "lost a peer" in alive[0], "before the end it may well be alive"
    end(folder, 1)
    found = first_error(folder)
    assert found is not None
    assert "rank 1 on node-1 (pid 101) vanished" in found[0]


@pytest.mark.inputs
def test_where_torchrun_was_killed_the_scheduler_may_say_why(tmp_path: Path) -> None:
    folder = started(tmp_path, tp=2)
    rank(folder, 0, "error", at=1, error=error("the store is gone", is_echo=True))
    rank(folder, 1, "terminated", at=2, error=RankError(LAUNCHER_LOST, "torchrun was killed", ""))
    end(folder, 1)
    words = "rank 1 on node-1: LauncherLost: torchrun was killed"
    assert first_error(folder) == (words, "")
    oom = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
    folder.scheduler_log.write_text(f"{oom}\n")
    assert first_error(folder) == (f"{words}: out of memory ({oom})", "")


def test_echoes_are_better_than_nothing(tmp_path: Path) -> None:
    folder = started(tmp_path, tp=2)
    rank(folder, 0, "error", at=2, error=error("second", is_echo=True))
    rank(folder, 1, "error", at=1, error=error("first", is_echo=True))
    found = first_error(folder)
    assert found is not None
    assert "first" in found[0]


def test_errors_of_an_earlier_attempt_are_over(tmp_path: Path) -> None:
    folder = started(tmp_path, tp=2)
    rank(folder, 0, "error", error=error("of attempt 1"))
    start(folder, attempt=2)
    assert first_error(folder) is None


@pytest.mark.parametrize("outcome", ["ok", "terminated"])
def test_a_rank_that_left_in_order_is_no_error(tmp_path: Path, outcome: str) -> None:
    folder = started(tmp_path)
    rank(folder, 0, outcome)
    assert first_error(folder) is None


def test_wait_returns_the_last_status_and_gives_up_in_time(tmp_path: Path) -> None:
    folder = started(tmp_path)
    write_json(folder.supervisor, this_process("77-1000"))
    with pytest.raises(TimeoutError, match="still RUNNING"):
        Job(folder.path).wait(timeout=-1)
    progress(folder, done=3)
    end(folder)
    assert Job(folder.path).wait(timeout=-1).state == "COMPLETED"


@pytest.mark.parametrize("cause", ["cancelled", "timeout"])
def test_a_job_that_was_ended_after_its_last_row_is_complete(tmp_path: Path, cause: str) -> None:
    folder = started(tmp_path)
    progress(folder, done=3)
    end(folder, 143, cause)
    assert read_status(folder).state == "COMPLETED"


@pytest.mark.parametrize("outcome", ["running", "terminated"])
def test_a_job_that_was_killed_after_its_last_row_is_complete(tmp_path: Path, outcome: str) -> None:
    folder = started(tmp_path)
    progress(folder, done=3)
    rank(folder, 0, outcome)
    end(folder, 1, "exit")
    assert read_status(folder).state == "COMPLETED"


def test_what_a_rank_raised_after_its_last_row_is_a_failure(tmp_path: Path) -> None:
    folder = started(tmp_path)
    progress(folder, done=3)
    rank(folder, 0, "error", error=error("the ranks diverged"))
    end(folder, 1, "exit")
    assert read_status(folder).state == "FAILED"


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (ClientError("scancel refused: Access/permission denied"), False),
        (FailedError("it runs on another host: cancel it there"), False),
        (RequestError("its supervisor.json belongs to another user"), False),
        (ClientTimeoutError("scancel did not answer within 15 s"), True),
    ],
)
@pytest.mark.parametrize("was_cancelled", [False, True])
def test_a_cancel_that_was_refused_leaves_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: VllmHpcError, stays: bool, was_cancelled: bool
) -> None:
    folder = started(tmp_path, scheduler="slurm")
    if was_cancelled:
        folder.cancelled.touch()

    def refuse(job: JobFolder, job_id: str) -> None:
        assert folder.cancelled.exists(), "on record before it is asked for"
        raise error

    says(monkeypatch, {"77": JobState("running")})
    monkeypatch.setattr(
        "vllm_hpc.jobs.cancel.get_scheduler", lambda name: replace(SCHEDULER, cancel=refuse, id_alone=re.compile(".+"))
    )
    with pytest.raises(type(error)):
        Job(folder.path).cancel()
    assert folder.cancelled.exists() == (stays or was_cancelled)


def test_a_cancel_after_which_rows_cannot_be_counted_says_that_it_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 is for what was refused before anything was done."""
    folder = started(tmp_path, scheduler="slurm")
    write_lines(folder.shard(0, 1), [result(0)])
    folder.input_json.write_text("damaged")
    answers = {"77": JobState("running")}
    says(monkeypatch, answers)

    def cancel(job: JobFolder, job_id: str) -> None:
        answers["77"] = JobState("cancelled")

    monkeypatch.setattr(
        "vllm_hpc.jobs.cancel.get_scheduler", lambda name: replace(SCHEDULER, cancel=cancel, id_alone=re.compile(".+"))
    )
    status = Job(folder.path).cancel()
    assert (status.state, "its rows cannot be counted: cannot read" in status.reason) == ("CANCELLED", True)
    assert folder.cancelled.exists()


@pytest.mark.parametrize(("phase", "state"), [("forgotten", "CANCELLED"), ("unknown", None)])
def test_a_job_that_the_scheduler_does_not_know_is_cancelled_by_the_users_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, state: str | None
) -> None:
    folder = started(tmp_path, scheduler="slurm")

    def refuse(job: JobFolder, job_id: str) -> None:
        raise ClientError("scancel refused: Invalid job id specified")

    says(monkeypatch, {"77": JobState(phase, "Slurm's words")})
    monkeypatch.setattr(
        "vllm_hpc.jobs.cancel.get_scheduler", lambda name: replace(SCHEDULER, cancel=refuse, id_alone=re.compile(".+"))
    )
    if state:
        assert Job(folder.path).cancel().state == state
    else:
        with pytest.raises(ClientError):
            Job(folder.path).cancel()
    assert folder.cancelled.exists() == bool(state)


def test_completed_by_the_schedulers_word_waits_for_records_that_are_seen_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compute node's last writes may show here up to a minute later."""
    folder = started(tmp_path, scheduler="slurm")
    progress(folder, done=1)
    now = 5000.0
    monkeypatch.setattr("vllm_hpc.jobs.status.time.time", lambda: now)
    says(monkeypatch, {"77": JobState("completed", "Slurm says COMPLETED")})
    status = read_status(folder)
    assert (status.state, status.is_final) == ("RUNNING", False)
    assert "waiting for its exit record" in status.reason
    says(monkeypatch, {"77": JobState("unknown", "never asked again")})
    now += 59
    assert read_status(folder).state == "RUNNING"
    now += 2
    assert (read_status(folder).state, read_status(folder).reason) == ("FAILED", lost(2))
    progress(folder, done=3)
    assert read_status(folder).state == "COMPLETED"


@pytest.mark.parametrize("seen_first", ["exit record", "rows", "shards"])
def test_nothing_is_waited_for_once_all_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen_first: str
) -> None:
    folder = started(tmp_path, scheduler="slurm")
    says(monkeypatch, {"77": JobState("completed", "Slurm says COMPLETED")})
    progress(folder, done=1)
    assert read_status(folder).state == "RUNNING"
    if seen_first == "rows":
        progress(folder, done=3)
    elif seen_first == "shards":
        write_lines(folder.shard(0, 1), [result(index) for index in range(3)])
    else:
        end(folder)
    assert read_status(folder).state == ("FAILED" if seen_first == "exit record" else "COMPLETED")


def test_who_cannot_write_into_the_folder_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = started(tmp_path, scheduler="slurm")
    progress(folder, done=1)
    says(monkeypatch, {"77": JobState("completed", "Slurm says COMPLETED")})

    def refuse(path: Path, record: object) -> None:
        raise PermissionError

    monkeypatch.setattr("vllm_hpc.jobs.task_states.write_json", refuse)
    assert read_status(folder).state == "FAILED"


def twice(tmp_path: Path, rows: int, shards: list[list[int]]) -> JobFolder:
    """An array that has ended; its tasks wrote these rows, some of them twice, and counted each of their own."""
    folder = make_array(tmp_path / "job", len(shards), rows)
    for task, indices in enumerate(shards):
        start(folder, task + 1, task)
        end(folder, attempt=task + 1)
        progress(folder, done=len(indices), replica=task)
        write_lines(folder.shard(task, task + 1), [result(index) for index in indices])
    return folder


@pytest.mark.parametrize(
    ("shards", "state", "reason"),
    [
        ([[0, 1, 2, 3], [2, 3, 4, 5]], "COMPLETED", "every row has a result"),
        ([[0, 1, 2], [0, 1, 2]], "FAILED", lost(3)),
        ([[0, 1, 2, 3], [1, 2, 3]], "FAILED", lost(2)),
        ([[0, 1, 2], [1, 2]], "FAILED", lost(3)),
    ],
)
def test_a_row_that_two_tasks_wrote_counts_once(
    tmp_path: Path, shards: list[list[int]], state: str, reason: str
) -> None:
    folder = twice(tmp_path, 6, shards)
    status = read_status(folder)
    there = len({index for indices in shards for index in indices})
    assert (status.state, status.reason, status.rows) == (state, reason, Rows(6, there))


@pytest.mark.parametrize(("failed", "shown"), [(0, Rows(6, 6)), (2, Rows(6, 6))])
def test_a_running_array_has_no_more_rows_done_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int, shown: Rows
) -> None:
    folder = twice(tmp_path, 6, [[0, 1, 2, 3], [2, 3, 4, 5]])
    progress(folder, done=4, failed=failed, replica=1)
    folder.exit_record(2).unlink()
    says(monkeypatch, {"77_1": JobState("running", "")})
    status = read_status(folder)
    assert (status.state, status.rows, status.rows.missing) == ("RUNNING", shown, 0)


def test_where_the_shards_cannot_be_read_no_count_is_negative(tmp_path: Path) -> None:
    folder = twice(tmp_path, 6, [[0, 1, 2, 3], [2, 3, 4, 5]])
    for shard in folder.shard_files():
        shard.unlink()
    folder.shards.rmdir()
    assert read_status(folder).rows == Rows(6, 6)


@pytest.mark.parametrize("by", ["a person", "the script", "the script of an earlier attempt"])
def test_a_drain_before_the_first_row_is_no_failure(tmp_path: Path, by: str) -> None:
    folder = started(tmp_path)
    end(folder)
    (folder.drain if by == "a person" else folder.drain_attempt(1)).touch()
    if by == "the script of an earlier attempt":
        start(folder, 2)
        end(folder, attempt=2)
    status = read_status(folder)
    if by == "the script of an earlier attempt":
        assert status.state == "FAILED"
    else:
        assert (status.state, status.reason) == ("PARTIAL", "3 rows missing")


@pytest.mark.parametrize(("phase", "state"), [("failed", "FAILED"), ("running", "RUNNING"), ("unknown", "UNKNOWN")])
def test_an_empty_exit_record_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, state: str
) -> None:
    """What a full disk left of it: it is the scheduler that is asked."""
    folder = started(tmp_path, scheduler="slurm")
    progress(folder, done=1)
    folder.exit_record(1).touch()
    says(monkeypatch, {"77": JobState(phase, "" if phase == "running" else "its words")})
    assert read_status(folder).state == state
