"""state/passed, which has secrets: who can read it, what a script takes from it, and when it goes."""

from __future__ import annotations

import os
import subprocess
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, result, start, write_lines
from tests.hostile.conftest import Neighbours
from tests.hostile.test_secrets import HF, WORD
from vllm_hpc import Job
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.passed import passed_file, remove_passed, write_passed
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.cancel import cancel
from vllm_hpc.jobs.resume import resume
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.script import FILTERS
from vllm_hpc.spec.errors import RequestError

pytestmark = pytest.mark.admins

LIFECYCLE = files("vllm_hpc") / "templates" / "lifecycle.sh"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", HF)
    monkeypatch.setenv("SITE_LOGIN", WORD)


def ended_job(folder: Path, is_done: bool = False) -> JobFolder:
    """A job on PBS that has ended, and takes HF_TOKEN by a file."""
    job = make_job(folder)
    record = job.job()
    request = msgspec.structs.replace(record.request, pass_env=["HF_TOKEN"])
    write_json(job.job_json, msgspec.structs.replace(record, request=request, passes_by_file=True))
    (job.path / "script.sh").write_text("true\n")
    start(job)
    write_lines(job.shards / "replica-0.1.jsonl", [result(index) for index in range(3 if is_done else 1)])
    end(job, 1)
    return job


# -- who can read it -------------------------------------------------------------------------------------------------
def test_neither_group_nor_others_read_it_in_a_projects_folder(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    words = ("submit", "--rehearse", "--scheduler", "pbs", "--job-dir", project, "--name", "run", "--env", "HF_TOKEN")
    qsub = project.parent / "bin"
    qsub.mkdir()
    (qsub / "qsub").write_text('#!/bin/sh\n[ "$1" = --version ] && echo pbs_version = 23 || echo 12.server\n')
    (qsub / "qsub").chmod(0o755)
    path = f"{qsub}:{os.environ['PATH']}"
    done = victim.vllm_hpc(*words, umask=0o000, HF_TOKEN=HF, PATH=path)
    assert done.returncode == 0, done.stderr
    passed = project / "run" / "state" / "passed"
    assert passed.read_bytes() == f"HF_TOKEN={HF}\0".encode()
    for argv in (("cat", passed), ("ln", passed, project / "mine"), ("cp", passed, project / "mine")):
        attempt = attacker.run(argv, project)
        assert (attempt.returncode != 0, HF in attempt.stdout) == (True, False), argv
    found = attacker.run(["grep", "-rsl", HF, project], project)
    assert found.stdout == ""
    # With the whole folder in another place, and another in its place, it is still not theirs to read.
    attacker.run(["mv", project / "run", project / "taken"], project)
    assert HF not in attacker.run(["cat", project / "taken" / "state" / "passed"], project).stdout


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_its_mode_does_not_follow_the_umask(tmp_path: Path, umask: int) -> None:
    job = ended_job(tmp_path / "job")
    before = os.umask(umask)
    try:
        write_passed(job, ["HF_TOKEN", "SITE_LOGIN"])
    finally:
        os.umask(before)
    assert job.passed.stat().st_mode & 0o777 == 0o600


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    job = ended_job(tmp_path / "job")
    (tmp_path / "mine").write_text("keep")
    job.passed.symlink_to(tmp_path / "mine")
    write_passed(job, ["HF_TOKEN"])
    assert (tmp_path / "mine").read_text() == "keep"
    assert not job.passed.is_symlink()


def test_a_file_system_that_shows_it_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ended_job(tmp_path / "job")
    monkeypatch.setattr("os.fstat", lambda descriptor: os.stat(str(LIFECYCLE)))  # noqa: PTH116 - as CIFS: 0644, whatever is asked
    with pytest.raises(RequestError, match=r"new files have mode 644, .* choose another --job-dir"):
        write_passed(job, ["HF_TOKEN"])
    monkeypatch.undo()
    assert not list(job.path.rglob("*passed*"))


# -- what a script takes from it -------------------------------------------------------------------------------------
def run_shell(job: Path, words: str) -> subprocess.CompletedProcess[str]:
    shell = f"set -uo pipefail\n. {LIFECYCLE}\n_vh_job={job} VLLM_HPC_JOB_ID=12.server\n{words}"
    clean = {"PATH": os.environ["PATH"], "TMPDIR": str(job)}
    return subprocess.run(["bash", "-c", shell], env=clean, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    "value",
    ["plain", "a 'b' \"c\"", "$(touch no) `touch no` ${PATH}", "two\nlines\n", " ends ", "=a=b=", "\\n\\0", "é\u2028"],
)
def test_a_script_takes_values_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    job = ended_job(tmp_path / "job")
    monkeypatch.setenv("SITE_LOGIN", value)
    write_passed(job, ["HF_TOKEN", "SITE_LOGIN"])
    done = run_shell(
        job.path, "keep_passed HF_TOKEN SITE_LOGIN\nSITE_LOGIN=other\nrestore_passed\nprintenv -0 SITE_LOGIN"
    )
    assert (done.stdout, done.stderr) == (f"{value}\0", "")
    assert not (Path.cwd() / "no").exists()


def test_a_script_takes_only_what_it_names(tmp_path: Path) -> None:
    job = ended_job(tmp_path / "job")
    job.passed.write_bytes(b"HF_TOKEN=x\0PATH=/evil\0BASH_ENV=/evil\0x[$(touch no)]=1\0no end")
    job.passed.chmod(0o600)
    done = run_shell(job.path, 'keep_passed HF_TOKEN\necho "$HF_TOKEN ${BASH_ENV:-none}"; ls > /dev/null')
    assert (done.stdout, done.stderr) == ("x none\n", "")


@pytest.mark.parametrize("what", ["mode", "link", "missing"])
def test_a_script_refuses_one_that_others_can_read_or_have_put_there(tmp_path: Path, what: str) -> None:
    job = ended_job(tmp_path / "job")
    write_passed(job, ["HF_TOKEN"])
    if what == "mode":
        job.passed.chmod(0o640)
    else:
        job.passed.rename(tmp_path / "elsewhere")
    if what == "link":
        job.passed.symlink_to(tmp_path / "elsewhere")
    done = run_shell(job.path, "keep_passed HF_TOKEN; echo went on")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "vllm-hpc resume" in done.stderr
    assert HF not in done.stderr


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        ("leave", False), ("_vh_cause=timeout leave", False), ("_vh_cause=TERM leave", True),
        ("_vh_cause=requeue leave", True), ("_vh_cause=cancelled leave", True),
        ("VLLM_HPC_JOB_ID='12[].server_3' leave", True),
    ],
)  # fmt: skip
def test_a_script_removes_it_when_no_attempt_will_need_it(tmp_path: Path, words: str, stays: bool) -> None:
    job = ended_job(tmp_path / "job")
    write_passed(job, ["HF_TOKEN"])
    run_shell(job.path, f"_vh_attempt=1 _vh_hosts={tmp_path}/hosts\n{words}")
    assert job.passed.exists() == stays


# -- when it goes, and comes back ------------------------------------------------------------------------------------
def test_resume_writes_it_again_and_the_end_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ended_job(tmp_path / "job")
    submitted = []

    def submit(folder: JobFolder, *rest: object) -> str:
        submitted.append(folder.passed.read_bytes())
        return "1-1"

    monkeypatch.setattr("vllm_hpc.jobs.resume.submit_script", submit)
    assert resume(job).left == 2
    assert submitted == [f"HF_TOKEN={HF}\0".encode()]


def test_a_refused_resume_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_hpc.schedulers.client import ClientError

    def refuse(*words: object) -> str:
        raise ClientError("no such queue")

    job = ended_job(tmp_path / "job")
    monkeypatch.setattr("vllm_hpc.jobs.resume.submit_script", refuse)
    with pytest.raises(ClientError):
        resume(job)
    assert not job.passed.exists()


def test_a_status_that_is_final_removes_it_and_another_process_file_stays(tmp_path: Path) -> None:
    job = ended_job(tmp_path / "job", is_done=True)
    write_passed(job, ["HF_TOKEN"])
    assert Job(job.path).status().state == "COMPLETED"
    assert not job.passed.exists()
    write_passed(job, ["HF_TOKEN"])
    assert cancel(job).state == "COMPLETED"
    assert not job.passed.exists()
    write_passed(job, ["HF_TOKEN"])
    seen = passed_file(job)
    (job.passed.parent / "held").hardlink_to(job.passed)  # so that its number is not taken again
    write_passed(job, ["HF_TOKEN"])
    remove_passed(job, seen)
    assert job.passed.exists()


# -- a profile's secrets ---------------------------------------------------------------------------------------------
def test_a_profiles_secrets_are_variables_of_every_job(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text(
        "[profiles.p]\nscheduler = 'pbs'\nsecrets = ['HF_TOKEN', 'SITE_LOGIN']\nenv = { A = '1' }\n"
    )
    prepared = prepare("model", profile="p", env={"SITE_LOGIN": None, "B": "2"})
    assert (prepared.request.env, prepared.request.pass_env) == ({"A": "1", "B": "2"}, ["SITE_LOGIN", "HF_TOKEN"])
    assert prepared.job.passes_by_file
    assert "keep_passed SITE_LOGIN HF_TOKEN\n" in prepared.script
    said = run_cli("plan", "model", "--profile", "p", "--json").out
    assert HF not in said
    assert WORD not in said


@pytest.mark.parametrize(
    ("secrets", "words", "said"),
    [
        ("['NOWHERE']", (), "the profile's secrets name NOWHERE, which is not set here: export it, or leave it out of"),
        (
            "['SITE_LOGIN']",
            ("--env", "SITE_LOGIN=x"),
            "--env SITE_LOGIN has a value, but the profile's secrets name it",
        ),
        ("['PATH']", (), "secrets PATH cannot be set: the script sets it"),
        ("['VLLM_HPC_PASSED']", (), "secrets VLLM_HPC_PASSED cannot be set: vllm-hpc sets it"),
        ("['a b']", (), "secrets 'a b' is not a valid name"),
        ("['HF_TOKEN=hf_x']", (), "is not a valid name"),
        ("'HF_TOKEN'", (), "secrets"),
        ("['$(touch no)']", (), "is not a valid name"),
        ("['']", (), "secrets '' is not a valid name"),
    ],
)
def test_secrets_that_cannot_be_are_refused_in_a_line(
    desk: Path, model: Path, run_cli: Cli, secrets: str, words: tuple[str, ...], said: str
) -> None:
    (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\nscheduler = 'slurm'\nsecrets = {secrets}\n")
    for command in ("submit", "render"):
        done = run_cli(command, "model", "--profile", "p", *words)
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert said in done.err
    assert not (desk / "runs").exists()


# -- scratch ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("scratch", "said"),
    [
        ("/no/such/folder", "must be a folder of {host} in which you can write, not /no/such/folder"),
        ("$NOT_SET/x", "the profile's scratch, on {host}: NOT_SET: is not set here"),
        ("relative", "in which you can write, not relative"),
        ("/proc/$$", "in which you can write, not /proc/$"),
        ("/dev/null", "in which you can write, not /dev/null"),
        ("/$(touch no)", "in which you can write, not /$(touch no)"),
    ],
)
def test_a_scratch_that_a_node_does_not_have_ends_it_with_a_line(tmp_path: Path, scratch: str, said: str) -> None:
    quoted = FILTERS["on_node"](scratch)
    done = run_shell(tmp_path, f"scratch_folder() {{ printf %s {quoted}; }}\n(begin_ranks; echo went on)")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert said.format(host=os.uname().nodename) in done.stderr
    assert not (tmp_path / "no").exists()


def test_scratch_is_a_folder_of_the_jobs_own_and_goes_with_it(tmp_path: Path) -> None:
    place = tmp_path / "a 'b' $c"
    place.mkdir()
    quoted = FILTERS["on_node"](str(place).replace("$", "$$"))
    show = 'echo "$TMPDIR" "$PET_LOG_DIR"; stat -c %a "$TMPDIR"; mkdir "$TMPDIR/x"'
    done = run_shell(tmp_path, f"scratch_folder() {{ printf %s {quoted}; }}\n(begin_ranks; {show})")
    first, mode = done.stdout.splitlines()
    folder = first[: len(first) // 2]
    assert (first, mode, Path(folder).parent) == (f"{folder} {folder}", "700", place), done.stderr
    assert not Path(folder).exists()
