"""Another user's job folder, and another user's files in one's own: read to look at, never obeyed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import crafted
from tests.hostile.accounts import VLLM_HPC, Account
from tests.hostile.conftest import Neighbours
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.schedulers.local import SupervisorRecord

pytestmark = pytest.mark.trust


def give(job: JobFolder, user: Account) -> None:
    """Make a crafted job that user's."""
    for path in (job.path, *job.path.rglob("*")):
        os.chown(path, user.uid, user.group, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o2775 if path.is_dir() else 0o644)


def make(parent: Path, user: Account, name: str, scheduler: str = "slurm") -> JobFolder:
    """A job of that user with three rows, of which the last is missing."""
    job = crafted.make_job(parent / name, scheduler=scheduler)
    crafted.start(job, 1)
    crafted.write_lines(job.shard(0, 1), [crafted.result(0), crafted.result(1)])
    write_json(job.submitted, Submitted(scheduler, "77", 0.0))
    give(job, user)
    return job


def called(clients: dict[str, str], name: str) -> list[str]:
    return [line for line in Path(clients["LOG"]).read_text().splitlines() if line.split()[0] == name]


def test_a_colleagues_job_is_read(neighbours: Neighbours, clients: dict[str, str]) -> None:
    victim, colleague, project = neighbours
    job = make(project, colleague, "theirs")
    job.scheduler_log.write_text("the log\n")
    before = sorted(job.path.rglob("*"))
    for words in (("status", job.path), ("list", "--job-dir", project), ("logs", job.path)):
        done = victim.vllm_hpc(*words, PATH=clients["PATH"])
        assert done.returncode == 0, done.stderr
    assert "the log" in done.stdout
    assert sorted(job.path.rglob("*")) == before, "whose job it is could not use what others write"


def test_a_colleagues_job_is_collected_elsewhere(neighbours: Neighbours, clients: dict[str, str]) -> None:
    victim, colleague, project = neighbours
    job = make(project, colleague, "theirs")
    done = victim.vllm_hpc("collect", job.path, PATH=clients["PATH"])
    assert (done.returncode, "add --output DIR" in done.stderr) == (2, True), done.stderr
    assert not job.outputs.exists()
    done = victim.vllm_hpc("collect", job.path, "--output", victim.home / "theirs", PATH=clients["PATH"])
    assert done.returncode == 3, done.stderr
    rows = (victim.home / "theirs" / "outputs.jsonl").read_text().splitlines()
    assert len(rows) == json.loads((victim.home / "theirs" / "summary.json").read_text())["rows"]["total"] == 3
    assert not job.outputs.exists()


@pytest.mark.parametrize("command", ["resume", "cancel"])
def test_a_foreign_job_is_not_acted_on(neighbours: Neighbours, clients: dict[str, str], command: str) -> None:
    """Also where its id is one's own: found in another user's folder, it was resumed and cancelled."""
    victim, attacker, project = neighbours
    job = make(project, attacker, "bait")
    (job.path / "script.sbatch").write_text("touch /tmp/pwned\n")
    for given in (str(job.path), "77"):
        done = victim.vllm_hpc(command, given, "--job-dir", project, PATH=clients["PATH"])
        assert done.returncode == 2
        assert f"only they can {command} it: 'vllm-hpc submit --rows-missing-from {job.path}'" in done.stderr
    assert not called(clients, "scancel") + called(clients, "sbatch")


def test_ones_own_job_is_found_first_by_its_id(neighbours: Neighbours, clients: dict[str, str]) -> None:
    victim, attacker, project = neighbours
    make(project, attacker, "a-bait")
    mine = make(project, victim, "mine")
    victim.vllm_hpc("cancel", "77", "--job-dir", project, PATH=clients["PATH"])
    assert mine.cancelled.exists()
    assert called(clients, "scancel") == ["scancel -- 77"]


@pytest.mark.parametrize("job_id", ["--user=victim", "77,78", ""])
def test_what_is_no_id_reaches_no_client(neighbours: Neighbours, clients: dict[str, str], job_id: str) -> None:
    victim, attacker, project = neighbours
    theirs, mine = make(project, attacker, "theirs"), make(project, victim, "mine")
    for job, user in ((theirs, attacker), (mine, victim)):
        write_json(job.submitted, Submitted("slurm", job_id, 0.0))
        give(job, user)
    for words in (("status", theirs.path), ("list", "--job-dir", project), ("cancel", mine.path)):
        assert "Traceback" not in victim.vllm_hpc(*words, PATH=clients["PATH"]).stderr
    assert not [line for line in Path(clients["LOG"]).read_text().splitlines() if job_id and job_id in line]
    assert not called(clients, "scancel")


def test_a_planted_pid_is_not_killed(neighbours: Neighbours, clients: dict[str, str]) -> None:
    """Neither where the attacker wrote the record, nor where it is another job's."""
    victim, attacker, project = neighbours
    job = make(project, victim, "mine", "local")
    write_json(job.submitted, Submitted("local", "1-1", 0.0))
    job.attempt(1).unlink()
    give(job, victim)
    pid = int(victim.run(["sh", "-c", "sleep 60 > /dev/null 2>&1 & echo $!"], Path("/")).stdout)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = SupervisorRecord(job_id="1-1", host=os.uname().nodename, pid=pid, boot=boot, started=int(stat[19]))
    for is_planted in (True, False):
        write_json(job.supervisor, record)
        os.chown(job.supervisor, (attacker if is_planted else victim).uid, victim.group)
        done = victim.vllm_hpc("cancel", job.path)
        said = "belongs to another user" if is_planted else "is not the supervisor of"
        assert said in done.stderr, done.stderr
        assert "sleep" in Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("is_mine", [True, False])
def test_a_linked_shard_is_not_followed(neighbours: Neighbours, clients: dict[str, str], is_mine: bool) -> None:
    victim, attacker, project = neighbours
    private = victim.home / "private.jsonl"
    private.write_text(json.dumps(crafted.result(2) | {"text": "SECRET"}) + "\n")
    private.chmod(0o600)
    os.chown(private, victim.uid, victim.uid)
    job = make(project, victim if is_mine else attacker, "linked")
    attacker.run(["ln", "-s", private, job.shards / "replica-0.2.jsonl"], Path("/"))
    assert (job.shards / "replica-0.2.jsonl").is_symlink()
    done = victim.vllm_hpc("collect", job.path, "--output", victim.home / "out", PATH=clients["PATH"])
    assert (done.returncode, "must be a regular file, not a link" in done.stderr) == (1, True), done.stderr
    assert not (victim.home / "out" / "outputs.jsonl").exists()
    assert victim.vllm_hpc("status", job.path, PATH=clients["PATH"]).returncode == 0
    crafted.end(job)
    give(job, victim if is_mine else attacker)
    done = victim.vllm_hpc("status", job.path, "--json", PATH=clients["PATH"])
    found = json.loads(done.stdout)
    assert (found["state"], "replica-0.2.jsonl: it must be a regular file, not a link" in found["reason"]) == (
        "FAILED" if is_mine else "UNKNOWN", True,
    ), found  # fmt: skip


@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse"])
def test_special_files_keep_nobody(neighbours: Neighbours, clients: dict[str, str], kind: str) -> None:
    victim, attacker, project = neighbours
    make(project, attacker, "bait")
    plants = {
        "fifo": 'rm -f "$0" && mkfifo "$0"', "zero": 'ln -sf /dev/zero "$0"', "sparse": 'rm "$0"; truncate -s 1T "$0"',
    }  # fmt: skip
    job = project / "bait"
    for name in ("job.json", "state/submitted.json", "logs/scheduler.out"):
        assert attacker.run(["sh", "-c", plants[kind], job / name], Path("/")).returncode == 0
        if name != "logs/scheduler.out":
            words = ("timeout", "20", *VLLM_HPC, "list", "--job-dir")
            done = victim.run([*words, project], victim.home, PATH=clients["PATH"])
            assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_missing_rows_run_in_a_job_of_ones_own(neighbours: Neighbours) -> None:
    victim, colleague, project = neighbours
    (colleague.home / "rows.jsonl").write_text('{"id": "a", "prompt": "a"}\n{"id": "b", "prompt": "b"}\n')
    done = colleague.vllm_hpc(
        "submit", "--rehearse", "--scheduler", "local", "--input", colleague.home / "rows.jsonl", "--job-dir", project,
        "--name", "theirs", "--max-tokens", "3", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = JobFolder(project / "theirs")
    shard = theirs.shard_files()[0]
    shard.write_text("".join(line for line in shard.read_text().splitlines(True) if '"index":0' in line))
    before = {file: file.stat().st_mtime_ns for file in theirs.path.rglob("*")}
    words = ("--rows-missing-from", theirs.path, "--job-dir", victim.home, "--name", "mine")
    done = victim.vllm_hpc("submit", *words, "--wait")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (victim.home / "mine" / "outputs.jsonl").read_text().splitlines())
    assert (row["id"], row["index"], row["completion_tokens"]) == ("b", 0, 3)
    assert {file: file.stat().st_mtime_ns for file in theirs.path.rglob("*")} == before


def test_no_option_of_a_foreign_job_runs_code(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    job = make(project, attacker, "bait", "local")
    record = json.loads(job.job_json.read_text())
    for key, value in {
        "env": {"LD_PRELOAD": "/tmp/evil.so"}, "template_dir": "/tmp/evil", "engine": {"trust_remote_code": True},
        "pass_env": ["HF_TOKEN"],
    }.items():  # fmt: skip
        attacker.plant(job.job_json, json.dumps(record | {"request": record["request"] | {key: value}}))
        done = victim.vllm_hpc("render", "--rows-missing-from", job.path, "--rehearse")
        option = f"--{'env' if key == 'pass_env' else key.replace('_', '-')}"
        assert (done.returncode, f"of which {option} would run" in done.stderr) == (2, True), done.stderr


def test_the_variables_that_one_gives_stand_for_those_of_a_foreign_job(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    job = make(project, attacker, "theirs", "local")
    record = json.loads(job.job_json.read_text())
    wanted = record["request"] | {"pass_env": ["HF_TOKEN"], "env": {"A": "theirs"}, "rehearse": True}
    attacker.plant(job.job_json, json.dumps(record | {"request": wanted}))
    words = ("render", "--rows-missing-from", job.path)
    assert "of which --env would run" in victim.vllm_hpc(*words, HF_TOKEN="x").stderr
    done = victim.vllm_hpc(*words, "--env", "A=mine", HF_TOKEN="x")
    assert (done.returncode, "A=mine" in done.stdout, "HF_TOKEN" in done.stdout) == (0, True, False), done.stderr


def test_an_empty_value_takes_none_of_what_a_foreign_job_has(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    job = make(project, attacker, "theirs", "local")
    record = json.loads(job.job_json.read_text())
    theirs = {
        "account": "theirs", "directive": ["--reservation=theirs"], "engine": {"max_num_seqs": 7}, "launcher": "srun",
        "env": {"A": "theirs"}, "pass_env": ["HF_TOKEN"], "template": "theirs.j2", "template_dir": "/tmp/theirs",
    }  # fmt: skip
    attacker.plant(job.job_json, json.dumps(record | {"request": record["request"] | theirs | {"rehearse": True}}))
    words = ("render", "--scheduler", "slurm", "--rows-missing-from", job.path)
    done = victim.vllm_hpc(*words)
    assert (done.returncode, "--env" in done.stderr, "yourself, or '' for none of it" in done.stderr) == (2, True, True)
    options = ("account", "directive", "engine", "env", "launcher", "template", "template-dir")
    done = victim.vllm_hpc(*words, *(word for option in options for word in (f"--{option}", "")))
    assert (done.returncode, "theirs" in done.stdout.replace(str(job.path), "")) == (0, False), done.stderr
    assert "HF_TOKEN" not in done.stdout


@pytest.mark.parametrize("kind", ["link", "path"])
def test_a_foreign_chat_template_is_read_where_it_is(neighbours: Neighbours, kind: str) -> None:
    """A link to a file of the victim's was followed, and its text copied; so must not be a path that it names."""
    victim, attacker, project = neighbours
    private = victim.home / "private.jinja"
    victim.plant(private, "private {{ messages }}", 0o600)
    job = make(project, attacker, "bait", "local")
    record = json.loads(job.job_json.read_text())
    wanted = record["request"] | {"chat_template": "x.jinja", "rehearse": True}
    attacker.plant(job.job_json, json.dumps(record | {"request": wanted}))
    words = ("submit", "--rows-missing-from", job.path, "--scheduler", "local", "--job-dir", project)
    attacker.plant(job.chat_template, "{{ messages }}", 0o644)
    done = victim.vllm_hpc(*words, "--name", "fine")
    assert done.returncode == 0, done.stderr
    assert (project / "fine" / "chat-template.jinja").read_text() == "{{ messages }}"
    if kind == "link":
        assert attacker.run(["ln", "-sf", private, job.chat_template], project).returncode == 0
    else:
        attacker.plant(job.chat_template, str(private), 0o644)
    done = victim.vllm_hpc(*words, "--name", "copied")
    said = "must be a regular file, not a link" if kind == "link" else "must be a Jinja template"
    assert (done.returncode, said in done.stderr, (project / "copied").exists()) == (2, True, False), done.stderr
