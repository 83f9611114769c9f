"""What qstat prints of several jobs, and how few calls a list of jobs costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import layout, make_job
from tests.schedulers.test_pbs_answers import HANGS, RECORDED
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Submitted, write_json
from vllm_hpc.schedulers.client import Answer, ClientError
from vllm_hpc.schedulers.pbs import SCHEDULER, many
from vllm_hpc.schedulers.scheduler import Question
from vllm_hpc.spec.layout import Layout

pytestmark = pytest.mark.inputs

# As OpenPBS 23.06.06 described them (tests/pbs/recorded): job -> file.
JOBS = {
    "37.pbshead": "running", "4.pbshead": "held", "6.pbshead": "impossible", "8.pbshead": "failed",
    "11.pbshead": "timeout", "9[].pbshead": "array_running",
}  # fmt: skip
PHASES = {
    "37.pbshead": "running", "4.pbshead": "waiting", "6.pbshead": "waiting", "8.pbshead": "failed",
    "11.pbshead": "timeout",
}  # fmt: skip
ENDED = {"8.pbshead", "11.pbshead"}


class Qstat:
    """qstat of several ids (src/cmds/qstat.c): it prints what it finds, and exits with the code of the last failure."""

    def __init__(self, has_history: bool = True) -> None:
        self.has_history, self.asked = has_history, list[list[str]]()

    def __call__(self, argv: list[str]) -> str:
        self.asked.append(argv)
        ids = argv[argv.index("json") + 1 :]
        assert all(("[" in job_id) == ("-t" in argv) for job_id in ids)
        jobs: dict[str, Any] = {}
        failed: list[tuple[int, str]] = []
        beside: list[str] = []
        for job_id in ids:
            if "-x" in argv and not self.has_history:
                beside.append(f"qstat: PBS is not configured to maintain job history {job_id}")  # exit code 0
                continue
            if job_id not in JOBS or (job_id in ENDED and not self.has_history):
                failed.append((153, f"qstat: Unknown Job Id {job_id}"))
                continue
            jobs |= json.loads((RECORDED / f"{JOBS[job_id]}.json").read_text())["Jobs"]
        answer = json.dumps({"pbs_version": "23.06.06", **({"Jobs": jobs} if jobs else {})})
        if failed:
            error = ClientError(f"qstat refused: {failed[-1][1]}")
            error.code, error.output, error.err = failed[-1][0], answer, "\n".join(words for _, words in failed)
            raise error
        printed = Answer(answer)
        printed.err = "\n".join(beside)
        return printed


def question(job_id: str, tasks: int = 0) -> Question:
    return Question(JobFolder("job"), job_id, tuple(f"{job_id}_{task}" for task in range(tasks)) or (job_id,))


def phases(qstat: Qstat, *questions: Question) -> list[dict[str, str]]:
    assert SCHEDULER.query_all is not None
    found = SCHEDULER.query_all(questions, qstat)
    return [{task: state.phase for task, state in one.items()} for one in found]


def test_several_jobs_cost_one_call() -> None:
    qstat = Qstat()
    assert phases(qstat, *map(question, PHASES)) == [{job_id: phase} for job_id, phase in PHASES.items()]
    assert qstat.asked == [["qstat", "-x", "-f", "-F", "json", *PHASES]]


def test_an_unknown_id_hides_no_other() -> None:
    qstat = Qstat()
    found = phases(qstat, question("1.pbshead"), *map(question, PHASES), question("2.pbshead"))
    assert found == [
        {"1.pbshead": "forgotten"}, *({job_id: phase} for job_id, phase in PHASES.items()), {"2.pbshead": "forgotten"},
    ]  # fmt: skip
    assert len(qstat.asked) == 1


def test_a_server_without_history_is_asked_without_x() -> None:
    qstat = Qstat(has_history=False)
    found = phases(qstat, *map(question, PHASES))
    assert found == [{job_id: "forgotten" if job_id in ENDED else phase} for job_id, phase in PHASES.items()]
    assert [("-x" in argv) for argv in qstat.asked] == [True, False]


def test_jobs_that_a_server_with_a_history_forgot_are_not_asked_for_twice() -> None:
    qstat = Qstat()
    found = phases(qstat, question("1.pbshead"), question("2.pbshead"))
    assert found == [{"1.pbshead": "forgotten"}, {"2.pbshead": "forgotten"}]
    assert len(qstat.asked) == 1


def test_arrays_are_asked_with_their_tasks() -> None:
    qstat = Qstat()
    found = phases(qstat, question("9[].pbshead", 4), question("37.pbshead"), question("3[].pbshead", 2), question("x"))
    tasks = {"9[].pbshead_0": "running", "9[].pbshead_1": "running", "9[].pbshead_2": "waiting"}
    assert found[0] == {**tasks, "9[].pbshead_3": "waiting"}
    assert found[2] == dict.fromkeys(["3[].pbshead_0", "3[].pbshead_1"], "forgotten")
    assert [("-t" in argv) for argv in qstat.asked] == [False, True]


@pytest.mark.parametrize("answer", ["", "not JSON", "{}", '{"Jobs": {"37.pbshead": {"job_state": "?"}}}'])
def test_what_is_not_described_is_asked_for_alone(answer: str) -> None:
    qstat = Qstat()

    def ask(argv: list[str]) -> str:
        return answer if len(argv[argv.index("json") :]) > 2 else qstat(argv)

    assert SCHEDULER.query_all is not None
    found = SCHEDULER.query_all([question("37.pbshead"), question("4.pbshead")], ask)
    assert [one.phase for states in found for one in states.values()] == ["running", "waiting"]
    assert [argv[-1] for argv in qstat.asked] == ["37.pbshead", "4.pbshead"]


@pytest.mark.parametrize("error", [HANGS, ClientError("qstat refused: cannot connect to server pbshead (errno=111)")])
def test_a_server_that_does_not_answer_is_asked_once(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, error: ClientError
) -> None:
    asked: list[list[str]] = []

    def ask(argv: list[str]) -> str:
        asked.append(argv)
        raise error

    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", ask)
    for number in range(50):
        folder = make_job(desk / "runs" / f"job-{number}", scheduler="pbs")
        write_json(folder.submitted, Submitted("pbs", f"{number}.pbshead", 0.0))
    listed = json.loads(run_cli("list", "--json").out)
    assert {(job["state"], job["reason"]) for job in listed} == {("UNKNOWN", str(error))}
    assert len(asked) == 1


def test_fifty_unfinished_jobs_cost_two_calls(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    qstat = Qstat()
    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", qstat)
    for number, job_id in enumerate([*JOBS] * 9):
        shape = Layout(1, 1, 1, 1, 1, 4, is_array=True) if "[" in job_id else layout()
        folder = make_job(desk / "runs" / f"job-{number}", scheduler="pbs", shape=shape)
        write_json(folder.submitted, Submitted("pbs", job_id, 0.0))
    states = {job["job_id"]: job["state"] for job in json.loads(run_cli("list", "--json").out)}
    assert states == {
        "37.pbshead": "RUNNING", "4.pbshead": "PENDING", "6.pbshead": "PENDING", "8.pbshead": "FAILED",
        "11.pbshead": "TIMEOUT", "9[].pbshead": "RUNNING",
    }  # fmt: skip
    assert len(qstat.asked) == 2


def test_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_AT_ONCE", 2)
    qstat = Qstat()
    assert phases(qstat, *map(question, PHASES)) == [{job_id: phase} for job_id, phase in PHASES.items()]
    assert [len(argv[5:]) for argv in qstat.asked] == [2, 2, 1]
