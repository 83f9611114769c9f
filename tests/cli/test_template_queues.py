"""vllm-hpc templates with a profile that has queues: sample jobs are in the one that takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.admins

SLURM = "slurm.sbatch.j2"
KARO = """\
[profiles.karo]
scheduler = "slurm"
gpus_per_node = 8
[profiles.karo.queues.exp]
by_request = true
max_nodes = 9
[profiles.karo.queues.one]
max_nodes = 1
max_time = "00:30:00"
[profiles.karo.queues.gpu]
max_nodes = 9
gpus_per_node = 4
gpu_type = "a100"
directives = ["--constraint=x"]
"""
# The default partition has no GPUs; and --account is asked for where there is a file of that name.
TEST_ONLY = """#!/bin/sh
case "$*" in *--test-only*) for script; do :; done ;; *) echo slurm 22.05.8; exit ;; esac
grep '^#SBATCH' "$script" >> tried
if [ -e account ] && ! grep -q -- --account= "$script"; then echo 'sbatch: error: Invalid account' >&2; exit 1; fi
grep -q '^#SBATCH --partition=' "$script" && exit
echo 'sbatch: error: allocation failure: Requested node configuration is not available' >&2
exit 1
"""


@pytest.fixture
def karo(desk: Path) -> Path:
    """A cluster shaped like Karolina: jobs that name no partition go where there are no GPUs."""
    (desk / "bin" / "sbatch").write_text(TEST_ONLY)
    (desk / "vllm-hpc.toml").write_text(KARO)
    return desk


def test_a_sample_job_is_in_the_queue_that_submit_would_choose(karo: Path, run_cli: Cli) -> None:
    ran = run_cli("templates", "check", "--profile", "karo")
    assert (ran.code, ran.err) == (0, ""), ran.out
    tried = (karo / "tried").read_text()
    assert "--partition=gpu\n" in tried and "--partition=one\n" in tried and "--partition=exp\n" not in tried
    two = run_cli("templates", "show", SLURM, "--profile", "karo", "--nodes", "2").out.splitlines()
    for line in ("--partition=gpu", "--gpus-per-node=a100:4", "--time=1:00:00", "--constraint=x"):
        assert two.count(f"#SBATCH {line}") == 1, line
    one = run_cli("templates", "show", SLURM, "--profile", "karo", "--nodes", "1").out.splitlines()
    assert "#SBATCH --partition=one" in one and "#SBATCH --time=00:30:00" in one


def test_a_sample_job_that_no_queue_takes_is_not_tried(karo: Path, run_cli: Cli) -> None:
    text = KARO.replace("max_nodes = 9", "min_nodes = 10")
    (karo / "vllm-hpc.toml").write_text(text)
    assert run_cli("templates", "check", "--profile", "karo").code == 0
    assert "--nodes=2\n" not in (karo / "tried").read_text()
    (karo / "vllm-hpc.toml").write_text(text.replace("by_request = true", "").replace("min_nodes = 10", "", 1))
    assert "#SBATCH --partition=exp\n" in run_cli("templates", "show", SLURM, "--profile", "karo", "--nodes", "2").out


def test_the_script_that_sbatch_refuses_is_said(karo: Path, run_cli: Cli) -> None:
    (karo / "account").touch()
    ran = run_cli("templates", "check", "--profile", "karo")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith(
        "fail  test-only   slurm.sbatch.j2: sbatch --test-only refuses --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 "
        "--partition=one --time=00:30:00: Invalid account [slurm, torchrun, 1 node, queue one, and "
    )


def test_without_the_account_that_jobs_give_sbatch_is_not_asked(karo: Path, run_cli: Cli) -> None:
    (karo / "account").touch()
    (karo / "vllm-hpc.toml").write_text(
        KARO.replace("[profiles.karo]", '[profiles.karo]\nrequired = ["account", "time"]')
    )
    ran = run_cli("templates", "check", "--profile", "karo")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("skip  test-only   sbatch was not asked: each job must give account\nok: ")
    assert not (karo / "tried").exists()
    found = json.loads(run_cli("templates", "check", "--profile", "karo", "--json").out)
    assert (found["ok"], "sbatch" in found["tools"], found["findings"][0]["status"]) == (True, False, "skip")
