"""`profiles check`: what is wrong with a profile; and what all commands of profiles refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_profiles_init import CLIENTS
from tests.conftest import Cli

pytestmark = pytest.mark.admins

SITE = """\
[profiles.borealis]
description = "Borealis"
scheduler = "slurm"
setup = ["module load cuda"]
env = { NCCL_DEBUG = "WARN", A = "site" }

[profiles.borealis.queues.h100]
min_nodes = 2
max_nodes = 10
max_time = "12:00:00"
gpus_per_node = 8
gpu_type = "h100"

[profiles.borealis.queues.l40s]
gpus_per_node = 4
max_nodes = 4
"""
USER = """\
[profiles.borealis]
account = "pi_kim"
setup = ["+", "module load vllm"]
"""
PROJECT = """\
[profiles.borealis]
required = ["account", "time"]
[profiles.borealis.env]
A = "project"
[profiles.borealis.queues.h100]
max_nodes = 4
[profiles.other]
extends = "borealis"
qos = "high"
[profiles.lone]
scheduler = "local"
"""


def make_site(desk: Path) -> Path:
    """A site's file, the user's and the project's, on a machine with the recorded Slurm."""
    files = {"../site": SITE, "config": USER}
    for folder, text in files.items():
        path = desk / folder / "vllm-hpc" / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (desk / "vllm-hpc.toml").write_text(PROJECT)
    for name, line in CLIENTS.items():
        client = desk / "bin" / name
        client.write_text(f"#!/bin/sh\n{line}\n")
        client.chmod(0o755)
    return desk


@pytest.fixture
def site(desk: Path) -> Path:
    return make_site(desk)


def add(desk: Path, text: str) -> None:
    path = desk / "vllm-hpc.toml"
    path.write_text(path.read_text() + text)


def checked(run_cli: Cli, *args: str) -> dict[str, list[str]]:
    """What `profiles check` finds, as "status check: found", by profile."""
    found: dict[str, list[str]] = {}
    for one in json.loads(run_cli("profiles", "check", *args, "--json").out):
        assert set(one) == {"check", "where", "status", "found", "advice"}
        found.setdefault(one["where"], []).append(f"{one['status']} {one['check']}: {one['found']}")
    return found


def test_check_passes_what_fits_the_cluster(site: Path, run_cli: Cli) -> None:
    done = run_cli("profiles", "check", "borealis")
    assert (done.code, done.err) == (0, ""), done.out
    assert "ok    cluster     borealis: Slurm 22.05.8 of borealis has the partitions" in done.out
    assert "ok    script      borealis: 2 rehearsals can be submitted" in done.out
    assert list(checked(run_cli)) == ["borealis", "other", "lone"], "without NAME all, but for the gallery"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[profiles.x]\nscheduler = "slurm"\npartition = "nope"\n', "fail cluster: queue nope: there is no partition"),
        ('[profiles.x.queues.nope]\n[profiles.x]\nscheduler = "slurm"\n', "fail cluster: queue nope: there is no"),
        (
            '[profiles.x]\nscheduler = "slurm"\nqueues.l40s = { max_nodes = 99, gpus_per_node = 4 }\n',
            "warn cluster: queue l40s: max_nodes is 99, and the cluster's is 4",
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\ngpus_per_node = 8\nqueues.h100 = { max_time = "2-00:00:00" }\n',
            "warn cluster: queue h100: max_time is 2-00:00:00, and the cluster's is 12:00:00",
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\nqueues.l40s = { gpus_per_node = 4, gpu_type = "a100" }\n',
            "fail cluster: queue l40s: gpu_type is a100, and the cluster has nvidia_l40s",
        ),
        ('[profiles.x]\nscheduler = "slurm"\nqueues.old = {}\n', "warn cluster: queue old: its State is DOWN"),
        ('[profiles.x]\nscheduler = "pbs"\nqueues.prod = {}\n', "skip cluster: the clients of pbs are not here"),
        ('[profiles.x]\nscheduler = "slurm"\nchunk = ["a=b"]\n', "warn keys: slurm does not use: chunk"),
        (
            '[profiles.x]\nscheduler = "pbs"\nqueues.p = { gpu_type = "x" }\n',
            "warn keys: pbs does not use: queues.p.gpu_type",
        ),
        ("[profiles.x]\nnodez = 1\n", "fail files: "),
        ('[profiles.x]\nextends = "site/none"\n', "fail files: "),
        ('[profiles.x]\nextends = "x"\n', "fail files: "),
        ('[profiles.x]\ntemplate_dir = "gone"\n', "fail files: "),
        ('[profiles.x]\naccount = "$NOT_SET_HERE"\n', "fail variables: "),
        (
            '[profiles.x]\nscheduler = "local"\ncontainer = { image = "/no/such.sif" }\n',
            "fail container: no such image",
        ),
        ('[profiles.x]\nscheduler = "local"\nrequired = ["python"]\n', "skip script: only jobs give: python"),
        (
            '[profiles.x]\nscheduler = "slurm"\nqueues.l40s = { gpus_per_node = 4, by_request = true }\n',
            "warn queues: all have by_request",
        ),
        (
            '[profiles.x]\nscheduler = "slurm"\ntime = "90"\ngpus_per_node = 4\nqueues.l40s = { max_time = "60" }\n',
            "fail script: queue l40s: ",
        ),
    ],
)
def test_check_finds(site: Path, run_cli: Cli, text: str, fault: str) -> None:
    add(site, text)
    found = checked(run_cli, "x")["x"]
    assert any(one.startswith(fault) for one in found), found
    assert run_cli("profiles", "check", "x").code == (1 if any(one.startswith("fail") for one in found) else 0)


def test_a_template_that_cannot_be_rendered_is_found(site: Path, run_cli: Cli) -> None:
    (site / "templates").mkdir()
    (site / "templates" / "slurm.sbatch.j2").write_text(
        "{% extends 'packaged/slurm.sbatch.j2' %}{% block launch %}{{ x.y }}{% endblock %}"
    )
    add(site, '[profiles.x]\nscheduler = "slurm"\ntemplate_dir = "templates"\ngpus_per_node = 4\n')
    found = checked(run_cli, "x")["x"]
    assert any(one.startswith("fail script: ") and "slurm.sbatch.j2" in one for one in found), found
    assert any(one.startswith("fail templates: ") for one in found), found


def test_templates_are_tried_with_all_kinds_of_jobs(site: Path, run_cli: Cli) -> None:
    (site / "templates").mkdir()
    template = site / "templates" / "slurm.sbatch.j2"
    template.write_text('{% extends "packaged/slurm.sbatch.j2" %}{% block enviroment %}x{% endblock %}')
    add(site, '[profiles.x]\nscheduler = "slurm"\ntemplate_dir = "templates"\ngpus_per_node = 4\n')
    found = checked(run_cli, "x")["x"]
    assert any("enviroment" in one for one in found if "templates: " in one), found
    template.write_text('{% extends "packaged/slurm.sbatch.j2" %}')
    assert any(one.startswith("ok templates: ") for one in checked(run_cli, "x")["x"])


def test_check_writes_and_submits_nothing(site: Path, run_cli: Cli) -> None:
    before = sorted(site.rglob("*"))
    run_cli("profiles", "check")
    assert sorted(site.rglob("*")) == before


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize("name", ["nope", "site/nope", "", "a b", "../x", "\x1b[2J", "x" * 5000, "$(id)", "é"])
def test_an_unknown_profile_is_refused_in_one_line(site: Path, run_cli: Cli, command: str, name: str) -> None:
    refused = run_cli("profiles", command, name)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("Error: no profile ") and refused.err.count("\n") == 1
    assert "\x1b" not in refused.err and len(refused.err) < 2000


def test_without_any_profile_list_is_the_gallery_and_check_says_so(desk: Path, run_cli: Cli) -> None:
    assert run_cli("profiles", "list").code == 0
    refused = run_cli("profiles", "check")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "write one with 'vllm-hpc profiles init'" in refused.err


@pytest.mark.parametrize("text", ["[profiles", "x = 1\n", "profiles = 3\n", "\x00", "[profiles]\nx = 3\n"])
def test_a_file_that_cannot_be_read_is_told_of(desk: Path, run_cli: Cli, text: str) -> None:
    (desk / "vllm-hpc.toml").write_text(text)
    for command in ("list", "check"):
        said = run_cli("profiles", command)
        assert said.code in (0, 1, 2) and "Traceback" not in said.err + said.out
        assert "vllm-hpc.toml" in said.err + said.out


def test_what_others_can_write_is_not_obeyed(site: Path, run_cli: Cli) -> None:
    (site / "vllm-hpc.toml").chmod(0o666)
    for command in (["list"], ["show", "borealis"], ["check"]):
        refused = run_cli("profiles", *command)
        assert refused.code == 2 and "others can write to" in refused.err


def test_values_with_escapes_do_not_reach_a_terminal(site: Path, run_cli: Cli) -> None:
    add(site, '[profiles.x]\nscheduler = "local"\nsampling = { stop = "a\\u001b[2Jb\\u202e" }\n')
    for command in (["list"], ["show", "x"], ["show", "x", "--json"]):
        said = run_cli("profiles", *command)
        assert said.code == 0 and "\x1b" not in said.out and "\u202e" not in said.out
