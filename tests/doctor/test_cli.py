"""`vllm-hpc doctor` as a command: what it finds on this machine, its exit codes, and what it leaves: nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.marks import needs_torch
from tests.planner.test_offline import WHOLE

pytestmark = [pytest.mark.admins, needs_torch]

PARTITIONS = "PartitionName=debug Default=YES MaxNodes=4 MaxTime=00:30:00 MinNodes=0 State=UP TotalNodes=8"


def client(desk: Path, name: str, text: str) -> None:
    file = desk / "bin" / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def cluster(desk: Path) -> Path:
    """A Slurm whose clients answer, without accounting."""
    client(desk, "scontrol", f"echo '{PARTITIONS}'")
    client(desk, "sacctmgr", "echo 'You are not running a supported accounting_storage plugin' >&2; exit 1")
    client(desk, "sbatch", 'case "$*" in *--test-only*) echo "sbatch: Job 7 to start at noon" >&2 ;; *) exit 1 ;; esac')
    return desk


def findings(run_cli: Cli, *args: str) -> dict[str, dict[str, str]]:
    found = run_cli("doctor", "--json", *args)
    listed = json.loads(found.out)
    assert found.code == int(any(one["status"] == "fail" for one in listed)), found
    assert all(
        set(one) in ({"check", "status", "found", "advice"}, {"check", "where", "status", "found", "advice"})
        for one in listed
    )
    return {one["check"]: one for one in listed}


def status(run_cli: Cli, *args: str) -> dict[str, str]:
    return {name: one["status"] for name, one in findings(run_cli, *args).items()}


def test_a_sound_machine(run_cli: Cli, cluster: Path) -> None:
    before = sorted(cluster.rglob("*"))
    found = run_cli("doctor", "--scheduler", "slurm", "--nodes", "2", "--gpus-per-node", "4", "--time", "20")
    assert found.code == 0, found
    lines = [line.split()[:2] for line in found.out.splitlines()]
    assert lines == [
        ["ok", "versions"], ["ok", "job-dir"], ["ok", "clock"], ["ok", "script"], ["ok", "scheduler"],
        ["ok", "partition"], ["skip", "account"], ["ok", "test-only"],
    ]  # fmt: skip
    assert [path for path in sorted(cluster.rglob("*")) if path not in before] == []


def test_a_partition_that_does_not_exist(run_cli: Cli, cluster: Path) -> None:
    found = findings(run_cli, "--scheduler", "slurm", "--partition", "nowhere", "--nodes", "2")
    assert found["partition"]["status"] == "fail"
    assert found["partition"]["found"] == "there is no 'nowhere'; there are debug"


def test_a_missing_model(run_cli: Cli, cluster: Path) -> None:
    found = findings(run_cli, "/no/such/model", "--scheduler", "slurm")
    assert found["model"]["status"] == "fail"
    assert "no such model folder: '/no/such/model'" in found["model"]["found"]


def test_a_model_that_is_there(run_cli: Cli, cluster: Path, model: Path) -> None:
    assert status(run_cli, str(model), "--scheduler", "slurm")["model"] == "ok"
    (model / "config.json").unlink()
    assert status(run_cli, str(model), "--scheduler", "slurm")["model"] == "fail"


@pytest.fixture
def hub_model(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whole model org/m in the shared cache of an offline site, whose profile is p."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (cluster / "vllm-hpc.toml").write_text(
        f'[profiles.p]\nscheduler = "slurm"\noffline = true\ncache_dir = "{cluster}/shared"\n'
    )
    repository = cluster / "shared" / "huggingface" / "hub" / "models--org--m"
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    for name, content in WHOLE.items():
        (snapshot / name).write_bytes(content)
    return snapshot


def test_an_offline_model_is_looked_for_where_ranks_look(run_cli: Cli, hub_model: Path) -> None:
    found = findings(run_cli, "org/m", "--profile", "p")["model"]
    assert (found["status"], found["found"]) == ("ok", f"org/m: in the cache, {hub_model}")
    (hub_model / "model.safetensors").unlink()
    found = findings(run_cli, "org/m", "--profile", "p")["model"]
    assert (found["status"], found["advice"]) == ("fail", "run 'vllm-hpc fetch org/m --profile p' first")
    assert "is not whole in the cache" in found["found"]


def test_what_ranks_may_download_is_a_warning(run_cli: Cli, hub_model: Path) -> None:
    elsewhere = ("--env", f"HF_HUB_CACHE={hub_model.parents[4]}/none")
    assert findings(run_cli, "org/m", "--profile", "p", *elsewhere)["model"]["status"] == "fail"
    online = findings(run_cli, "org/m", "--profile", "p", *elsewhere, "--env", "HF_HUB_OFFLINE=0")["model"]
    assert (online["status"], "fetch it here first" in online["advice"]) == ("warn", True)
    on_nodes = findings(run_cli, "org/m", "--profile", "p", "--env", "HF_HUB_CACHE=$TMPDIR/hub")["model"]
    assert on_nodes["status"] == "skip"


def test_a_container_that_is_not_there(run_cli: Cli, cluster: Path) -> None:
    (cluster / "vllm-hpc.toml").write_text(
        '[profiles.site]\nscheduler = "slurm"\ncontainer = { runtime = "apptainer", image = "/no/such/vllm.sif" }\n'
    )
    found = findings(run_cli, "--profile", "site")
    assert found["container"]["status"] == "fail"
    assert found["container"]["found"] == "/no/such/vllm.sif: No such file or directory"


def test_the_queue_that_a_profile_chooses_is_told(run_cli: Cli, cluster: Path) -> None:
    (cluster / "vllm-hpc.toml").write_text(
        '[profiles.site]\nscheduler = "slurm"\n[profiles.site.queues.debug]\nmax_nodes = 4\n'
    )
    found = findings(run_cli, "--profile", "site", "--nodes", "2", "--gpus-per-node", "1")
    assert found["profile"]["status"] == "ok"
    assert "queue debug" in found["profile"]["found"]
    assert found["partition"]["found"] == "debug takes 2 nodes, up to 0:30:00"
    found = findings(run_cli, "--profile", "site", "--nodes", "9", "--gpus-per-node", "1", "--on-nodes")
    assert (found["queue"]["status"], found["queue"]["advice"]) == ("fail", "change --nodes")
    assert found["nodes"]["status"] == "skip"
    assert found["queue"]["found"].startswith("no queue of profile 'site' takes the job: queue debug ")


def test_a_template_that_does_not_render(run_cli: Cli, cluster: Path) -> None:
    (cluster / "slurm.sbatch.j2").write_text("{{ job.no_such_name.at_all }}")
    found = findings(run_cli, "--scheduler", "slurm", "--template-dir", ".", "--on-nodes")
    assert found["script"]["status"] == "fail"
    assert "slurm.sbatch.j2" in found["script"]["found"]
    assert found["nodes"]["status"] == "skip"
    assert not (cluster / "runs").exists()


def test_a_job_dir_that_cannot_be_written_to(run_cli: Cli, cluster: Path) -> None:
    found = findings(run_cli, "--scheduler", "slurm", "--job-dir", "/proc/runs")
    assert found["job-dir"]["status"] == "fail"


@pytest.mark.parametrize(
    ("text", "code"), [("sleep 0; echo 'Unable to contact slurm controller' >&2; exit 1", 1), ("exit 0", 0)]
)
def test_a_scheduler_that_does_not_answer(run_cli: Cli, cluster: Path, text: str, code: int) -> None:
    client(cluster, "scontrol", text)
    found = findings(run_cli, "--scheduler", "slurm")
    assert found["scheduler"]["status"] == ("fail" if code else "ok")


def test_a_refusal_of_sbatch_is_quoted(run_cli: Cli, cluster: Path) -> None:
    client(
        cluster,
        "sbatch",
        "echo 'sbatch: error: Invalid account or account/partition combination specified' >&2; exit 1",
    )
    found = findings(run_cli, "--scheduler", "slurm", "--account", "mine")
    assert found["test-only"]["status"] == "fail"
    assert "Invalid account" in found["test-only"]["found"]


@pytest.mark.parametrize(
    "args",
    [
        ("--profile", "none"), ("--nodes", "0"), ("--tp", "2"), ("--time", "soon"), ("--job-dir", "a\nb"),
        ("--partition", "a b\n--x"), ("--env", "PATH=x"), ("--launcher", "none"), ("--gpu", "abacus"), ("--mem", "x"),
        ("--nodes", "2", "--nodes", "3"), ("--engine", "x"), ("--template-dir", "/no/such"),
        ("--directive", "--nodes=3"), ("--qos", "\x1b[2J"), ("--account", ""), ("a", "b"),
    ],
)  # fmt: skip
def test_what_no_job_could_have_is_refused_in_one_line(run_cli: Cli, cluster: Path, args: tuple[str, ...]) -> None:
    found = run_cli("doctor", "--scheduler", "slurm", *args)
    if found.code == 1:  # it is a finding, told as one
        assert "fail" in found.out
        return
    assert found.code == 2, found
    assert found.out == ""
    assert len(found.err.splitlines()) == 1
    assert "Traceback" not in found.err


def test_a_job_definition_is_no_model(run_cli: Cli, cluster: Path) -> None:
    (cluster / "job").mkdir()
    (cluster / "job" / "job.toml").write_text('model = "demo"\n')
    found = run_cli("doctor", "job", "--scheduler", "slurm")
    assert (found.code, "job definition" in found.err) == (2, True)


def test_what_needs_a_cluster_is_not_here(run_cli: Cli, desk: Path) -> None:
    client(desk, "sbatch", "exit 1")
    client(desk, "qsub", "exit 1")
    found = findings(run_cli, "--nodes", "2", "--gpus-per-node", "1")
    assert found["scheduler"]["status"] == "fail"
    assert "one node" in found["scheduler"]["found"]
