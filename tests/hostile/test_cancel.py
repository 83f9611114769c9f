"""'vllm-hpc cancel' in a folder in which others write: it cancels that job, and no other, and nobody can block it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from tests import crafted
from tests.conftest import Cli
from tests.hostile.conftest import Neighbours
from tests.hostile.test_foreign_jobs import called, give, make
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted

pytestmark = pytest.mark.trust

_PLANTED = {
    "scheduler": "slurm", "job_id": "78", "submitted_at": 0.0, "attempt": 2, "host": "n", "started_at": 9e9,
    "exit_code": 0, "cause": "exit", "ended_at": 0.0,
}  # fmt: skip


def identify(job: JobFolder, job_id: str, uuid: str) -> None:
    """Make it a job with an identity of its own, as this version submits them."""
    write_json(job.job_json, msgspec.structs.replace(job.job(), uuid=uuid))
    write_json(job.submitted, Submitted("slurm", job_id, 0.0, uuid=uuid))


def test_a_planted_id_is_refused(neighbours: Neighbours, clients: dict[str, str]) -> None:
    """It would be cancelled: that of another job of the victim's."""
    victim, attacker, project = neighbours
    job = make(project, victim, "mine")
    attacker.plant(job.submitted, json.dumps(_PLANTED))
    done = victim.vllm_hpc("cancel", job.path, PATH=clients["PATH"])
    assert (done.returncode, "submitted.json' belongs to another user" in done.stderr) == (2, True), done.stderr
    assert not called(clients, "scancel")


@pytest.mark.parametrize("name", ["attempts/2.json", "state/resumed-77", "state/exit-1.json"])
def test_a_planted_record_blocks_no_cancel(neighbours: Neighbours, clients: dict[str, str], name: str) -> None:
    victim, attacker, project = neighbours
    job = make(project, victim, "mine")
    attacker.plant(job.path / name, json.dumps(_PLANTED), 0o644)
    done = victim.vllm_hpc("cancel", job.path, PATH=clients["PATH"])
    assert done.returncode == 0, done.stderr
    assert called(clients, "scancel") == ["scancel -- 77"]
    assert f"left out, for others have written or can write to it: {name}" in done.stdout


@pytest.mark.parametrize("name", ["state/submitted.json", "state/resumed-77"])
def test_another_jobs_record_is_not_taken(neighbours: Neighbours, clients: dict[str, str], name: str) -> None:
    """Both jobs are the victim's; who can write to their folders moves a record of one into the other."""
    victim, attacker, project = neighbours
    mine, other = make(project, victim, "mine"), make(project, victim, "other")
    identify(mine, "77", "a" * 32)
    identify(other, "78", "b" * 32)
    source = other.submitted if "submitted" in name else other.take("78")
    give(mine, victim)
    give(other, victim)
    moved = attacker.run(["mv", "-f", source, mine.path / name], Path("/"))
    assert (moved.returncode, (mine.path / name).stat().st_uid) == (0, victim.uid)
    done = victim.vllm_hpc("cancel", mine.path, PATH=clients["PATH"])
    if "submitted" in name:
        assert (done.returncode, "submitted.json' is not of this job" in done.stderr) == (2, True), done.stderr
        assert not called(clients, "scancel")
    else:
        assert called(clients, "scancel") == ["scancel -- 77"], done.stderr


@pytest.mark.parametrize("command", ["cancel", "resume"])
def test_what_0_1_left_open_is_said_once(neighbours: Neighbours, clients: dict[str, str], command: str) -> None:
    """0.1 wrote records by the umask, and a project's lets its group write."""
    victim, _, project = neighbours
    job = make(project, victim, "mine")
    script = job.path / "script.sbatch"
    script.write_text("#!/bin/bash\n")
    os.chown(script, victim.uid, -1)
    for path in (job.job_json, job.submitted, job.attempt(1), script):
        path.chmod(0o664)
    done = victim.vllm_hpc(command, job.path, PATH=clients["PATH"])
    assert done.returncode == 2
    names = ["job.json", "state/submitted.json"] if command == "cancel" else ["job.json", "attempts/1.json"]
    assert all(name in done.stderr for name in names), done.stderr
    assert f"if you trust what they say, 'chmod -R go-w {job.path}'" in done.stderr
    assert victim.run(["chmod", "-R", "go-w", job.path], Path("/")).returncode == 0
    done = victim.vllm_hpc("cancel", job.path, PATH=clients["PATH"])
    assert (done.returncode, called(clients, "scancel")) == (0, ["scancel -- 77"]), done.stderr


def test_root_is_told_the_command(tmp_path: Path, run_cli: Cli) -> None:
    if os.geteuid():
        pytest.skip("only root can")
    job = crafted.make_job(tmp_path / "job", scheduler="slurm")
    os.chown(job.job_json, 61_999, 61_999)
    assert "; as root you may run, if that is its id: scancel 77" in run_cli("cancel", job.path).err
    write_json(job.submitted, Submitted("slurm", "$(reboot)", 0.0))
    assert "as root" not in run_cli("cancel", job.path).err
