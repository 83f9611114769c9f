"""What Slurm's clients print, as Slurm 20 to 24 do, and what is made of it: by every task, and never a guess."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import end, make_array, make_job, progress, start
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.status import read_status
from vllm_hpc.jobs.task_states import FINAL
from vllm_hpc.schedulers.client import ClientError, ClientMissingError, ClientTimeoutError
from vllm_hpc.schedulers.scheduler import JobState
from vllm_hpc.schedulers.slurm import SCHEDULER, Cluster, query
from vllm_hpc.schedulers.slurm.answers import parse_sacct, parse_scontrol, parse_squeue, task_ids

NO_SUCH_JOB = ClientError("squeue refused: slurm_load_jobs error: Invalid job id specified")
NO_ACCOUNTING = ClientError("sacct refused: Slurm accounting storage is disabled")
DATABASE_DOWN = ClientError("sacct refused: sacct: error: Problem talking to the database: Connection refused")
HANGS = ClientTimeoutError("sacct did not answer within 15 s: is the controller up?")

STATES = {
    "PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUE_HOLD": "waiting", "SPECIAL_EXIT": "waiting",
    "RUNNING": "running", "COMPLETING": "running", "SUSPENDED": "running", "STAGE_OUT": "running",
    "COMPLETED": "completed", "FAILED": "failed", "OUT_OF_MEMORY": "failed", "NODE_FAIL": "node_failed",
    "BOOT_FAIL": "node_failed",
    "CANCELLED": "cancelled", "CANCELLED by 1000": "cancelled", "TIMEOUT": "timeout", "DEADLINE": "timeout",
    "PREEMPTED": "preempted", "REVOKED": "unknown", "POWER_UP_NODE": "waiting", "SOMETHING_NEW": "unknown",
    "EXPEDITING": "waiting", "LAUNCH_FAILED": "waiting", "RECONFIG_FAIL": "waiting", "UPDATE_DB": "waiting",
    "REQUEUED": "waiting", "REQUEUE_FED": "waiting", "RESV_DEL_HOLD": "waiting",
    "STOPPED": "running", "SIGNALING": "running", "RESIZING": "running",
    # With flags, as "squeue --only-job-state" (24.05 and later) and the REST interface write them.
    "PENDING,REQUEUED": "waiting", "PENDING,LAUNCH_FAILED": "waiting", "COMPLETED,COMPLETING": "running",
    "RUNNING,CONFIGURING,POWER_UP_NODE": "waiting", "RUNNING,UPDATE_DB": "running", "?": "unknown", ",": "unknown",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[3-5]", ["12_3", "12_4", "12_5"]),
        ("12_[0,3-4,7]", ["12_0", "12_3", "12_4", "12_7"]),
        ("12_[3-5%2]", ["12_3", "12_4", "12_5"]),
        ("12_[0-6:3]", ["12_0", "12_3", "12_6"]),
        ("12_[0-6:0]", [f"12_{task}" for task in range(7)]),
        ("12_[1,2,...]", ["12_1", "12_2"]),
        ("12_[]", []),
        ("12.batch", []),
        ("12+1", []),
        ("CLUSTER: alpha", []),
        ("", []),
    ],
)
def test_the_short_form_of_task_ids(text: str, ids: list[str]) -> None:
    assert task_ids(text) == ids


def test_a_range_without_end_is_that_of_the_jobs_own_tasks(tmp_path: Path) -> None:
    """It filled the memory, and took for ever."""
    line = "4711_[0-99999999999]|PENDING|Priority|N/A\n"
    assert parse_squeue(line, 2).keys() == {"4711_0", "4711_1"}
    job = make_job(tmp_path / "job")
    found = query(job, "4711", ["4711_0", "4711_1"], lambda argv: line)
    assert {name: state.phase for name, state in found.items()} == {"4711_0": "waiting", "4711_1": "waiting"}
    assert task_ids(f"1_[{'9' * 5000}]") == []


@pytest.mark.parametrize(("state", "phase"), STATES.items())
def test_every_parser_knows_every_state(state: str, phase: str) -> None:
    one = state.split()[0]
    # What accounting has is no longer in the queue.
    assert parse_sacct(f"12|{state}\n")["12"].phase == phase.replace("node_failed", "failed")
    assert parse_scontrol(f"JobId=12 JobName=x JobState={one} Reason=None Dependency=(null)\n")["12"].phase == phase
    assert parse_squeue(f"12|{one}|None|N/A\n")["12"].phase == phase
    if phase not in ("waiting", "running"):
        assert one in parse_squeue(f"12|{one}|None|N/A\n")["12"].reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("12|PENDING|Resources|2026-01-02T03:04:05\n",
         {"12": JobState("waiting", "waits: Resources, expected to start 2026-01-02T03:04:05")}),
        ("12|PENDING|None|N/A\n", {"12": JobState("waiting", "waits")}),
        ("12|PENDING|Nodes required for job are DOWN, DRAINED or reserved|N/A\n",
         {"12": JobState("waiting", "waits: Nodes required for job are DOWN, DRAINED or reserved")}),
        ("12|RUNNING|None|2026-01-02T03:04:05\n", {"12": JobState("running")}),
        ("12_0|RUNNING|None|x\n12_1|PENDING|JobArrayTaskLimit|N/A\n",
         {"12_0": JobState("running"), "12_1": JobState("waiting", "waits: JobArrayTaskLimit")}),
        ("12_[1-2]|PENDING|Priority|N/A\n", dict.fromkeys(["12_1", "12_2"], JobState("waiting", "waits: Priority"))),
        ("CLUSTER: alpha\n12|RUNNING|None|x\n", {"12": JobState("running")}),
        # A reason may be any text (a reservation's name, a plugin's words): with bars, commas, or on two lines
        ("12|PENDING|Reservation a|b is full, or so|2026-01-02T03:04:05\n",
         {"12": JobState("waiting", "waits: Reservation a|b is full, or so, expected to start 2026-01-02T03:04:05")}),
        ("12|PENDING|its burst buffer is\nfull|N/A\n14|RUNNING|None|x\n",
         {"12": JobState("waiting", "waits: its burst buffer is"), "14": JobState("running")}),
        ("12|PENDING|ReqNodeNotAvail, UnavailableNodes:node[1-2]|N/A\n",
         {"12": JobState("waiting", "waits: ReqNodeNotAvail, UnavailableNodes:node[1-2]")}),
        ("12_[3-5]|PENDING|JobHeldUser|N/A\n",
         dict.fromkeys(["12_3", "12_4", "12_5"],
                       JobState("waiting", "waits: JobHeldUser: held: 'scontrol release 12' lets it run"))),
        ("12_3|SPECIAL_EXIT|None|N/A\n",
         {"12_3": JobState("waiting", "waits: SPECIAL_EXIT: held: 'scontrol release 12_3' lets it run")}),
        ("12|REVOKED|None|N/A\n",
         {"12": JobState("unknown", "Slurm says REVOKED: another cluster of the federation has taken the job: ask for "
                         "its status there")}),
        ("12\n", {"12": JobState("unknown", "Slurm says ")}),
        ("slurm_load_jobs: warning\n\n", {}),
    ],
)  # fmt: skip
def test_squeue(text: str, found: dict[str, JobState]) -> None:
    assert parse_squeue(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("No jobs in the system\n", {}),
        ("JobId=12 JobName=a b UserId=u(1) JobState=FAILED Reason=NonZeroExitCode Dependency=(null) ExitCode=1:0\n",
         {"12": JobState("failed", "Slurm says FAILED (NonZeroExitCode)")}),
        # 22.05: two tasks of an array that ran, and the rest, cancelled before it started, in one line
        ("JobId=14 ArrayJobId=12 ArrayTaskId=1 JobName=x JobState=COMPLETED Reason=None Dependency=(null)\n"
         "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=x JobState=NODE_FAIL Reason=NodeDown Dependency=(null)\n"
         "JobId=12 ArrayJobId=12 ArrayTaskId=2-3,5%2 JobName=x JobState=CANCELLED Reason=JobHeldUser\n",
         {"12_1": JobState("completed", "Slurm says COMPLETED"),
          "12_0": JobState("node_failed", "Slurm says NODE_FAIL (NodeDown)"),
          **dict.fromkeys(["12_2", "12_3", "12_5"], JobState("cancelled", "Slurm says CANCELLED (JobHeldUser)"))}),
        # 23.02 and later name a failed node in between
        ("JobId=12 JobName=x JobState=NODE_FAIL Reason=NodeDown FailedNode=n1 Dependency=(null)\n",
         {"12": JobState("node_failed", "Slurm says NODE_FAIL (NodeDown)")}),
    ],
)  # fmt: skip
def test_scontrol(text: str, found: dict[str, JobState]) -> None:
    assert parse_scontrol(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("12|CANCELLED by 1000\n", {"12": JobState("cancelled", "Slurm says CANCELLED")}),
        ("12|OUT_OF_MEMORY\n", {"12": JobState("failed", "Slurm says OUT_OF_MEMORY")}),
        ("12_0|TIMEOUT\n12_[1-2%1]|PENDING\n",
         {"12_0": JobState("timeout", "Slurm says TIMEOUT"),
          **dict.fromkeys(["12_1", "12_2"], JobState("waiting", "Slurm says PENDING"))}),
        ("12|COMPLETED\n12.batch|COMPLETED\n12.extern|COMPLETED\n",
         {"12": JobState("completed", "Slurm says COMPLETED")}),
        ("12|\n", {}),
    ],
)  # fmt: skip
def test_sacct(text: str, found: dict[str, JobState]) -> None:
    assert parse_sacct(text) == found


class Clients:
    """Slurm's clients, each with one answer, or an error; remembers what was asked."""

    def __init__(self, **answers: str | ClientError) -> None:
        self.answers, self.asked = answers, list[list[str]]()

    def __call__(self, argv: Sequence[str]) -> str:
        self.asked.append(list(argv))
        answer = self.answers[argv[0]]
        if isinstance(answer, ClientError):
            raise answer
        return answer


def slurm(monkeypatch: pytest.MonkeyPatch, **answers: str | ClientError) -> Clients:
    clients = Clients(**{"squeue": "", "scontrol": NO_SUCH_JOB, "sacct": NO_ACCOUNTING, **answers})
    for module in ("slurm", "polling"):
        monkeypatch.setattr(f"vllm_hpc.schedulers.{module}.call_client", clients)
    return clients


def phases(monkeypatch: pytest.MonkeyPatch, *tasks: str, **answers: str | ClientError) -> dict[str, str]:
    clients = slurm(monkeypatch, **answers)
    return {task: seen.phase for task, seen in query(JobFolder("job"), "12", tasks, clients).items()}


def test_the_first_that_knows_a_task_is_believed_and_the_next_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = slurm(monkeypatch, squeue="12|RUNNING|None|x\n", scontrol="JobId=12 JobState=FAILED\n")
    assert query(JobFolder("job"), "12", (), clients)["12"] == JobState("running")
    assert [argv[0] for argv in clients.asked] == ["squeue"]


@pytest.mark.parametrize("sacct", [NO_ACCOUNTING, ClientMissingError("sacct was not found"), ""], ids=str)
def test_a_job_that_nobody_knows_is_forgotten(monkeypatch: pytest.MonkeyPatch, sacct: str | ClientError) -> None:
    assert phases(monkeypatch, squeue=NO_SUCH_JOB, sacct=sacct) == {"12": "forgotten"}


@pytest.mark.parametrize("error", [HANGS, DATABASE_DOWN], ids=str)
def test_accounting_that_does_not_answer_has_forgotten_nothing(
    monkeypatch: pytest.MonkeyPatch, error: ClientError
) -> None:
    clients = slurm(monkeypatch, sacct=error)
    assert query(JobFolder("job"), "12", (), clients) == {"12": JobState("unknown", str(error))}


@pytest.mark.parametrize("client", ["squeue", "scontrol"])
def test_a_controller_that_does_not_answer_leaves_all_that_is_missing_unknown(
    monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    answers: dict[str, str | ClientError] = {"squeue": "12_0|RUNNING|None|x\n", client: HANGS}
    found = phases(monkeypatch, "12_0", "12_1", **answers)
    assert found == {"12_0": "unknown" if client == "squeue" else "running", "12_1": "unknown"}


def test_accounting_is_asked_for_the_tasks_that_nobody_else_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = phases(
        monkeypatch, "12_0", "12_1", "12_2",
        squeue="12_2|PENDING|Resources|N/A\n",
        scontrol="JobId=13 ArrayJobId=12 ArrayTaskId=1 JobState=TIMEOUT Reason=TimeLimit\n",
        sacct="12_0|OUT_OF_MEMORY\n12_1|RUNNING\n12_[2]|PENDING\n",
    )  # fmt: skip
    assert found == {"12_0": "failed", "12_1": "timeout", "12_2": "waiting"}


def test_a_silent_accounting_leaves_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job failed; it had been cancelled in vain. While sacct hangs, neither is known."""
    folder = make_job(tmp_path / "job", scheduler="slurm")
    start(folder)
    end(folder, 143, "TERM")
    folder.cancelled.touch()
    slurm(monkeypatch, sacct=HANGS)
    status = read_status(folder)
    assert (status.state, status.reason) == ("UNKNOWN", str(HANGS))
    assert not folder.verdict(0).exists()


ARRAYS: dict[str, tuple[str, str | ClientError, str]] = {
    # squeue, sacct -> the job's state; task 0 has ended well, by its own record
    "one runs": ("77_1|RUNNING|None|x\n77_2|PENDING|Priority|N/A\n", "", "RUNNING"),
    "one waits": ("77_2|PENDING|Priority|N/A\n", "77_1|FAILED\n", "PENDING"),
    "one is ending": ("77_1|COMPLETING|None|x\n", "77_2|FAILED\n", "RUNNING"),
    "accounting hangs": ("", HANGS, "UNKNOWN"),
    "accounting hangs, and one runs": ("77_1|RUNNING|None|x\n", HANGS, "RUNNING"),
    "one is forgotten": ("", "77_1|FAILED\n", "UNKNOWN"),
    "revoked": ("77_1|REVOKED|None|x\n", "77_2|FAILED\n", "UNKNOWN"),
    "preempted and failed": ("", "77_1|PREEMPTED\n77_2|FAILED\n", "PREEMPTED"),
    "failed and timed out": ("", "77_1|TIMEOUT\n77_2|NODE_FAIL\n", "FAILED"),
    "timed out and cancelled": ("", "77_[1]|CANCELLED by 1000\n77_2|TIMEOUT\n", "TIMEOUT"),
    "cancelled": ("", "77_[1-2]|CANCELLED by 1000\n", "CANCELLED"),
}


@pytest.mark.parametrize(("squeue", "sacct", "state"), ARRAYS.values(), ids=ARRAYS)
def test_the_state_of_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str, sacct: str | ClientError, state: str
) -> None:
    folder = make_array(tmp_path / "job", tasks=3)
    start(folder, attempt=1, task=0)
    end(folder)
    progress(folder, done=1)
    slurm(monkeypatch, squeue=squeue, sacct=sacct)
    assert read_status(folder).state == state
    assert folder.verdict(1).exists() == (sacct not in ("", HANGS) and "77_1|" not in squeue)
    slurm(monkeypatch, squeue=HANGS)
    assert read_status(folder).state == (state if state in FINAL else "UNKNOWN")


def test_a_job_is_looked_for_and_cancelled_on_the_cluster_that_took_it(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho '12;alpha'\n")
    shown = json.loads(run_cli("submit", "model", "--scheduler", "slurm", "--name", "run", "--json").out)
    assert shown["job_id"] == "12"
    clients = slurm(monkeypatch, sacct="", scancel="")
    assert json.loads(run_cli("status", "12", "--json").out)["job_id"] == "12"
    assert [argv[:2] for argv in clients.asked] == [
        [client, "--clusters=alpha"] for client in ("squeue", "scontrol", "sacct")
    ]
    clients.asked.clear()
    run_cli("cancel", "run")
    assert ["scancel", "--clusters=alpha", "--", "12"] in clients.asked
    assert all("--clusters=alpha" in argv for argv in clients.asked)


@pytest.mark.parametrize("output", ["12\n", "12;\n", "sbatch: lua: hello\n12\n"])
def test_without_clusters_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    folder = make_job(tmp_path / "job", scheduler="slurm")
    monkeypatch.setattr("vllm_hpc.schedulers.scheduler.call_client", lambda *arguments: output)
    (folder.path / "script.sbatch").write_text("#!/bin/sh\n")
    assert SCHEDULER.submit(folder.path / "script.sbatch") == "12"
    clients = slurm(monkeypatch)
    query(folder, "12", (), clients)
    assert not [word for argv in clients.asked for word in argv if "cluster" in word]


def live_jobs(folder: Path, count: int) -> None:
    for number in range(count):
        make_job(folder / f"job-{number}", scheduler="slurm")


@pytest.mark.parametrize("command", ["list", "status"])
@pytest.mark.parametrize("silent", ["squeue", "sacct"])
def test_a_list_asks_a_silent_client_once(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, silent: str
) -> None:
    live_jobs(desk / "runs", 5)
    clients = slurm(monkeypatch, **{silent: HANGS})
    listed = json.loads(run_cli(command, "--json").out)
    assert {(job["state"], job["reason"]) for job in listed} == {("UNKNOWN", str(HANGS))}
    assert [argv[0] for argv in clients.asked].count(silent) == 1


def test_a_list_asks_a_client_again_that_only_refused(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_jobs(desk / "runs", 3)
    clients = slurm(monkeypatch, squeue=NO_SUCH_JOB)
    run_cli("list")
    assert [argv[0] for argv in clients.asked].count("squeue") == 1 + 3, "for all at once, then for each alone"
    monkeypatch.setattr("vllm_hpc.schedulers.polling._SLOW_S", 0.0)  # a controller that is down says so after a while
    clients = slurm(monkeypatch, squeue=ClientError("squeue refused: Unable to contact slurm controller"))
    run_cli("list")
    assert [argv[0] for argv in clients.asked] == ["squeue"]


def test_who_follows_a_log_reads_the_folder_often_and_asks_slurm_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path / "job", scheduler="slurm")
    start(folder)
    now = 1000.0
    monkeypatch.setattr("vllm_hpc.schedulers.polling.time.monotonic", lambda: now)
    clients = slurm(monkeypatch, squeue="77|RUNNING|None|x\n")
    write_json(folder.submitted, Submitted("slurm", "77", 0.0))
    statuses = Job(folder.path).statuses(ask_every_s=30)
    for _ in range(59):
        assert next(statuses)[0].state == "RUNNING"
        now += 0.5
    assert len(clients.asked) == 1
    now += 1
    next(statuses)
    assert len(clients.asked) == 2
    end(folder, 143, "TERM")  # what became of it, only Slurm knows
    clients.answers["squeue"] = "77|CANCELLED|None|x\n"
    now += 5
    assert next(statuses)[0].state == "CANCELLED"


def test_logs_follow_asks_slurm_seldom(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(desk / "runs" / "run", scheduler="slurm")
    start(folder)
    clients = slurm(monkeypatch, squeue="77|RUNNING|None|x\n")
    write_json(folder.submitted, Submitted("slurm", "77", 0.0))
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        with folder.scheduler_log.open("a") as log:
            log.write(f"{len(pauses)}\n")
        if len(pauses) == 20:
            end(folder)

    monkeypatch.setattr("vllm_hpc.cli.follow_log.time.sleep", sleep)
    assert run_cli("logs", "run", "--follow").out.split() == [str(number) for number in range(1, 21)]
    assert max(pauses) <= 0.5
    assert len(clients.asked) == 1


class Many:
    """Slurm's clients as slurm-wlm 22.05.8 answers for many jobs: those that they know; one unknown id is an error."""

    def __init__(self, squeue: dict[str, str], sacct: dict[str, str] | ClientError | None = None) -> None:
        self.squeue, self.sacct, self.asked = squeue, sacct or {}, list[list[str]]()

    def __call__(self, argv: list[str]) -> str:
        self.asked.append(argv)
        known = self.sacct if argv[0] == "sacct" else self.squeue
        if isinstance(known, ClientError):
            raise known
        ids = argv[-1] if argv[0] == "scontrol" else next(word for word in argv if word.startswith("--jobs="))
        wanted = ids.removeprefix("--jobs=").split(",")
        if argv[0] == "scontrol" or (argv[0] == "squeue" and len(wanted) == 1 and wanted[0] not in known):
            raise NO_SUCH_JOB
        return "".join(known.get(one, "") for one in wanted)


def jobs_with_ids(folder: Path, ids: Sequence[int], cluster: str = "") -> None:
    for number in ids:
        job = make_job(folder / f"job-{number}", scheduler="slurm")
        write_json(job.submitted, Submitted("slurm", str(number), 0.0))
        if cluster:
            write_json(job.cluster, Cluster(cluster))


def listed(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, clients: Many, command: str = "list") -> dict[str, str]:
    for module in ("slurm", "polling"):
        monkeypatch.setattr(f"vllm_hpc.schedulers.{module}.call_client", clients)
    found = json.loads(run_cli(command, "--json").out)
    return {job["job_id"]: job["state"] for job in found}


@pytest.mark.inputs
@pytest.mark.parametrize("command", ["list", "status"])
def test_a_list_asks_once_for_all_jobs(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Fifty unfinished jobs: some run, some have just ended, some are known to accounting alone, one to nobody."""
    jobs_with_ids(desk / "runs", range(50))
    lines = {str(n): f"{n}|{'RUNNING' if n % 2 else 'FAILED'}|None|N/A\n" for n in range(40)}
    clients = Many(lines, {str(n): f"{n}|TIMEOUT\n" for n in range(40, 49)})
    found = listed(run_cli, monkeypatch, clients, command)
    assert [argv[0] for argv in clients.asked] == ["squeue", "sacct"]
    assert "--states=all" in clients.asked[0]
    assert clients.asked[1][-1] == "--jobs=" + ",".join(map(str, range(40, 50)))
    assert (found["1"], found["2"], found["48"], found["49"]) == ("RUNNING", "FAILED", "TIMEOUT", "UNKNOWN")
    clients.asked.clear()
    listed(run_cli, monkeypatch, clients, command)
    assert clients.asked[0][-2] == "--jobs=" + ",".join(str(n) for n in range(1, 40, 2)) + ",49", (
        "the others have ended"
    )


@pytest.mark.inputs
def test_a_list_asks_each_cluster_and_in_portions(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.slurm._AT_ONCE", 3)
    jobs_with_ids(desk / "runs", range(7))
    jobs_with_ids(desk / "runs", range(10, 12), "beta")
    known = {str(n): f"{n}|PENDING|Priority|N/A\n" for n in (*range(7), 10, 11)}
    clients = Many(known)
    assert set(listed(run_cli, monkeypatch, clients).values()) == {"PENDING"}
    ids = [argv[-2].removeprefix("--jobs=") for argv in clients.asked]
    assert ids == ["0,1,2", "3,4,5", "6", "10,11"]
    assert [word for word in clients.asked[3] if "cluster" in word] == ["--clusters=beta"]
    assert "--states=all" not in clients.asked[2], "a single one is asked for as 'status JOB' does"


@pytest.mark.inputs
def test_an_array_in_a_list_has_all_its_tasks(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    make_array(desk / "runs" / "array", tasks=4)
    jobs_with_ids(desk / "runs", [1])
    # As recorded: two tasks of four, and the rest, cancelled before it began
    tasks = "77_0|COMPLETED|None|x\n77_1|RUNNING|None|x\n77_2|CANCELLED|JobHeldUser|x\n77_3|CANCELLED|JobHeldUser|x\n"
    clients = Many({"77": tasks, "1": "1|RUNNING|None|x\n"})
    assert listed(run_cli, monkeypatch, clients) == {"77": "RUNNING", "1": "RUNNING"}
    assert len(clients.asked) == 1


@pytest.mark.inputs
def test_an_id_that_spoils_a_list_does_not_make_the_others_forgotten(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_with_ids(desk / "runs", range(3))
    write_json(JobFolder(desk / "runs" / "job-2").submitted, Submitted("slurm", "x2", 0.0))

    class Strict(Many):
        def __call__(self, argv: list[str]) -> str:
            if argv[0] == "squeue" and "x2" in argv[-2]:
                self.asked.append(argv)
                raise ClientError("squeue refused: Invalid job id: x2")  # slurm-wlm 22.05.8
            return super().__call__(argv)

    clients = Strict({str(n): f"{n}|RUNNING|None|x\n" for n in range(2)})
    assert listed(run_cli, monkeypatch, clients) == {"0": "RUNNING", "1": "RUNNING", "x2": "UNKNOWN"}


@pytest.mark.inputs
@pytest.mark.parametrize("silent", ["squeue", "sacct"])
def test_a_list_leaves_unknown_what_a_silent_client_would_know(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    jobs_with_ids(desk / "runs", range(3))
    clients = Many({"0": "0|RUNNING|None|x\n"}, HANGS)
    if silent == "squeue":
        monkeypatch.setattr(clients, "squeue", HANGS)
    states = listed(run_cli, monkeypatch, clients)
    assert states == {"0": "RUNNING" if silent == "sacct" else "UNKNOWN", "1": "UNKNOWN", "2": "UNKNOWN"}
    assert not any((desk / "runs" / f"job-{n}" / "state" / "verdict-0.json").exists() for n in range(3))
    assert len(clients.asked) == (2 if silent == "sacct" else 1)


@pytest.mark.inputs
def test_a_scheduler_that_cannot_be_asked_so_is_asked_for_each_job(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another package, without the hook; jobs of two schedulers in one list."""
    jobs_with_ids(desk / "runs", range(3))
    asked: list[str] = []

    def query(job: JobFolder, job_id: str, tasks: Sequence[str], ask: object) -> dict[str, JobState]:
        asked.append(job_id)
        return {job_id: JobState("running")}

    old = replace(SCHEDULER, query=query, query_all=None)
    monkeypatch.setattr(
        "vllm_hpc.schedulers.polling.installed_scheduler", lambda name: old if name == "slurm" else None
    )
    make_job(desk / "runs" / "other", scheduler="gone")
    found = {job["job_id"]: job["state"] for job in json.loads(run_cli("list", "--json").out)}
    assert found == {"0": "RUNNING", "1": "RUNNING", "2": "RUNNING", "77-1000": "UNKNOWN"}
    assert sorted(asked) == ["0", "1", "2"]


# -- a node that died ------------------------------------------------------------------------------------------------
NODE_FAIL = "JobId=77 JobName=x JobState=NODE_FAIL Reason=NodeDown\n"
FAILED_NODE = ("FAILED", "Slurm says NODE_FAIL (NodeDown)")


def node_job(tmp_path: Path, max_requeues: int) -> JobFolder:
    folder = make_job(tmp_path / "job", scheduler="slurm")
    request = msgspec.structs.replace(folder.job().request, max_requeues=max_requeues)
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), request=request))
    start(folder)
    return folder


def seen(monkeypatch: pytest.MonkeyPatch, folder: JobFolder, **answers: str | ClientError) -> tuple[str, str]:
    slurm(monkeypatch, **answers)
    status = read_status(folder)
    return status.state, status.reason


def test_a_job_that_may_be_queued_again_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = node_job(tmp_path, 4)
    state, reason = seen(monkeypatch, folder, squeue="77|NODE_FAIL|NodeDown|x\n")
    assert (state, "may queue it again" in reason) == ("UNKNOWN", True)
    assert seen(monkeypatch, folder, squeue="77|PENDING|BeginTime|N/A\n")[0] == "PENDING"
    assert seen(monkeypatch, folder, squeue="77|RUNNING|None|x\n")[0] == "RUNNING"


@pytest.mark.parametrize("sacct", ["77|NODE_FAIL\n", NO_ACCOUNTING], ids=["accounting", "none"])
def test_once_slurm_no_longer_has_it_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sacct: str | ClientError
) -> None:
    folder = node_job(tmp_path, 4)
    assert seen(monkeypatch, folder, scontrol=NODE_FAIL)[0] == "UNKNOWN"
    assert seen(monkeypatch, folder, sacct=sacct)[0] == "FAILED"
    assert "NODE_FAIL" in seen(monkeypatch, folder, squeue=HANGS)[1]  # it is not asked any more


def test_without_requeues_a_nodes_failure_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = node_job(tmp_path, 0)
    assert seen(monkeypatch, folder, scontrol=NODE_FAIL) == FAILED_NODE
    assert seen(monkeypatch, folder, squeue=HANGS) == FAILED_NODE
