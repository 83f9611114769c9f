"""The rendered scripts, whole: golden files that a reviewer can read, each clean for bash and shellcheck.

After a wanted change of a template: ``VLLM_HPC_UPDATE_GOLDEN=1 pytest tests/schedulers/test_scripts.py``, and read the
diff.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.containers import scripts as containers
from tests.real_jobs import require
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.lifecycle import lifecycle_sha256

UPDATE = "VLLM_HPC_UPDATE_GOLDEN=1 pytest tests/schedulers/test_scripts.py"
GOLDEN = Path(__file__).parents[1] / "golden"
PROFILES = """
[profiles.gres]
gpu_flag = "gres"
gpus_per_node = 8

[profiles.exclusive]
gpus_per_node = 4
exclusive = true

[profiles.setup]
gpus_per_node = 4
setup = ["module purge", "module load gcc/13 cuda/12.8"]
env = { NCCL_SOCKET_IFNAME = "hsn0", NCCL_DEBUG = "INFO" }

[profiles.juwels]
gpus_per_node = 4
gpu_flag = "gres"
head_suffix = "i"

[profiles.frontier]
gpus_per_node = 8
gpu_flag = "none"
launcher = "srun"
head_command = "hostname -i"
export_environment = false

[profiles.numa]
gpus_per_node = 4
wrapper = ["numactl", "--localalloc"]

[profiles.polaris]
scheduler = "pbs"
gpu_request = "queue"
gpus_per_node = 4
chunk = ["system=polaris"]
resources = ["filesystems=home:eagle"]
launcher = "mpiexec"
launcher_options = ["--cpu-bind", "none"]
head_suffix = ".hsn.cm.polaris.alcf.anl.gov"

[profiles.abci]
gpu_request = "queue"
account_flag = "-P"
launcher = "openmpi"

[profiles.miyabi]
gpu_request = "queue"
account_flag = "-W group_list"
launcher = "pbs_tmrsh"

[profiles.gadi]
gpu_request = "totals"
account_flag = "-P"
gpus_per_node = 4
cpus_per_rank = 12
resources = ["jobfs=400GB", "storage=gdata/xx+scratch/xx"]

[profiles.torque]
gpu_request = "nodes"
gpus_per_node = 4

[profiles.derecho]
gpus_per_node = 4
cpus_per_rank = 16
exclusive = true
resources = ["job_priority=regular", "licences={nodes}", "rt={gpus}"]
setup = ["module load cuda"]
env = { NCCL_SOCKET_IFNAME = "hsn" }

[profiles.closed]
gpus_per_node = 4
offline = true
cache_dir = "/project/cache"
scratch = "/local/$PBS_JOBID"
secrets = ["SITE_LOGIN"]
"""
# In place of lifecycle.sh's, which changes with that.
DIGEST = "0" * 64
HOSTILE = "naïve \"job\" 'of' $(x) `y` & 100%; #1"
SCRIPTS: dict[str, dict[str, Any]] = {
    "1-one-gpu.sbatch": {"tp": 1},
    "2-two-nodes-tp16.sbatch": {"nodes": 2, "tp": 16},
    "3-tp8-pp2-gres.sbatch": {"nodes": 2, "tp": 8, "pp": 2, "profile": "gres"},
    "4-dp4-exclusive.sbatch": {
        "nodes": 4, "gpus_per_node": 4, "dp": 4, "tp": 4, "profile": "exclusive", "account": "abc123", "qos": "high",
        "partition": "gpu", "time": "1-12:00:00", "mem": "0",
    },
    "5-cores-env-setup.sbatch": {
        "nodes": 2, "tp": 4, "dp": 2, "cpus_per_rank": 6, "profile": "setup", "env": {"NCCL_DEBUG": "WARN", "A": "b c"},
        "pass_env": ["SITE_LOGIN", "https_proxy"],
        "directive": ["--constraint=h100", "--mail-type=END --mail-user=ada@example.org"],
    },
    "6-hostile.sbatch": {
        "tp": 2, "name": HOSTILE, "job_dir": "/scratch/my runs/$HOME \"é\"", "env": {"WORDS": "it's $(x) \"y\" \\ é"},
    },
    "7-local.sh": {"tp": 2, "scheduler": "local"},
    "8-array-of-4.sbatch": {"nodes": 1, "gpus_per_node": 8, "tp": 8, "dp": 4, "array": True},
    "9-head-suffix.sbatch": {"nodes": 2, "tp": 8, "profile": "juwels"},
    "10-srun-head-command.sbatch": {"nodes": 2, "tp": 16, "profile": "frontier", "cpus_per_rank": 7, "time": "30"},
    "11-pbs.pbs": {"nodes": 2, "tp": 16, "scheduler": "pbs", "time": "2:00:00", "partition": "gpu"},
    "12-pbs-select.pbs": {
        "nodes": 2, "tp": 4, "dp": 2, "profile": "derecho", "scheduler": "pbs", "account": "UABC 0001", "mem": "480G",
        "partition": "main", "time": "12:00:00", "directive": ["-m abe -M ada@example.org"], "max_requeues": 0,
    },
    "13-pbs-queue-mpiexec.pbs": {
        "nodes": 10, "tp": 4, "dp": 10, "profile": "polaris", "scheduler": "pbs", "time": "3:00:00", "account": "p",
    },
    "14-pbs-queue-openmpi.pbs": {
        "nodes": 2, "tp": 8, "dp": 2, "profile": "abci", "scheduler": "pbs", "partition": "rt_HF",
    },
    "15-pbs-queue-tmrsh.pbs": {"nodes": 8, "tp": 8, "profile": "miyabi", "scheduler": "pbs", "account": "gx01"},
    "16-pbs-totals.pbs": {
        "nodes": 2, "tp": 8, "profile": "gadi", "scheduler": "pbs", "account": "ab12", "partition": "gpuvolta",
        "mem": "380G",
    },
    "17-pbs-nodes.pbs": {"nodes": 2, "tp": 8, "profile": "torque", "scheduler": "pbs", "mem": "64000M"},
    "18-pbs-array-of-4.pbs": {"nodes": 2, "tp": 16, "dp": 4, "array": True, "scheduler": "pbs", "time": "600"},
    "19-pbs-hostile.pbs": {
        "tp": 2, "name": HOSTILE.replace("ï", "i"), "job_dir": "/scratch/my runs/$HOME \"e\"", "scheduler": "pbs",
        "env": {"WORDS": "it's $(x) \"y\" \\ é"}, "account": "it's a \"b\"",
    },
    "20-wrapper.sbatch": {"nodes": 2, "tp": 4, "dp": 2, "profile": "numa"},
    "21-offline-scratch.pbs": {"nodes": 2, "tp": 8, "profile": "closed", "scheduler": "pbs"},
    **containers.SCRIPTS,
}  # fmt: skip


@pytest.fixture
def render(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Render a script of the table, with nothing of this machine in it."""
    (desk / "vllm-hpc.toml").write_text(PROFILES + containers.PROFILES)
    monkeypatch.setenv("SITE_LOGIN", "hunter2")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/python")
    monkeypatch.setattr("vllm_hpc.schedulers.script.__version__", "VERSION")
    monkeypatch.setattr("vllm_hpc.schedulers.script._umask", lambda: "022")

    def script(file: str) -> str:
        options = {"scheduler": "slurm", "name": "run", "job_dir": "/scratch/runs", **SCRIPTS[file]}
        return prepare(str(model), **options).script.replace(lifecycle_sha256(), DIGEST)

    return script


@pytest.mark.parametrize("file", SCRIPTS)
def test_the_script_is_the_golden_one(render: Any, file: str) -> None:
    script = render(file)
    golden = GOLDEN / file
    if os.environ.get("VLLM_HPC_UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(script, encoding="utf-8")
    assert script == golden.read_text(encoding="utf-8"), f"meant? {UPDATE}"


@pytest.mark.parametrize("file", SCRIPTS)
@pytest.mark.parametrize("command", [["bash", "-n"], ["shellcheck", "--shell=bash", "-"]], ids=["bash", "shellcheck"])
def test_the_script_is_clean(render: Any, file: str, command: list[str]) -> None:
    require(shutil.which(command[0]) is not None, f"not installed: {command[0]}")
    check = subprocess.run(command, input=render(file), text=True, capture_output=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_every_golden_file_belongs_to_a_layout() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir() if path.is_file()) == sorted(SCRIPTS)


@pytest.mark.parametrize("file", SCRIPTS)
def test_directives_come_before_the_first_command(render: Any, file: str) -> None:
    """sbatch stops reading them there (man sbatch)."""
    lines = render(file).splitlines()
    assert lines[0] == ("#!/bin/bash -l" if file.endswith(".pbs") else "#!/usr/bin/env bash")
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    places = [number for number, line in enumerate(lines) if line.startswith(("#SBATCH", "#PBS"))]
    assert bool(places) == (not file.endswith(".sh"))
    assert all(place < first_command for place in places)


@pytest.mark.parametrize("file", SCRIPTS)
def test_the_script_is_read_in_a_minute(render: Any, file: str) -> None:
    lines = render(file).splitlines()
    assert len(lines) <= 71
    ours = [line for line in lines if not line.startswith(("#SBATCH", "#PBS", "job=", "export "))]
    assert [line for line in ours if len(line) > 120] == []


def sections(script: str) -> list[str]:
    """What marks the sections of a script, in the order in which they come."""
    marks = (
        "set -uo pipefail", "export VLLM_HPC_JOB_ID", "job=", "lifecycle=", "begin_attempt", "export PATH=/opt/",
        "_nodes", "VLLM_HPC_HEAD=", "VLLM_HPC_PORT=", "run_ranks() {", "launch() {", "make_task", "run_work ",
    )  # fmt: skip
    found = sorted((script.index(mark), mark) for mark in marks if mark in script)
    return [mark for _, mark in found]


def test_the_scripts_of_slurm_and_pbs_read_alike(render: Any) -> None:
    alike = [file for file in SCRIPTS if not file.endswith(".sh") and not file.startswith("10-")]
    orders = {tuple(sections(render(file))) for file in alike}
    assert len(orders) == 1
    (order,) = orders
    assert len(order) == 13
    local = sections(render("7-local.sh"))
    assert local == [mark for mark in order if mark in local]


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_srun_repeats_the_cores_that_sbatch_was_told(render: Any) -> None:
    script = render("5-cores-env-setup.sbatch")
    assert "--cpus-per-task=24" in directives(script)
    _, srun = script.replace("\\\n", " ").split("  srun ")
    assert " --cpus-per-task=24 " in srun.splitlines()[0]
    assert "cpus-per-task=" not in render("2-two-nodes-tp16.sbatch")


def test_each_gpu_dialect_is_asked_for_once(render: Any) -> None:
    assert "--gpus-per-node=8" in directives(render("2-two-nodes-tp16.sbatch"))
    gres = directives(render("3-tp8-pp2-gres.sbatch"))
    assert "--gres=gpu:8" in gres
    assert not any(line.startswith("--gpus-per-node") for line in gres)


def test_what_was_asked_of_the_scheduler_is_in_the_directives(render: Any) -> None:
    lines = directives(render("4-dp4-exclusive.sbatch"))
    wanted = ["--nodes=4", "--exclusive", "--partition=gpu", "--account=abc123", "--qos=high", "--time=1-12:00:00"]
    assert set(wanted) <= set(lines)
    assert "--mem=0" in lines


def test_every_branch_of_the_template_is_in_a_golden_script(render: Any) -> None:
    """What no script of the table holds, neither bash nor shellcheck has ever read."""
    array = render("8-array-of-4.sbatch")
    assert "--array=0-3" in directives(array)
    assert 'VLLM_HPC_TASK="$SLURM_ARRAY_TASK_ID"' in array
    suffix = render("9-head-suffix.sbatch")
    assert 'VLLM_HPC_HEAD="$(add_suffix "${nodes[0]}" i)"\n' in suffix
    assert 'VLLM_HPC_SECOND_NODE="$(add_suffix "${nodes[1]:-}" i)"' in suffix
    srun = render("10-srun-head-command.sbatch")
    assert "--export=NONE" in directives(srun)
    assert "--ntasks-per-node=8" in directives(srun)
    assert 'head_words="$(hostname -i)"' in srun
    assert "keep_passed SITE_LOGIN https_proxy\n" in render("5-cores-env-setup.sbatch")
    assert "exec env RANK=" in srun
    assert "torchrun \\" not in srun


def test_setup_lines_come_before_the_environment_of_the_job(render: Any) -> None:
    lines = render("5-cores-env-setup.sbatch").splitlines()
    assert lines.index("module load gcc/13 cuda/12.8") < lines.index("export NCCL_DEBUG=WARN")
    assert "export A='b c'" in lines
    assert "export NCCL_DEBUG=INFO" not in lines


def test_no_template_leaves_three_blank_lines_or_trailing_space(render: Any) -> None:
    for file in SCRIPTS:
        script = render(file)
        assert "\n\n\n\n" not in script, file
        assert [line for line in script.splitlines() if line != line.rstrip()] == [], file
        assert script.endswith("\n"), file
        assert not script.endswith("\n\n"), file
