"""What PBS's clients print, recorded on OpenPBS 23.06.06, and what is made of it: by every task, and never a guess."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, progress, start
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import submission_of
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobs.find import find_job
from vllm_hpc.jobs.status import read_status
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.pbs import SCHEDULER, query
from vllm_hpc.schedulers.pbs.qstat import parse_qstat
from vllm_hpc.schedulers.pbs.reasons import waiting_reason
from vllm_hpc.schedulers.scheduler import JobState, find_scheduler
from vllm_hpc.spec.errors import SubmitError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.layout import Layout

RECORDED = Path(__file__).parents[1] / "pbs" / "recorded"
HANGS = ClientTimeoutError("qstat did not answer within 15 s: is the controller up?")


def refused(words: str, code: int) -> ClientError:
    error = ClientError(f"qstat refused: {words}")
    error.code = code
    return error


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.json").read_text()


# file -> job, phase, and a word of the reason
ANSWERS = {
    "running": ("37.pbshead", "running", ""),
    "finished": ("37.pbshead", "completed", "Exit_status 0"),
    "held": ("4.pbshead", "waiting", "held"),
    "depend": ("7.pbshead", "waiting", "held until afterok:4.pbshead@pbshead"),
    "waiting_time": ("5.pbshead", "waiting", "waits until Sun Nov 22 22:54:00 2026"),
    "impossible": (
        "6.pbshead",
        "waiting",
        "Not enough total nodes available: cannot start as requested: lower --nodes",
    ),
    "deleted_queued": ("4.pbshead", "cancelled", "before it ran"),
    "deleting": ("10.pbshead", "running", ""),
    "deleted_running": ("10.pbshead", "cancelled", "it was deleted"),
    "failed": ("8.pbshead", "failed", "Exit_status 1"),
    "timeout": ("11.pbshead", "timeout", "the walltime was reached"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_pbs_said_of_a_job(name: str) -> None:
    job, phase, words = ANSWERS[name]
    seen = parse_qstat(recorded(name))[job]
    assert seen.phase == phase
    assert words in seen.reason
    assert seen.reason or phase == "running"


def test_what_pbs_said_of_an_array() -> None:
    found = parse_qstat(recorded("array_running"))
    assert {name: seen.phase for name, seen in found.items()} == {
        "9[].pbshead": "running", "9[].pbshead_0": "running", "9[].pbshead_1": "running",
        "9[].pbshead_2": "waiting", "9[].pbshead_3": "waiting",
    }  # fmt: skip
    assert found["9[].pbshead_2"].reason == "waits"
    assert {seen.phase for seen in parse_qstat(recorded("array_end_t")).values()} == {"completed"}


def job_json(**fields: Any) -> str:
    return json.dumps({"pbs_version": "23.06.06", "Jobs": {"12.server": fields}})


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"job_state": "Q", "Exit_status": -20}, "waiting"),  # its first host died: it runs again
        ({"job_state": "T"}, "waiting"),
        ({"job_state": "E", "Exit_status": 0}, "running"),
        ({"job_state": "S"}, "running"),
        ({"job_state": "B"}, "running"),
        ({"job_state": "X", "Exit_status": 0}, "completed"),
        ({"job_state": "X"}, "cancelled"),
        ({"job_state": "F", "Exit_status": 265}, "failed"),
        ({"job_state": "F", "Exit_status": 143}, "failed"),
        ({"job_state": "F", "Exit_status": -27}, "failed"),
        ({"job_state": "F", "Exit_status": "0"}, "unknown"),
        ({"job_state": "M"}, "unknown"),
        ({"job_state": "NEW"}, "unknown"),
        ({"job_state": 7}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_every_state(fields: dict[str, Any], phase: str) -> None:
    assert parse_qstat(job_json(**fields))["12.server"].phase == phase


@pytest.mark.parametrize("text", ["[]", "7", '{"Jobs": 3}', '{"Jobs": {"12.server": null}}', recorded("unknown")])
def test_what_is_no_description_of_a_job_leaves_it_unknown(text: str) -> None:
    seen = query(JobFolder("job"), "12.server", (), lambda argv: text)
    assert seen == {"12.server": JobState("unknown", "qstat did not describe the job")}


def test_control_characters_in_a_text_do_no_harm() -> None:
    text = '{"Jobs": {"12.server": {"job_state": "R", "comment": "a\tb\x01"}}}'
    assert parse_qstat(text)["12.server"].phase == "running"


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (refused("Unknown Job Id 12.server", 153), "forgotten"),
        (refused("cannot connect to server head (errno=111)", 255), "unknown"),
        (refused("anything", 35), "unknown"),
        (HANGS, "unknown"),
    ],
)
def test_a_qstat_that_fails(error: ClientError, phase: str) -> None:
    def ask(argv: list[str]) -> str:
        raise error

    assert query(JobFolder("job"), "12.server", (), ask)["12.server"].phase == phase
    assert {one.phase for one in query(JobFolder("job"), "12[].server", ["12[].server_0"], ask).values()} == {phase}


@pytest.mark.parametrize("text", ["", "{"])
def test_what_is_no_json_leaves_it_unknown_and_is_said(text: str) -> None:
    seen = query(JobFolder("job"), "12.server", (), lambda argv: text)
    assert seen == {"12.server": JobState("unknown", "qstat's answer is not JSON")}


def test_a_task_that_pbs_does_not_name_is_as_its_array() -> None:
    """Of one that was deleted before it began, the parent is all there is."""
    text = '{"Jobs": {"12[].server": {"job_state": "F"}, "12[1].server": {"job_state": "X", "Exit_status": 0}}}'
    argvs: list[Sequence[str]] = []

    def ask(argv: list[str]) -> str:
        argvs.append(argv)
        return text

    found = query(JobFolder("job"), "12[].server", ["12[].server_0", "12[].server_1"], ask)
    assert [found[f"12[].server_{task}"].phase for task in (0, 1)] == ["cancelled", "completed"]
    assert "-t" in argvs[0]


@pytest.mark.parametrize(
    ("printed", "job_id"),
    [
        ("12.head\n", "12.head"),
        ("12[].a.b-c.org\n", "12[].a.b-c.org"),
        ("hello\n3.x:15001\n", "3.x:15001"),
        ("cost:\n2.50\n12.head\n", "12.head"),
    ],
)
def test_the_id_that_qsub_prints(printed: str, job_id: str) -> None:
    match = SCHEDULER.id_pattern.search(printed)
    assert match is not None
    assert match[1] == job_id


@pytest.mark.parametrize(
    ("job_id", "submission"),
    [("77", "77"), ("77_3", "77"), ("12[].a_3", "12[].a"), ("12.a_3", "12.a_3"), ("77-1000", "77-1000")],
)
def test_a_task_belongs_to_a_submission(job_id: str, submission: str) -> None:
    assert submission_of(job_id) == submission


@pytest.mark.parametrize("name", ["12.pbshead", "12[].pbshead", "12[3].pbshead", "12[]", "12[3]"])
def test_a_name_that_reads_like_an_id_is_refused(name: str) -> None:
    with pytest.raises(Exception, match="looks like a scheduler's job id"):
        make_request({"model": "demo", "name": name})


def pbs_array(path: Path) -> JobFolder:
    folder = make_job(path, 3, "pbs", Layout(1, 1, 1, 1, 1, 2, is_array=True))
    write_json(folder.submitted, Submitted("pbs", "12[].head", 0.0, ("11[].head",)))
    return folder


@pytest.mark.parametrize("text", ["12[].head", "12[]", "12[1].head", "12[1]", "11[].head"])
def test_a_job_is_found_by_its_ids(tmp_path: Path, text: str) -> None:
    folder = pbs_array(tmp_path / "run")
    assert find_job(text, str(tmp_path)).path == folder.path


def seen(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", lambda argv: text)


def test_a_job_that_was_submitted_again_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path / "job", scheduler="pbs")
    write_json(folder.submitted, Submitted("pbs", "12.server", 0.0))
    start(folder)
    end(folder, 0, "requeue")
    progress(folder, done=1)
    write_json(folder.submitted, Submitted("pbs", "12.server", 0.0, ("77.server",)))
    seen(monkeypatch, job_json(job_state="Q"))
    status = read_status(folder)
    assert (status.state, status.attempts) == ("PENDING", 1)


def test_a_dependency_that_failed_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path / "job", scheduler="pbs")
    write_json(folder.submitted, Submitted("pbs", "12.server", 0.0))
    seen(monkeypatch, job_json(job_state="F"))
    assert read_status(folder).state == "CANCELLED"


def client(desk: Path, name: str, code: str) -> None:
    path = desk / "bin" / name
    version = '[ "$1" = --version ] && exec echo pbs_version = 23.06.06\n' if "_version" not in code else ""
    path.write_text(f"#!/bin/sh\n{version if name == 'qsub' and 'slurm' not in code else ''}{code}\n")
    path.chmod(0o755)


def test_auto_finds_pbs_where_qsub_is_its_own(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "bin" / "sbatch").unlink()
    monkeypatch.setenv("PATH", f"{desk / 'bin'}:/bin")
    monkeypatch.setattr(
        "shutil.which", lambda name: str(desk / "bin" / name) if (desk / "bin" / name).exists() else None
    )
    assert find_scheduler() == ("local", "sbatch was not found, qsub was not found")
    client(desk, "qsub", "echo 'slurm-wlm 22.05'")  # Slurm's wrapper
    assert find_scheduler()[0] == "local"
    client(desk, "qsub", "echo 'pbs_version = 23.06.06'")
    assert find_scheduler() == ("pbs", f"{desk / 'bin' / 'qsub'} answers: pbs_version = 23.06.06")
    client(desk, "sbatch", "echo slurm-wlm 22.05.8")
    assert find_scheduler()[0] == "slurm"


# qsub exits with the error's number of src/include/pbs_error.h (OpenPBS 23.06.06, do_connect and do_submit of
# src/cmds/qsub.c), of which eight bits are left: 15018 PBSE_UNKQUE is 170. Of an option that it does not know it exits
# with 2.
REFUSALS = {
    "qsub: Unknown queue": (170, "'qstat -Q' lists the queues"),
    "qsub: Unknown resource Resource_List.nosuch": (187, "gpu_request"),
    "qsub: Illegal attribute or resource value Resource_List.walltime": (166, "pbsnodes"),
    "Connection refused\nqsub: cannot connect to server pbshead (errno=15010)": (162, "nothing was submitted"),
    "Unknown Host.\nqsub: cannot connect to server nohost (errno=15008)": (160, "nothing was submitted"),
    "qsub: Job rejected by all possible destinations": (191, "qstat -Qf"),
    "qsub: cannot send environment with the job": (1, "not set where the job is submitted"),
    "qsub: Bad GID for job execution": (197, "--account"),
    "qsub: Bad UID for job execution": (175, "PBS takes no jobs from this machine: submit on a login node"),
    "qsub: Access from host not allowed, or unknown host": (160, "submit on a login node"),
    "qsub: hook \x1b]0;pwned\x07says no": (32, "a hook of the site refused the job"),
    "qsub: illegal -o value\nusage: qsub [-a date_time]\n\t[-z] [script | -- command [arg1 ...]]": (2, "--directive"),
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_is_one_line_with_pbs_words_and_a_hint(desk: Path, model: Path, run_cli: Cli, words: str) -> None:
    code, hint = REFUSALS[words]
    client(desk, "qsub", f"cat >&2 <<'E'\n{words}\nE\nexit {code}")
    ended = run_cli("submit", "model", "--scheduler", "pbs", "--name", "run")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    first = words.splitlines()[-1 if "connect" in words else 0].removeprefix("qsub: ")
    assert first.replace("\x1b", "").replace("\x07", " ") in ended.err
    assert hint in ended.err
    assert "usage" not in ended.err
    assert not (desk / "runs" / "run").exists()


@pytest.mark.parametrize("words", ["qsub: End of File", "qsub: Premature end of message", "qsub: Batch protocol error"])
def test_a_job_whose_id_was_lost_on_its_way_is_kept(desk: Path, model: Path, run_cli: Cli, words: str) -> None:
    """PBS may have it: taking its folder away would break it, submitting again would double it."""
    client(desk, "qsub", f"echo '{words}' >&2; exit 183")  # PBSE_PROTOCOL 15031
    ended = run_cli("submit", "model", "--scheduler", "pbs", "--name", "run")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "may or may not be submitted" in ended.err
    assert (desk / "runs" / "run").exists()


def test_a_qsub_that_is_not_pbss_gets_no_script(desk: Path, model: Path, run_cli: Cli) -> None:
    client(desk, "qsub", "echo slurm 22.05; touch called-$#")
    ended = run_cli("submit", "model", "--scheduler", "pbs", "--name", "run")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "this qsub does not belong to PBS (its --version prints 'slurm 22.05')" in ended.err
    assert not (desk / "called-3").exists()
    assert not (desk / "runs" / "run").exists()


def test_a_qsub_that_cannot_be_run(desk: Path, model: Path, run_cli: Cli) -> None:
    client(desk, "qsub", "true")
    (desk / "bin" / "qsub").write_bytes(b"\x7fELF of another machine")
    ended = run_cli("submit", "model", "--scheduler", "pbs", "--name", "run")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "qsub cannot be run (Exec format error)" in ended.err
    assert not (desk / "runs" / "run").exists()


@pytest.mark.parametrize("text", ['{"Jobs": {"1.h": {"job_state": ["R"]}}}', "[" * 100_000, '{"Jobs": {"1.h": {}}}'])
def test_an_answer_that_makes_no_sense_is_unknown(text: str) -> None:
    found = query(JobFolder(Path("nowhere")), "1.h", ask=lambda argv: text)
    assert found["1.h"].phase == "unknown"


def test_a_held_job_says_what_pbs_says() -> None:
    fields = {"job_state": "H", "comment": "job held, too many failed attempts to run", "Hold_Types": "us"}
    assert waiting_reason(fields) == "waits: held: job held, too many failed attempts to run: 'qrls ID' releases it"


def test_qsub_within_a_job_gets_the_jobs_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {
        "PBS_JOBID": "1.a",
        "PBS_O_PATH": "/opt/pbs/bin",
        "PBS_NODENUM": "0",
        "PBS_CONF_FILE": "/c",
    }.items():
        monkeypatch.setenv(key, value)
    environment = SCHEDULER.environment(Path("script.pbs"))
    assert environment["PATH"] == "/opt/pbs/bin"
    assert "PBS_NODENUM" not in environment
    assert environment["PBS_CONF_FILE"] == "/c"


def test_a_missing_client_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "script.pbs").write_text("")
    with pytest.raises(SubmitError, match="qsub was not found: run this on a login node"):
        SCHEDULER.submit(tmp_path / "script.pbs")


def test_what_has_just_ended_needs_no_qdel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [refused("Job has finished 12.server", 35), refused("Unauthorized Request 12.server", 159)]

    def call(argv: list[str]) -> str:
        raise answers.pop(0)

    monkeypatch.setattr("vllm_hpc.schedulers.pbs.call_client", call)
    SCHEDULER.cancel(JobFolder(tmp_path), "12.server")
    with pytest.raises(ClientError, match="Unauthorized"):
        SCHEDULER.cancel(JobFolder(tmp_path), "12.server")


def test_a_cancel_follows_a_job_that_is_submitting_itself_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path / "job", scheduler="pbs")
    write_json(folder.submitted, Submitted("pbs", "12.server", 0.0))
    seen(monkeypatch, job_json(job_state="R"))
    deleted: list[str] = []

    def call(argv: list[str]) -> str:
        deleted.append(argv[-1])
        write_json(folder.submitted, Submitted("pbs", "13.server", 0.0, ("12.server",)))
        return ""

    monkeypatch.setattr("vllm_hpc.schedulers.pbs.call_client", call)
    find_job(str(folder.path)).cancel()
    assert deleted == ["12.server", "13.server"]


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_job_that_submits_itself_again_while_pbs_is_asked_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_marked: bool
) -> None:
    """PBS says how the id before has ended; the new one waits in its queue."""
    folder = make_job(tmp_path / "job", scheduler="pbs")
    write_json(folder.submitted, Submitted("pbs", "12.server", 0.0))

    def call(argv: list[str]) -> str:
        if "12.server" in argv:
            if is_marked:
                folder.take("12.server")
            write_json(folder.submitted, Submitted("pbs", "13.server", 0.0, ("12.server",)))
            return job_json(job_state="F", Exit_status=1)
        return job_json(job_state="Q").replace("12.server", "13.server")

    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", call)
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.call_client", call)
    status = read_status(folder)
    assert (status.state, status.job_id) == ("PENDING", "13.server")


# Comments of jobs that wait in vain (OpenPBS 23.06, src/scheduler/job_info.cpp and check.cpp; Azure/az-hop#133; NCAR's
# Casper) -> what to do.
IN_VAIN = {
    "Can Never Run: Not enough total nodes available": "lower --nodes",
    "Can Never Run: Insufficient amount of resource: ncpus (R: 100 A: 16 T: 16)": "lower --nodes",
    "Can Never Run: Insufficient amount of queue resource: ncpus (R: 3072 A: 2048 T: 2048)": "lower --nodes",
    "Can Never Run: Insufficient amount of server resource: ngpus (R: 8 A: 4 T: 4)": "lower --nodes",
    "Can Never Run: can't fit in the largest placement set, and can't span psets": "lower --nodes",
    "Not Running: Insufficient amount of resource: mem (R: 64gb A: 0gb T: 32gb)": "lower --nodes",
    "Not Running: No node is large enough": "lower --nodes",
    "Can Never Run: Insufficient amount of resource: slot_type (hb120rs_v2 != hc44rs)": "pbsnodes -a",
    "Can Never Run: Insufficient amount of resource: arch (cray != linux)": "pbsnodes -a",
    "Can Never Run: Job has zero shares for fairshare": "name another",
    "Can Never Run: No Select": "chunk and resources",
    "Can Never Run: invalid placement spec": "chunk and resources",
    "Can Never Run: Bad requested resource data": "chunk and resources",
    "Can Never Run: Job will run in nonprimetime only": "another --queue",
}


@pytest.mark.inputs
@pytest.mark.parametrize("comment", IN_VAIN)
def test_a_job_that_waits_in_vain_says_what_to_do(comment: str) -> None:
    reason = waiting_reason({"job_state": "Q", "comment": comment})
    assert reason.startswith(f"waits: {comment}: cannot start as requested: ")
    assert IN_VAIN[comment] in reason


# Comments of jobs that wait for a while (argonne-lcf/user-guides#340, cylc/cylc-flow#7398, openpbs/openpbs#2518).
FOR_A_WHILE = [
    "Not Running: Not enough free nodes available",
    "Not Running: Insufficient amount of resource: ncpus (R: 8 A: 2 T: 16)",
    "Not Running: Insufficient amount of resource: mem (R: 8gb A: 2gb T: 900mb)",
    "Not Running: Insufficient amount of resource: at_queue ",
    "Not Running: Job is requesting an exclusive node and node is in use",
    "Not Running: Node is in an ineligible state: offline",
    "Not Running: Job would conflict with reservation or top job",
    "Not Running: User has reached queue LustreApps running job limit.",
    "Not Running: Queue workq per-user limit reached on resource ncpus",
    "Not Running: Placement set is too small: Not enough free nodes available",
    "Not Running: Queue not started.",
    "Not Running: Job would cross dedicated time boundary",
]


@pytest.mark.inputs
@pytest.mark.parametrize("comment", FOR_A_WHILE)
def test_a_job_that_waits_for_a_while_is_not_given_up(comment: str) -> None:
    assert waiting_reason({"job_state": "Q", "comment": comment}) == f"waits: {comment.strip()}"
