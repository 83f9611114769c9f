"""doctor on a real Slurm: each fault is caused, on one of two nodes, and found by what doctor says."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import make_folder
from vllm_hpc.doctor.doctor import examine
from vllm_hpc.spec.finding import Finding

pytestmark = [pytest.mark.admins, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

PROFILE = '[profiles.site]\nscheduler = "slurm"\ngpu_flag = "none"\nenv = { OMP_NUM_THREADS = "1" }\n'
# Run by each task's bash before anything else of it (BASH_ENV): NODE is 0 or 1.
ON_TASKS = (
    'if [ -z "${{SLURM_STEP_ID:-}}" ] || [ "${{SLURM_LOCALID:-}}" != 0 ]; then return; fi\nNODE=$SLURM_NODEID\n{}\n'
)
# A task of the second node that does not have a folder: it goes on in a mount namespace of its own.
WITHOUT = """if [ "$NODE" = 1 ] && [ -z "${{BARE:-}}" ]; then
  export BARE=1
  mapfile -d '' -t words < /proc/$$/cmdline
  exec unshare --mount bash -c 'mount -t tmpfs none "$0" && exec "$@"' {} "${{words[@]}}"
fi
"""
SMI = """#!/bin/sh
for n in $(seq "$GPUS_HERE"); do echo "NVIDIA H100 80GB HBM3, 81559, 570.86.15"; done
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a profile for the cluster."""
    (tmp_path / "vllm-hpc.toml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_tasks(site: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the tasks of the job run these lines first."""
    file = site / "on-tasks.sh"
    file.write_text(ON_TASKS.format(lines))
    monkeypatch.setenv("BASH_ENV", str(file))  # sbatch hands the environment on


def look(site: Path, model: str | None = None, **options: Any) -> list[Finding]:
    asked: dict[str, Any] = {
        "profile": "site",
        "nodes": 2,
        "gpus_per_node": 1,
        "job_dir": str(site / "runs"),
        **options,
    }
    return examine(model, on_nodes=True, **asked)


def of(findings: list[Finding], check: str, node: str | None = None) -> list[tuple[str, str]]:
    return [(one.status, one.found) for one in findings if one.check == check and one.where == node]


@pytest.mark.ranks
def test_two_sound_nodes(site: Path) -> None:
    found = look(site, str(make_folder(site / "model")))
    assert [one for one in found if one.status in ("warn", "fail")] == []
    for node in ("node1", "node2"):
        for check in ("versions", "network", "gloo", "port", "job-dir", "memory", "model"):
            assert [status for status, _ in of(found, check, node)] == ["ok"], (check, node, found)
    for check in ("clock", "rename"):
        assert [status for status, _ in of(found, check, "node2")] == ["ok"], (check, found)
    ((_, words),) = of(found, "all-reduce")
    assert "GB/s by gloo over 2 ranks" in words
    ((_, words),) = of(found, "test-only")
    assert "to start at" in words


def test_faults_of_one_node_are_named_by_that_node(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unequal versions, a wrong Gloo name, a GPU short, no model and no image, all on the second node, in one job."""
    # No rank starts: what is wrong is found nevertheless.
    model, image = make_folder(site / "shared" / "model"), site / "shared" / "image"
    image.mkdir()
    container = f'container = {{ runtime = "charliecloud", image = "{image}" }}'
    keys = f'gpu = "h100-80"\nwrapper = ["false"]\n{container}'
    (site / "vllm-hpc.toml").write_text(PROFILE.replace('gpu_flag = "none"', keys))
    other = site / "other" / "torch-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    smi = site / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    smi.with_name("ch-run").symlink_to("/bin/true")
    hidden = WITHOUT.format(site / "shared")
    lines = f"""{hidden}export GPUS_HERE=$((2 - NODE)) PATH="{smi.parent}:$PATH"
if [ "$NODE" = 1 ]; then export GLOO_SOCKET_IFNAME=ib9 PYTHONPATH="{other.parent}:${{PYTHONPATH:-}}"; fi"""
    on_tasks(site, lines, monkeypatch)
    found = look(site, str(model), gpus_per_node=2)
    assert of(found, "gpus", "node1") == [("ok", "2 x NVIDIA H100 80GB HBM3, driver 570.86.15, 79.65 GiB each")]
    ((status, words),) = of(found, "gpus", "node2")
    assert (status, words[:6]) == ("fail", "1 of 2")
    ((status, words),) = of(found, "gloo", "node2")
    assert status == "fail"
    assert words.startswith("GLOO_SOCKET_IFNAME=ib9 names no interface of this node")
    assert [words for status, words in of(found, "versions", "node2") if status == "fail" and "torch 9.9" in words]
    ((status, words),) = of(found, "model", "node2")
    assert status == "fail"
    assert str(model) in words
    assert of(found, "container", "node2") == [("fail", f"{image}: No such file or directory")]
    faults = [one for one in found if one.status == "fail" and one.check != "job"]
    assert {one.where for one in faults} == {"node2"}
    assert sorted(one.check for one in faults) == ["container", "gloo", "gpus", "model", "versions"]
    assert of(found, "job")[0][0] == "fail"


@pytest.mark.ranks
def test_a_node_without_the_shared_folder(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "runs").mkdir()
    on_tasks(site, WITHOUT.format(site / "runs"), monkeypatch)
    found = look(site)
    ((status, words),) = of(found, "job-dir", "node2")
    assert status == "fail"
    assert "No such file or directory" in words
    assert of(found, "job-dir", "node1")[0][0] == "ok"
    assert of(found, "job")[0][0] == "fail"


def test_a_taken_port(site: Path) -> None:
    (site / "vllm-hpc.toml").write_text(f'{PROFILE}wrapper = ["false"]\n')  # no rank starts: the nodes meet before
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        template = site / "template" / "slurm.sbatch.j2"
        template.parent.mkdir()
        template.write_text(
            '{% extends "packaged/slurm.sbatch.j2" %}{% block rendezvous %}{{ super() }}\n'
            f"export VLLM_HPC_PORT={port}\n{{% endblock %}}"
        )
        found = look(site, template_dir=str(template.parent))
    ((status, words),) = of(found, "port", "node1")
    assert status == "fail"
    assert words.startswith(f"port {port} of node1 cannot be used")
    assert "in use" in words


def test_a_partition_that_does_not_exist(site: Path) -> None:
    found = look(site, partition="nowhere")
    assert of(found, "partition") == [("fail", "there is no 'nowhere'; there are debug")]
    assert of(found, "test-only")[0][0] == "fail"
    assert of(found, "nodes")[0][0] == "skip"
    assert not (site / "runs").exists()


def test_limits_of_a_partition(site: Path) -> None:
    found = look(site, nodes=3, time="4:00:00")
    ((status, words),) = of(found, "partition")
    assert status == "fail"
    assert "at most 2 nodes, not 3" in words
    assert "at most 2:00:00, not 4:00:00" in words
