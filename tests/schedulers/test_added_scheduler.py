"""A scheduler from outside the package: one object, one template and one entry point, and ``submit`` takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, start
from tests.real_jobs import GREEDY, PROMPTS, check_complete, rehearsed_texts, submit_long, submit_tiny
from tests.real_jobs import started as until_started
from vllm_hpc.jobs.find import find_job, list_statuses
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import RefusedError

# A scheduler in a few lines: "spool SCRIPT" starts the script, detached, and prints an id.
_SPOOL = """#!/bin/bash
id=spool-$$ folder=$(dirname "$1")
VLLM_HPC_JOB_ID=$id setsid bash "$1" < /dev/null > "$folder/logs/scheduler.out" 2>&1 &
echo $! > "$folder/state/$id"
echo "$id"
"""
_MODULE = """
import os, re, signal
from pathlib import Path
from vllm_hpc.schedulers.scheduler import JobState, Scheduler

HERE = Path(__file__).parent

def pid(job, job_id):
    return int((job.path / "state" / job_id).read_text())

def query(job, job_id, tasks, ask):
    # The script's own record is the last word; a zombie, which nobody waits for here, runs no more.
    alive = Path(f"/proc/{pid(job, job_id)}/stat")
    runs = alive.exists() and alive.read_text().rpartition(")")[2].split()[0] != "Z"
    ended = JobState("cancelled" if job.cancelled.exists() else "gone", "its process is gone")
    return {job_id: JobState("running") if runs else ended}

SCHEDULER = Scheduler(
    name="spool",
    template="spool.sh.j2",
    templates=HERE / "templates",
    script="script.spool",
    id_pattern=re.compile(r"^(spool-[0-9]+)$", re.MULTILINE),
    submit_argv=lambda script: [str(HERE / "spool"), str(script)],
    cancel=lambda job, job_id: os.kill(pid(job, job_id), signal.SIGTERM),
    query=query,
    environment=lambda script: dict(os.environ),
)
"""


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The other package, installed."""
    site = tmp_path / "site"
    metadata = site / "spool-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: spool\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm_hpc.schedulers]\nspool = spool_scheduler:SCHEDULER\nbroken = no_such_module:SCHEDULER\n"
        "wrong = spool_scheduler:HERE\nother = spool_scheduler:SCHEDULER\nslurm = spool_scheduler:SCHEDULER\n"
    )
    (site / "spool_scheduler.py").write_text(_MODULE)
    (site / "templates").mkdir()
    (site / "templates" / "spool.sh.j2").write_text('{% extends "packaged/local.sh.j2" %}')
    (site / "spool").write_text(_SPOOL)
    (site / "spool").chmod(0o755)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    return site


@pytest.mark.ranks
def test_a_job_runs_on_it(spool: Path, tmp_path: Path) -> None:
    job = submit_tiny(None, tmp_path, scheduler="spool", tp=2)
    check_complete(job, rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"])))
    assert job.status().scheduler == "spool"
    assert (job.path / "script.spool").is_file()


@pytest.mark.ranks
def test_a_job_on_it_is_cancelled(spool: Path, tmp_path: Path) -> None:
    job = until_started(submit_long(None, tmp_path, scheduler="spool", tp=1))
    job.cancel()
    assert job.wait(60).state == "CANCELLED"


def test_options_profiles_and_job_definitions_take_its_name(
    spool: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm-hpc.toml").write_text('[profiles.site]\nscheduler = "spool"\n')
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.toml").write_text('scheduler = "spool"\nrehearse = true\n')
    assert plan_only(rehearse=True, profile="site").reasons[1] == "scheduler spool: from profile 'site'"
    assert plan_only("job").reasons[1] == "scheduler spool: requested"
    assert run_cli("plan", "--rehearse", "--scheduler", "spool").code == 0
    said = run_cli("plan", "--rehearse", "--scheduler", "spoool")
    assert (said.code, "'auto', 'slurm', 'pbs', 'kubernetes', 'local', 'broken', 'other', 'spool'" in said.err) == (
        2,
        True,
    )
    assert get_scheduler("slurm").script == "script.sbatch", "a built-in name stays ours"


@pytest.mark.ranks
def test_its_jobs_are_unknown_where_it_is_not_installed(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit_tiny(None, tmp_path, scheduler="spool", tp=1, rows=[{"prompt": "a"}])
    assert job.wait(60).state == "COMPLETED"
    (job.path / "state" / "exit-1.json").unlink()
    monkeypatch.undo()
    for status in (job.status(), list_statuses(str(tmp_path / "runs"))[0]):
        assert (status.state, status.reason) == ("UNKNOWN", "no scheduler 'spool' is installed here")
    assert find_job(str(job.job_id), str(tmp_path / "runs")).path == job.path
    with pytest.raises(RefusedError, match="scheduler"):
        get_scheduler("spool")


@pytest.mark.parametrize(
    ("action", "has_ended"),
    [
        ("resume", True), ("resume --not-submitted", True), ("resume", False), ("resume --not-submitted", False),
        ("cancel", False), ("cancel --job-id 7", False),
    ],
)  # fmt: skip
def test_without_it_a_job_needs_its_package_not_an_option(
    desk: Path, run_cli: Cli, action: str, has_ended: bool
) -> None:
    job = make_job(desk / "runs" / "job", scheduler="spool")
    if has_ended:
        start(job)
        end(job, 1)
    words, *options = action.split()
    ran = run_cli(words, "job", *options)
    package = "the job's scheduler 'spool' is not installed here: install the package that adds it beside vllm-hpc\n"
    assert (ran.code, ran.err) == (2, f"Error: {package}")
    assert not job.cancelled.exists()


def test_without_it_its_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RefusedError, match='--scheduler must be one of "auto", "kubernetes", "local", "pbs", "slurm", not \'spool\''
    ):
        plan_only(rehearse=True, scheduler="spool")


@pytest.mark.parametrize(
    ("name", "said"),
    [("broken", "cannot import 'no_such_module:SCHEDULER'"), ("wrong", "called .wrong."), ("other", "called .other.")],
)
def test_an_entry_point_that_names_no_scheduler_is_refused(spool: Path, name: str, said: str) -> None:
    with pytest.raises(RefusedError, match=f"--scheduler {name}: .*{said}"):
        get_scheduler(name)
