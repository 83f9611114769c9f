"""Submissions whose answer was lost: every such job can be cancelled or resumed, and none runs twice."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import crafted
from tests.conftest import FAKE_SBATCH, Cli
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Attempt, Lost, Submitted
from vllm_hpc.jobfolder.submissions import last_submission
from vllm_hpc.jobs import doubt
from vllm_hpc.jobs.find import find_job
from vllm_hpc.jobs.job import Job
from vllm_hpc.schedulers.client import SUBMIT_MAY_TAKE_S, ClientError, ClientTimeoutError, call_client
from vllm_hpc.schedulers.local import SCHEDULER as LOCAL
from vllm_hpc.schedulers.local import this_process
from vllm_hpc.schedulers.scheduler import JobState
from vllm_hpc.schedulers.slurm import SCHEDULER, Cluster
from vllm_hpc.schedulers.slurm import find_job as find_in_slurm
from vllm_hpc.spec.errors import FailedError, RequestError, VllmHpcError

pytestmark = pytest.mark.inputs

# As slurm-wlm 22.05.8 answers: squeue fails on one id that it does not know, and prints "ID|SCRIPT|NAME" of a user's.
_SQUEUE = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/asked"
case "$*" in
  *--user=*) cat "$(dirname "$0")/mine" ;;
  *) cat "$(dirname "$0")/jobs"; test -s "$(dirname "$0")/jobs" ||
     { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; } ;;
esac
"""
_NOTHING = "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n"
_NO_ACCOUNTING = "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n"
_LOST = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1\n"


class Slurm:
    """The clients on PATH, and what they know."""

    def __init__(self, desk: Path) -> None:
        self.bin = desk / "bin"
        for name, text in (("squeue", _SQUEUE), ("scontrol", _NOTHING), ("sacct", _NO_ACCOUNTING), ("scancel", "")):
            self.client(name, text)
        self.client("scancel", '#!/bin/sh\necho "$*" >> "$(dirname "$0")/cancelled"\n')
        self.has()

    def client(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def has(self, *lines: str, jobs: str = "") -> None:
        (self.bin / "mine").write_text("".join(f"{line}\n" for line in lines))
        (self.bin / "jobs").write_text(jobs)

    @property
    def cancelled(self) -> list[str]:
        file = self.bin / "cancelled"
        return file.read_text().replace("-- ", "").split("\n")[:-1] if file.exists() else []

    @property
    def received(self) -> bool:
        return (self.bin / "received").exists()


@pytest.fixture
def slurm(desk: Path) -> Slurm:
    return Slurm(desk)


def line(folder: JobFolder, job_id: str) -> str:
    return f"{job_id}|{folder.path / 'script.sbatch'}|{folder.path.name}"


def lose(desk: Path, folder: JobFolder) -> None:
    """A submission whose answer is lost."""
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\n{_LOST}")
    with pytest.raises(FailedError, match="may or may not be submitted"):
        Job(folder.path).resume()
    (desk / "bin" / "sbatch").write_text(FAKE_SBATCH)


def interrupt(desk: Path, folder: JobFolder) -> None:
    """What a killed submission leaves: its mark, long ago."""
    os.utime(folder.take("77"), (1e9, 1e9))


def never_answered(desk: Path, folder: JobFolder) -> None:
    """The first submission was killed."""
    for file in (folder.submitted, folder.attempt(1), folder.exit_record(1)):
        file.unlink()


def unknown(desk: Path, folder: JobFolder) -> None:
    """Its script was killed, and Slurm has forgotten it."""
    folder.exit_record(1).unlink()


DOUBTS: dict[str, Callable[[Path, JobFolder], None]] = {
    "the answer to resume was lost": lose,
    "resume was killed": interrupt,
    "submit was killed": never_answered,
    "a state that stays unknown": unknown,
}
doubts = pytest.mark.parametrize("doubtful", DOUBTS.values(), ids=DOUBTS)


@pytest.fixture
def folder(desk: Path, slurm: Slurm) -> JobFolder:
    """A job on Slurm that has ended with a row missing."""
    folder = crafted.make_job(desk / "runs" / "job", 3, "slurm")
    (folder.path / "script.sbatch").write_text("#!/bin/bash\n")
    crafted.start(folder)
    crafted.end(folder, 1)
    crafted.write_lines(folder.shard(0, 1), [crafted.result(0), crafted.result(1)])
    return folder


@doubts
def test_a_job_that_the_scheduler_does_not_have_is_resumed(
    folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli, doubtful: Callable[[Path, JobFolder], None]
) -> None:
    doubtful(desk, folder)
    assert json.loads(run_cli("status", "job", "--json").out)["state"] == "UNKNOWN"
    refused = run_cli("resume", "job")
    assert (refused.code, refused.err.count("\n"), slurm.received) == (1, 1, False)
    assert "--not-submitted" in refused.err
    ran = run_cli("resume", "job", "--not-submitted")
    assert (ran.code, ran.out, slurm.received) == (
        0,
        "Submitted job again as 4711, for 1 row\n",
        True,
    )
    slurm.has(line(folder, "4711"), jobs="4711|PENDING|None|N/A\n")
    status = json.loads(run_cli("status", "job", "--json").out)
    assert (status["state"], status["job_id"]) == ("PENDING", "4711")
    again = run_cli("resume", "job", "--not-submitted")
    assert (again.code, "the scheduler has the job: it is PENDING" in again.err) == (1, True)


@doubts
def test_a_job_that_the_scheduler_has_is_cancelled_by_its_id(
    folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli, doubtful: Callable[[Path, JobFolder], None]
) -> None:
    doubtful(desk, folder)
    slurm.has("76|/gone/script.sbatch|other", line(folder, "78"))
    refused = run_cli("resume", "job", "--not-submitted")
    assert (refused.code, slurm.received) == (1, False)
    assert (
        f"slurm has the job, as 78: wait for it, or cancel it: 'vllm-hpc cancel {folder.path} --job-id 78'"
        in refused.err
    )
    slurm.has(line(folder, "78"), jobs="78|PENDING|Priority|N/A\n")
    ran = run_cli("cancel", "job", "--job-id", "78", "--json")
    assert (ran.code, slurm.cancelled) == (0, ["78"])
    assert json.loads(ran.out)["job_id"] == "78"
    slurm.has()  # forgotten
    assert json.loads(run_cli("status", "78", "--json").out)["state"] == "CANCELLED"
    assert run_cli("resume", "job").code == 0


@pytest.mark.parametrize("doubtful", [lose, interrupt, never_answered])
def test_a_job_that_has_started_since_is_followed(
    folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli, doubtful: Callable[[Path, JobFolder], None]
) -> None:
    doubtful(desk, folder)
    write_json(folder.attempt(2), Attempt(attempt=2, job_id="78", host="n", started_at=time.time()))
    slurm.has(jobs="78|RUNNING|None|N/A\n")
    status = json.loads(run_cli("status", "job", "--json").out)
    assert (status["state"], status["job_id"]) == ("RUNNING", "78")
    assert find_job("78", str(desk / "runs")).path == folder.path
    assert run_cli("cancel", "job").code == 0
    assert slurm.cancelled == ["78"]


def test_cancel_does_not_guess(folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli) -> None:
    lose(desk, folder)
    ran = run_cli("cancel", "job")
    assert (ran.code, ran.err.count("\n"), slurm.cancelled) == (1, 1, [])
    assert "Socket timed out on send/recv operation" in ran.err
    assert f"'vllm-hpc cancel {folder.path} --job-id ID'" in ran.err
    assert folder.cancelled.exists()


_NO_ID = "--job-id must be an id as slurm prints it, not"
_NOT_HIS = "slurm has no such job of yours with this job's script: it has 78: give that"
REFUSED_IDS = {
    **dict.fromkeys(["79", "078", "77\n79"], _NOT_HIS),
    **dict.fromkeys(["78_0", "78_[0-3]", "78.batch", "1e3", "0x4e", "null", "9" * 99, "12[].head"], _NO_ID),
    **dict.fromkeys(["", "  ", "-78", "78; rm -rf", "78,77", "../78", "78;a;b", "78;../x", ";78"], _NO_ID),
    **dict.fromkeys(["$(id)", "%j", "\x1b[1m78", "7٣", "9" * 5000, "--", "''"], _NO_ID),
    "77": "is an earlier submission of this job",
}


@pytest.mark.parametrize("job_id", REFUSED_IDS, ids=lambda job_id: ascii(job_id[:25]))
def test_an_id_that_is_not_the_jobs_is_refused(
    folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli, job_id: str
) -> None:
    lose(desk, folder)
    slurm.has("79|/elsewhere/script.sbatch|another", line(folder, "78"), line(folder, "77"))
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    ran = run_cli("cancel", "job", f"--job-id={job_id}")
    assert (ran.code, ran.err.count("\n"), slurm.cancelled) == (2, 1, [])
    assert REFUSED_IDS[job_id] in ran.err
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("job_id", ["78", " 78 ", "Submitted batch job 78", "78;alpha"])
def test_an_id_may_be_given_as_sbatch_prints_it(folder: JobFolder, desk: Path, slurm: Slurm, job_id: str) -> None:
    lose(desk, folder)
    slurm.has(line(folder, "78"), jobs="78|RUNNING|None|N/A\n")
    Job(folder.path).cancel(job_id)
    assert [words.split()[-1] for words in slurm.cancelled] == ["78"]


@pytest.mark.parametrize("jobs", ["", "77|RUNNING|None|N/A\n"], ids=["ended", "running"])
def test_an_id_is_refused_if_it_is_known(folder: JobFolder, slurm: Slurm, run_cli: Cli, jobs: str) -> None:
    if jobs:
        folder.exit_record(1).unlink()
    slurm.has(line(folder, "78"), jobs=jobs)
    ran = run_cli("cancel", "job", "--job-id", "78")
    assert (ran.code, ran.out, slurm.cancelled) == (2, "", [])
    assert "--job-id is for a job whose id is not known; that of 'job' is 77: remove it" in ran.err


def test_the_cluster_is_kept_with_the_id_and_only_with_it(
    folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli
) -> None:
    lose(desk, folder)
    assert run_cli("cancel", "job", "--job-id", "78;beta").code == 2
    assert not folder.cluster.exists()
    slurm.has(line(folder, "78"), jobs="78|PENDING|None|N/A\n")
    assert run_cli("cancel", "job", "--job-id", "78;beta").code == 0
    assert read_json(folder.cluster, Cluster) == Cluster("beta")
    assert slurm.cancelled == ["--clusters=beta 78"]
    write_json(folder.cluster, Cluster("alpha"))
    folder.take("78")
    write_json(folder.lost, Lost("resumed-78", "lost."))
    assert run_cli("cancel", "job", "--job-id", "80;beta").code == 2
    assert read_json(folder.cluster, Cluster) == Cluster("alpha")


@pytest.mark.parametrize("command", [("resume", "job", "--not-submitted"), ("cancel", "job", "--job-id", "78")])
def test_a_scheduler_that_does_not_answer_settles_nothing(
    folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli, command: tuple[str, ...]
) -> None:
    lose(desk, folder)
    slurm.client("squeue", "#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2; exit 1\n")
    ran = run_cli(*command)
    assert (ran.code, ran.err.count("\n"), slurm.received, slurm.cancelled) == (1, 1, False, [])
    assert "Unable to contact slurm controller" in ran.err
    assert json.loads(run_cli("status", "job", "--json").out)["state"] == "UNKNOWN"


def test_a_submission_that_may_be_going_on_is_waited_for(folder: JobFolder, slurm: Slurm, run_cli: Cli) -> None:
    folder.take("77")
    ran = run_cli("resume", "job", "--not-submitted")
    assert (ran.code, slurm.received) == (1, False)
    assert "a submission of this job began 0 s ago and may be going on: try again in 1" in ran.err
    os.utime(folder.taken("77"), (time.time() - SUBMIT_MAY_TAKE_S - 1,) * 2)
    assert run_cli("resume", "job", "--not-submitted").code == 0


def test_of_two_that_say_so_one_submits(
    folder: JobFolder, desk: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks before the first has submitted, and comes after, or while it submits."""
    lose(desk, folder)
    first = Job(folder.path)
    checked = doubt._find

    def meanwhile(folder: JobFolder, scheduler: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(doubt, "_find", checked)
            assert first.resume(not_submitted=True) == 1
        (desk / "bin" / "received").unlink()

    monkeypatch.setattr(doubt, "_find", meanwhile)
    with pytest.raises(FailedError, match="another process is resuming this job"):
        Job(folder.path).resume(not_submitted=True)
    assert not slurm.received
    assert first.job_id == "4711"


def test_lost_again_and_again(folder: JobFolder, desk: Path, slurm: Slurm, run_cli: Cli) -> None:
    lose(desk, folder)
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\n{_LOST}")
    for _ in range(3):
        assert "may or may not be submitted" in run_cli("resume", "job", "--not-submitted").err
    assert folder.taken("77", 4).name == "resumed-77.4" and folder.taken("77", 4).exists()
    slurm.has(line(folder, "81"), jobs="81|RUNNING|None|N/A\n")
    assert run_cli("cancel", "job", "--job-id", "81").code == 0
    assert (last_submission(folder), folder.lost.exists()) == ("81", False)


def test_a_refusal_after_a_loss_leaves_the_doubt(folder: JobFolder, desk: Path, run_cli: Cli) -> None:
    lose(desk, folder)
    folder.drain.touch()
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: Invalid qos specification' >&2; exit 1\n")
    assert "Invalid qos" in run_cli("resume", "job", "--not-submitted").err
    assert folder.drain.exists()
    assert not folder.taken("77", 2).exists()
    (desk / "bin" / "sbatch").write_text(FAKE_SBATCH)
    assert run_cli("resume", "job", "--not-submitted").code == 0


@pytest.fixture
def full() -> Iterator[pytest.MonkeyPatch]:
    """A disk without room for a submission's id; ``undo`` frees some."""

    def write(path: Path, record: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_hpc.schedulers.record_submission.write_json", write)
        yield patch


def test_a_job_whose_id_cannot_be_recorded_is_deleted(
    folder: JobFolder, slurm: Slurm, run_cli: Cli, full: pytest.MonkeyPatch
) -> None:
    folder.drain.touch()
    ran = run_cli("resume", "job")
    told = (
        "the job was submitted as 4711, and deleted again, because its id cannot be recorded (No space left on "
        "device): free some space, then submit it again"
    )
    assert (ran.code, ran.err, slurm.cancelled) == (1, f"Error: {told}\n", ["4711"])
    assert (folder.drain.exists(), folder.lost.exists(), folder.taken("77").exists()) == (True, False, False)


def test_so_is_a_first_submission_with_its_folder(
    desk: Path, model: Path, slurm: Slurm, run_cli: Cli, full: pytest.MonkeyPatch
) -> None:
    ran = run_cli("submit", "model", "--scheduler", "slurm", "--name", "new")
    assert (ran.code, slurm.cancelled) == (1, ["4711"])
    assert "deleted again, because its id cannot be recorded" in ran.err
    assert not (desk / "runs" / "new").exists()


def test_an_id_that_cannot_be_recorded_is_told(
    folder: JobFolder, slurm: Slurm, run_cli: Cli, full: pytest.MonkeyPatch
) -> None:
    """Where the job cannot be deleted, either."""
    slurm.client("scancel", "#!/bin/sh\necho 'Unable to contact slurm controller (connect failure)' >&2; exit 1\n")
    ran = run_cli("resume", "job")
    told = (
        "the job was submitted as 4711, but that cannot be recorded (No space left on device), and the job could not "
        "be deleted: it may run; 'vllm-hpc "
    )
    assert (ran.code, ran.err) == (1, f"Error: {told}cancel {folder.path} --job-id 4711' records and cancels it.\n")
    full.undo()
    slurm.has(line(folder, "4711"), jobs="4711|PENDING|None|N/A\n")
    assert "submitted as 4711" in json.loads(run_cli("status", "job", "--json").out)["reason"]


def test_the_status_of_a_lost_submission_quotes_the_client_and_both_ways_out(
    desk: Path, model: Path, slurm: Slurm, run_cli: Cli
) -> None:
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\n{_LOST}")
    run_cli("submit", "model", "--scheduler", "slurm", "--name", "a b")
    reason = json.loads(run_cli("status", "a b", "--json").out)["reason"]
    path = shlex.quote(str(desk / "runs" / "a b"))
    assert "Socket timed out on send/recv operation" in reason
    assert f"'vllm-hpc cancel {path} --job-id ID'" in reason
    assert f"'vllm-hpc resume {path} --not-submitted'" in reason
    (desk / "bin" / "sbatch").write_text(FAKE_SBATCH)
    assert run_cli("resume", "a b", "--not-submitted").code == 0


def test_an_attempt_of_an_earlier_submission_is_not_followed(folder: JobFolder, desk: Path) -> None:
    """A job that waits under its second id, whose third submission was lost."""
    folder.take("77")
    write_json(folder.submitted, Submitted("slurm", "78", 0.0))
    assert last_submission(folder) == "78"
    folder.take("78")
    assert last_submission(folder) == "78"
    write_json(folder.attempt(2), Attempt(attempt=2, job_id="70", host="n", started_at=time.time() - 3600))
    assert last_submission(folder) == "78", "it began before the job was submitted again"


@pytest.mark.parametrize("earlier", ["12", "12.head"])
def test_an_earlier_submission_that_still_runs_is_not_taken_for_the_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: str
) -> None:
    """A site's qsub may print the id without the server's name."""
    folder = crafted.make_job(tmp_path / "job", scheduler="pbs")
    write_json(folder.submitted, Submitted("pbs", earlier, 0.0))
    folder.take(earlier)
    there = ["12.head", "13.head"]
    pbs = replace(LOCAL, find_job=lambda job, known: next((job_id for job_id in there if job_id not in known), None))
    assert doubt._find(folder, pbs) == "13.head"
    there.pop()
    assert doubt._find(folder, pbs) is None


FOUND = {
    # SCRIPT|NAME as squeue's %o|%j; {own} is the script's path
    "{own}|job": True,
    "{link}|job": True,
    "{own}|renamed by a plugin": True,
    "{own}|a|b": True,
    "/tmp/wrapped.1234.sh|job": True,  # a copy that is gone
    "{other}|job": False,  # a job of the same name in another folder
    "{other}|other": False,
    "/tmp/wrapped.1234.sh|jobs": False,
    "(null)|job": True,
    "|": False,
    "": False,
}


@pytest.mark.parametrize("rest", FOUND)
def test_whose_job_a_line_of_squeue_is(folder: JobFolder, desk: Path, rest: str) -> None:
    other = desk / "other" / "script.sbatch"
    other.parent.mkdir()
    other.touch()
    (desk / "link").symlink_to(folder.path)
    words = rest.format(own=folder.path / SCHEDULER.script, link=desk / "link" / SCHEDULER.script, other=other)
    asked: list[list[str]] = []

    def ask(argv: list[str]) -> str:
        asked.append(argv)
        return f"80|{words}\n80|{words}\n"

    assert find_in_slurm(folder, ["79"], ask) == ("80" if FOUND[rest] else None)
    assert find_in_slurm(folder, ["80"], ask) is None
    del asked[1:]
    assert asked == [["squeue", "--noheader", f"--user={os.getuid()}", "--format=%F|%o|%j"]]


def test_filters_of_the_user_hide_no_job(folder: JobFolder, slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.client("squeue", '#!/bin/sh\necho "80|${SQUEUE_STATES:-}${SQUEUE_USERS:-}|job"\n')
    for name in ("SQUEUE_STATES", "SQUEUE_USERS"):
        monkeypatch.setenv(name, "hidden")
    assert find_in_slurm(folder, [], call_client) == "80"
    assert "hidden" not in call_client(["squeue"])


def test_a_local_job_is_found_by_its_supervisor(tmp_path: Path, run_cli: Cli) -> None:
    folder = crafted.make_job(tmp_path / "job")
    folder.submitted.unlink()
    write_json(folder.supervisor, this_process("78-1000"))
    with pytest.raises(RequestError, match="local has no such job of yours with this job's script: it has 78-1000"):
        doubt.adopt(folder, Job(folder.path).status(), "78-1001")
    doubt.adopt(folder, Job(folder.path).status(), "78-1000")
    assert (Job(folder.path).job_id, Job(folder.path).status().state) == ("78-1000", "RUNNING")


@pytest.mark.parametrize("phase", ["waiting", "forgotten", "unknown"])
def test_a_scheduler_that_cannot_find_a_job_is_asked_for_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    folder = crafted.make_job(tmp_path / "job")
    folder.submitted.unlink()
    lsf = replace(LOCAL, find_job=None, query=lambda job, job_id, tasks, ask: {job_id: JobState(phase, "its words")})
    monkeypatch.setattr(doubt, "get_scheduler", lambda name: lsf)
    status = Job(folder.path).status()
    if phase == "waiting":
        doubt.adopt(folder, status, "78-1000")
        assert Job(folder.path).job_id == "78-1000"
    else:
        with pytest.raises(RequestError, match="--job-id 78-1000: its words: if it has"):
            doubt.adopt(folder, status, "78-1000")
        assert not folder.submitted.exists()


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (ClientTimeoutError("sbatch did not answer."), "sbatch did not answer."),
        (KeyboardInterrupt(), "its submission was interrupted."),
        (OSError(28, "full"), "its submission was interrupted."),
        (ClientError("sbatch refused"), None),
        (RequestError("not asked"), None),
    ],
)
def test_what_is_noted_of_a_submission(tmp_path: Path, error: BaseException, noted: str | None) -> None:
    folder = crafted.make_job(tmp_path / "job")
    with pytest.raises(type(error)), doubt.noting_loss(folder, None):
        raise error
    assert read_json(folder.lost, Lost) == (Lost("", noted) if noted else None)
    assert isinstance(error, (VllmHpcError, KeyboardInterrupt, OSError))
