"""`profiles init` as a command: where it writes, what it refuses, and what it says without a cluster."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.admins

RECORDED = Path(__file__).parents[1] / "slurm" / "recorded" / "mixed"
# The clients of a Slurm that tells what is recorded.
CLIENTS = {
    "sbatch": "echo slurm 22.05.8",
    "sinfo": f"cat {RECORDED}/sinfo.txt",
    "scontrol": f"""case "$*" in
*partition*) cat {RECORDED}/partitions.txt ;;
*config*) cat {RECORDED}/config.txt ;;
*) cat {RECORDED}/nodes.txt ;;
esac""",
}


@pytest.fixture
def cluster(desk: Path) -> Path:
    """Put these clients on PATH."""
    for name, line in CLIENTS.items():
        client = desk / "bin" / name
        client.write_text(f"#!/bin/sh\n{line}\n")
        client.chmod(0o755)
    return desk


@pytest.fixture
def nowhere(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any scheduler's clients."""
    (desk / "bin" / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(desk / "bin"))
    return desk


def test_it_prints_the_profile_by_default(cluster: Path, run_cli: Cli) -> None:
    printed = run_cli("profiles", "init")
    assert (printed.code, printed.err) == (0, "")
    profile = tomllib.loads(printed.out)["profiles"]["borealis"]
    assert profile["queues"]["h100"]["whole_nodes"] is True
    assert "# left out: mig: " in printed.out and "# OverSubscribe=EXCLUSIVE" in printed.out
    assert not (cluster / "vllm-hpc.toml").exists()


def test_it_writes_where_it_is_told_and_never_twice(cluster: Path, run_cli: Cli) -> None:
    first = run_cli("profiles", "init", "here", "--project")
    assert first.code == 0
    assert first.out == "Wrote vllm-hpc.toml: profile here, 10 queues. Next: vllm-hpc profiles check here\n"
    before = (cluster / "vllm-hpc.toml").read_text()
    again = run_cli("profiles", "init", "here", "--project")
    assert (again.code, again.out) == (2, "")
    assert again.err == (
        "Error: vllm-hpc.toml: has a profile 'here' already: choose another NAME, or remove that table\n"
    )
    assert (cluster / "vllm-hpc.toml").read_text() == before
    assert run_cli("profiles", "init", "other", "--project").out.startswith("Added to vllm-hpc.toml: profile other")
    assert (cluster / "vllm-hpc.toml").read_text().startswith(before)


def test_the_users_file_and_any_other(cluster: Path, run_cli: Cli) -> None:
    assert run_cli("profiles", "init", "--user").code == 0
    assert "[profiles.borealis]" in (cluster / "config/vllm-hpc/config.toml").read_text()
    assert run_cli("profiles", "init", "--output", "etc/xdg/vllm-hpc/config.toml").code == 0
    assert "[profiles.borealis]" in (cluster / "etc/xdg/vllm-hpc/config.toml").read_text()


def test_another_file_with_that_profile_is_named(cluster: Path, run_cli: Cli) -> None:
    assert run_cli("profiles", "init", "--user").err == ""
    again = run_cli("profiles", "init", "--project")
    assert again.code == 0
    assert again.err.startswith("Note: borealis is in ") and "config/vllm-hpc/config.toml, too" in again.err


def test_what_it_writes_passes_the_check(cluster: Path, run_cli: Cli) -> None:
    run_cli("profiles", "init", "--project")
    checked = run_cli("profiles", "check")
    assert (checked.code, checked.err) == (0, ""), checked.out
    assert "ok    script      borealis: 10 rehearsals can be submitted" in checked.out
    planned = run_cli("plan", "--rehearse", "--profile", "borealis", "--nodes", "12")
    assert planned.code == 2 and "queue l40s takes 1 to 4 nodes, not 12" in planned.err


def test_json(cluster: Path, run_cli: Cli) -> None:
    said = json.loads(run_cli("profiles", "init", "x", "--json").out)
    assert (said["name"], said["file"]) == ("x", None)
    assert said["profile"]["queues"]["l40s"]["gpu"] == "l40s"
    assert said["left_out"]["admin"] == "RootOnly=YES"
    assert "nodes out of service then: 1 of 10" in said["queue_notes"]["h100"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("a b",), "must be letters, digits"),
        (("site/polaris",), "must be letters, digits"),
        (("--user", "--project"), "give one of them"),
        (("--user", "--output", "f"), "give one of them"),
        (("--output", ""), "must be a file"),
        (("--output", "."), "must be a file"),
        (("--output", "new/"), "must be a file"),
        (("--output", "a", "--output", "b"), "given twice"),
        (("--scheduler", "local"), "no Slurm or PBS to ask"),
        (("--scheduler", "pbs"), "the clients of pbs are not here"),
        (("--scheduler", "lsf"), "is not one of"),
        (("x", "y"), "unexpected extra argument"),
    ],
)
def test_what_it_refuses_in_one_line(cluster: Path, run_cli: Cli, args: tuple[str, ...], words: str) -> None:
    refused = run_cli("profiles", "init", *args)
    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err and refused.err.count("\n") == 1
    assert sorted(path.name for path in cluster.iterdir()) == ["bin"]


def test_without_a_scheduler_it_says_so(nowhere: Path, run_cli: Cli) -> None:
    refused = run_cli("profiles", "init")
    assert refused.code == 2
    assert refused.err == (
        "Error: there is no Slurm or PBS to ask here (sbatch was not found, qsub was not found): "
        "run this on a login node of the cluster\n"
    )


def test_a_controller_that_is_down_is_a_failure(cluster: Path, run_cli: Cli) -> None:
    (cluster / "bin" / "scontrol").write_text("#!/bin/sh\necho 'scontrol: error: down' >&2\nexit 1\n")
    failed = run_cli("profiles", "init", "--project")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err == "Error: scontrol refused: down\n"
    assert not (cluster / "vllm-hpc.toml").exists()


@pytest.mark.parametrize(
    "text", ["", "\x00", "PartitionName=", "x" * 100_000, "\x1b]0;x\x07", "PartitionName=a State=UP"]
)
def test_a_client_that_prints_anything(cluster: Path, run_cli: Cli, text: str) -> None:
    (cluster / "odd").write_text(text)
    for name in ("sinfo", "scontrol"):
        (cluster / "bin" / name).write_text("#!/bin/sh\ncat odd\n")
    said = run_cli("profiles", "init")
    assert said.code in (0, 2) and said.err.count("\n") <= 1
    assert "\x1b" not in said.out
    if said.code == 0:
        assert tomllib.loads(said.out)["profiles"]["cluster"] == {"scheduler": "slurm", "gpu_flag": "none"}


def test_help_without_a_subcommand(run_cli: Cli) -> None:
    assert "init" in run_cli("profiles", "--help").out
    assert run_cli("profiles", "init", "--help").code == 0
    assert run_cli("profiles", "nope").code == 2
