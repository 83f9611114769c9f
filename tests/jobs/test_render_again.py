"""resume takes today's profile, and another walltime, account or queue; layout and answers stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import crafted
from tests.conftest import FAKE_SBATCH, Cli
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.submit import submit
from vllm_hpc.schedulers.lifecycle import sha256

pytestmark = pytest.mark.admins

PROFILE = """[profiles.site]
scheduler = "slurm"
partition = "old"
account = "typo"
time = "1:00:00"
env = { A = "1", B = "$USER" }
engine = { max_num_seqs = 8 }
"""


@pytest.fixture
def folder(desk: Path) -> JobFolder:
    """A job of two rows, of which one is missing, and which has ended."""
    (desk / "bin").mkdir(exist_ok=True)
    sbatch = desk / "bin" / "sbatch"
    sbatch.write_text(FAKE_SBATCH)
    sbatch.chmod(0o755)
    (desk / "vllm-hpc.toml").write_text(PROFILE)
    job = submit(rehearse=True, profile="site", name="first", env={"C": "own"}, nodes=2, gpus_per_node=2, tp=2)
    crafted.start(job.folder, job_id=job.job_id)
    crafted.end(job.folder, 1)
    crafted.write_lines(job.folder.shard(0, 1), [crafted.result(0)])
    return job.folder


def script(folder: JobFolder) -> str:
    return (folder.path / "script.sbatch").read_text()


def test_a_mended_profile_helps_an_old_job(desk: Path, folder: JobFolder, run_cli: Cli) -> None:
    before = folder.job()
    mended = PROFILE.replace("typo", "right").replace('"1", B', '"2", B').replace("= 8", "= 16")
    (desk / "vllm-hpc.toml").write_text(mended + 'setup = ["module load cuda"]\n')
    outcome = run_cli("resume", "first")
    assert outcome.code == 0, outcome
    assert f"Note: the script is rendered anew, with today's profile: {folder.path}/script.sbatch\n" in outcome.err
    text, after = script(folder), folder.job()
    for line in ("#SBATCH --account=right", "module load cuda", "export A=2", "export C=own", "#SBATCH --nodes=2"):
        assert line in text.splitlines()
    assert (desk / "bin/received").read_text() == text
    assert after.script_sha256 == sha256(text)
    assert after.request.engine == before.request.engine == {"max_num_seqs": 8}
    assert (after.plan, after.request.tp, after.request.input) == (before.plan, before.request.tp, before.request.input)


def test_options_win_over_the_profile(folder: JobFolder, run_cli: Cli) -> None:
    assert run_cli("resume", "first", "--time", "2:00:00", "--account", "other", "--queue", "large").code == 0
    said = script(folder).splitlines()
    assert {"#SBATCH --time=2:00:00", "#SBATCH --account=other", "#SBATCH --partition=large"} <= set(said)
    assert folder.job().request.time == "2:00:00"


def test_a_queue_that_does_not_take_the_job_is_refused(desk: Path, folder: JobFolder, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text(PROFILE + "[profiles.site.queues.old]\nmax_nodes = 1\n")
    before = script(folder)
    outcome = run_cli("resume", "first")
    assert (outcome.code, script(folder)) == (2, before)
    assert "queue old takes 1 node, not 2: use another --queue" in outcome.err


@pytest.mark.parametrize(
    ("why", "said"),
    [("edited", "script.sbatch was edited since the submission"), ("gone", "no profile 'site' in "),
     ("elsewhere", "of its profile, does not count in ")],
)  # fmt: skip
def test_where_it_cannot_be_done_the_script_stays(
    desk: Path, folder: JobFolder, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, why: str, said: str
) -> None:
    if why == "edited":
        (folder.path / "script.sbatch").write_text(script(folder).replace("typo", "mended"))
    elif why == "gone":
        (desk / "vllm-hpc.toml").unlink()
    else:
        user = desk / "config/vllm-hpc/config.toml"
        user.parent.mkdir(parents=True)
        user.write_text("[profiles.site]\n")
        (desk / "other").mkdir()
        monkeypatch.chdir(desk / "other")
    before = script(folder)
    refused = run_cli("resume", str(folder.path), "--time", "2:00:00")
    assert refused.code == 2 and "--time would render the script anew, but " in refused.err and said in refused.err
    outcome = run_cli("resume", str(folder.path))
    assert outcome.code == 0 and "Note: the script stays as it was submitted: " in outcome.err and said in outcome.err
    assert script(folder) == before


def test_a_job_that_was_not_submitted_keeps_its_files_together(desk: Path, folder: JobFolder, run_cli: Cli) -> None:
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\necho no such account >&2; exit 1\n")
    assert run_cli("resume", "first", "--account", "wrong").code == 1
    assert folder.job().script_sha256 == sha256(script(folder))
    (desk / "bin" / "sbatch").write_text(FAKE_SBATCH)
    assert run_cli("resume", "first", "--account", "right").code == 0
    assert "#SBATCH --account=right" in script(folder).splitlines()


def test_it_stays_in_the_queue_that_was_asked_for(desk: Path, folder: JobFolder, run_cli: Cli) -> None:
    """Two tables without a partition, each with a QOS: the name of the table is what tells them apart."""
    tables = """[profiles.site]
scheduler = "slurm"
[profiles.site.queues.regular]
partition = ""
qos = "regular"
[profiles.site.queues.debug]
partition = ""
qos = "debug"
"""
    (desk / "vllm-hpc.toml").write_text(tables)
    job = submit(rehearse=True, profile="site", name="second", partition="debug", nodes=2)
    crafted.start(job.folder, job_id=job.job_id)
    crafted.end(job.folder, 1)
    (desk / "vllm-hpc.toml").write_text(tables + 'account = "mended"\n')
    assert run_cli("resume", "second").code == 0
    assert {"#SBATCH --qos=debug", "#SBATCH --account=mended"} <= set(script(job.folder).splitlines())


def test_what_an_option_overrode_and_what_the_profile_dropped(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = '[profiles.site]\nscheduler = "slurm"\njob_dir = "$NOT_THERE/runs"\n'
    (desk / "vllm-hpc.toml").write_text(keys + 'secrets = ["MINE"]\naccount = "typo"\n')
    monkeypatch.setenv("MINE", "value")
    job = submit(rehearse=True, profile="site", name="third", job_dir="runs", nodes=1)
    crafted.start(job.folder, job_id=job.job_id)
    crafted.end(job.folder, 1)
    monkeypatch.delenv("MINE")
    (desk / "vllm-hpc.toml").write_text(keys + 'account = "right"\n')
    outcome = run_cli("resume", "third")
    assert outcome.code == 0, outcome
    assert "#SBATCH --account=right" in script(job.folder).splitlines() and "MINE" not in script(job.folder)


def test_nothing_to_resume_needs_no_profile(desk: Path, folder: JobFolder, run_cli: Cli) -> None:
    rows = crafted.read_lines(folder.path / "input.jsonl")
    done = [crafted.result(number, id=row["id"], rehearsal=True) for number, row in enumerate(rows)]
    crafted.write_lines(folder.shard(0, 1), done)
    (desk / "vllm-hpc.toml").write_text("broken")
    outcome = run_cli("resume", "first")
    assert outcome.code == 0 and "Nothing to resume" in outcome.err, (outcome, rows)
