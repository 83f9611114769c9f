"""Options and variables of draining, requeueing and stalling: what cannot be meant is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import crafted
from tests.conftest import Cli
from vllm_hpc.engine.rank import seconds
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.request import Request

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "lead"),
    [
        ({}, 120),
        ({"time": "1:00:00"}, 120),
        ({"time": "5"}, 60),
        ({"time": "0:20"}, 4),
        ({"time": "0:01"}, 0),
        ({"time": "5", "drain_lead": 299}, 299),
        ({"drain_lead": 65_535}, 65_535),
    ],
)
def test_the_lead(options: dict[str, object], lead: int) -> None:
    assert make_request({"model": "demo", **options}).lead_s == lead


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--drain-lead", "300", "--time", "5"],
            "--drain-lead 300 leaves nothing of --time 5 (300 s): use 299 or less",
        ),
        (
            ["--drain-lead", "30", "--time", "0:20"],
            "--drain-lead 30 leaves nothing of --time 0:20 (20 s): leave it out",
        ),
        (["--drain-lead", "29"], "--drain-lead must be a whole number from 30 to 65535"),
        (["--drain-lead", "65536"], "--drain-lead must be a whole number from 30 to 65535"),  # Slurm's own limit
        (["--max-requeues", "10001"], "--max-requeues must be a whole number from 0 to 10000"),
        (
            ["--env", "VLLM_HPC_STALL_S=soon"],
            "--env VLLM_HPC_STALL_S must be a whole number of seconds (600 is ten minutes), not 'soon'",
        ),
        (
            ["--env", "VLLM_HPC_SYNC_S=0"],
            "--env VLLM_HPC_SYNC_S must be a whole number of seconds (600 is ten minutes), not '0'",
        ),
    ],
)
@pytest.mark.usefixtures("model")
def test_what_is_refused_makes_nothing(desk: Path, run_cli: Cli, arguments: list[str], words: str) -> None:
    ran = run_cli("submit", "./model", "--scheduler", "slurm", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert words in ran.err
    assert not (desk / "runs").exists()


@pytest.mark.parametrize("value", ["-1", "1.5", "many"])
@pytest.mark.usefixtures("model")
def test_requeues_are_counted(run_cli: Cli, value: str) -> None:
    ran = run_cli("submit", "./model", f"--max-requeues={value}")
    assert (ran.code, ran.err.count("\n"), "--max-requeues" in ran.err) == (2, 1, True)


@pytest.mark.usefixtures("model")
def test_the_profiles_walltime_counts_too(desk: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles.p]\ntime = "0:40"\n')
    ran = run_cli("submit", "./model", "--scheduler", "slurm", "--profile", "p", "--drain-lead", "60")
    assert (ran.code, ran.err) == (2, "Error: --drain-lead 60 leaves nothing of --time 0:40 (40 s): use 39 or less\n")


def test_the_keys_of_a_job_definition(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('model = "demo"\nmax_requeues = 0\ndrain_lead = 90\ntime = "10"\n')
    made = make_request({"model": str(tmp_path)})
    assert (made.max_requeues, made.drain_lead, made.lead_s) == (0, 90, 90)
    with pytest.raises(RequestError, match=r"--drain-lead 90 leaves nothing of --time 1:00 \(60 s\)"):
        make_request({"model": str(tmp_path), "time": "1:00"})


def test_a_users_own_limits_may_be_given() -> None:
    env = {"VLLM_HPC_STALL_S": "3600", "VLLM_HPC_SYNC_S": "30"}  # as the error of a stalled step advises
    assert Request(model="demo", env=env).env == env


@pytest.mark.parametrize(("text", "value"), [(None, 5.0), ("", 5.0), ("0.5", 0.5), ("1e3", 1000.0)])
def test_seconds(monkeypatch: pytest.MonkeyPatch, text: str | None, value: float) -> None:
    monkeypatch.setattr(os, "environ", {} if text is None else {"VLLM_HPC_SYNC_S": text})
    assert seconds("VLLM_HPC_SYNC_S", 5.0) == value


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "5s"])
def test_nonsense_from_the_sites_environment_is_one_line_on_record(tmp_path: Path, text: str) -> None:
    folder = crafted.make_job(tmp_path / "job")
    given = {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "VLLM_HPC_TASK": "0", "VLLM_HPC_ATTEMPT": "1",
        "VLLM_HPC_JOB_ID": "77-1000", "VLLM_HPC_STALL_S": text,
    }  # fmt: skip
    code = f"from vllm_hpc.engine.rank import run; run({str(folder.path)!r})"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, **given}, cwd=ROOT).returncode == 1
    error = json.loads(folder.rank_record(0).read_text())["error"]
    words = f"VLLM_HPC_STALL_S must be a number of seconds, not {text!r}: write 900, or leave it out"
    assert (error["type"], error["message"]) == ("RequestError", words)
