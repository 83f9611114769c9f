"""The Slurm script without Slurm: a scontrol and an srun of the test's let its own behaviour be seen."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.brisk import brisk, whole
from vllm_hpc.jobs.submit import submit

JOINED = 'for node in 0 1; do : > "$VLLM_HPC_FOLDER/state/joined-$VLLM_HPC_ATTEMPT-$node"; done\n'
IDLE = "for _ in {1..90}; do sleep 0.2 & wait $!; done"
SOON = {"VLLM_HPC_JOIN_TIMEOUT": "1"}


class Ran(NamedTuple):
    """What a script did: its exit code and words, what srun was given, and the job's variables there."""

    code: int
    err: str
    srun: list[str]
    seen: dict[str, str]


Run = Callable[..., Ran]


@pytest.fixture
def run(desk: Path, model: Path) -> Run:
    """Run the script of a job over two nodes; ``srun`` is shell code, ``profile`` the site's, ``edit`` the script's."""

    def script(
        profile: str = "", srun: str = JOINED, edit: tuple[str, str] = ("", ""), env: dict[str, str] | None = None
    ) -> Ran:
        (desk / "vllm-hpc.toml").write_text(f"[profiles.p]\n{profile}\n")
        job = submit(str(model), scheduler="slurm", nodes=2, profile="p", job_dir="runs")
        given, seen = desk / "given", desk / "seen"
        _client(desk, "scontrol", "echo jwb01; echo jwb02\n")
        _client(desk, "srun", f"printf '%s\\0' \"$@\" > {given}; env -0 > {seen}\n{srun}")
        text = whole((job.path / "script.sbatch").read_text())
        assert edit[0] in text
        variables = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "jwb[01-02]", **(env or {})}
        done = subprocess.run(
            ["bash", "-c", brisk(text.replace(*edit))],
            env={**os.environ, **variables}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=60,
        )  # fmt: skip
        record = json.loads((job.path / "state" / "exit-1.json").read_text())
        assert record["exit_code"] == done.returncode
        values = dict(line.split("=", 1) for line in _words(seen))
        return Ran(done.returncode, done.stderr, _words(given), values)

    return script


def _client(desk: Path, name: str, code: str) -> None:
    path = desk / "bin" / name
    path.write_text(f"#!/bin/bash\n{code}")
    path.chmod(0o755)


def _words(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1] if path.exists() else []


def names(ran: Ran) -> tuple[Any, Any]:
    return ran.seen.get("VLLM_HPC_HEAD"), ran.seen.get("VLLM_HPC_SECOND_NODE")


def test_both_nodes_are_called_by_the_sites_names(run: Run) -> None:
    assert names(run()) == ("jwb01", "jwb02")
    assert names(run('head_suffix = "i"')) == ("jwb01i", "jwb02i")


@pytest.mark.parametrize("command", ["echo 10.0.0.1 10.1.0.1", "echo; echo 10.0.0.1; echo fe80::1", "echo 10.0.0.1"])
def test_of_several_addresses_of_the_head_the_first_counts(run: Run, command: str) -> None:
    ran = run(f'head_command = "{command}"')
    assert (ran.code, names(ran)) == (0, ("10.0.0.1", "jwb02"))


@pytest.mark.parametrize("command", ["true", "no-such-command-here", "echo ' '"])
def test_a_head_command_without_an_answer_ends_the_job(run: Run, command: str) -> None:
    ran = run(f'head_command = "{command}"')
    assert (ran.code, ran.srun) == (1, [])
    assert "vllm-hpc: the profile's head_command failed, or printed no address: " + command in ran.err


def test_ranks_are_dealt_out_node_by_node_whatever_the_site_prefers(run: Run) -> None:
    assert "--distribution=block" in run(env={"SLURM_DISTRIBUTION": "cyclic"}).srun


def test_the_time_to_join_does_not_count_the_setup(run: Run) -> None:
    ran = run('setup = ["sleep 3"]', srun=f"sleep 0.5\n{JOINED}sleep 0.5", env={"VLLM_HPC_JOIN_TIMEOUT": "3"})
    assert (ran.code, ran.err) == (0, "")


def test_an_srun_that_waits_for_a_missing_node_and_ignores_term_is_killed(run: Run) -> None:
    ran = run(srun=f"trap '' TERM\n{IDLE}", edit=("-ge 30 ]", "-ge 1 ]"), env=SOON)
    assert ran.code == 137
    assert "vllm-hpc: not joined within 1 s: jwb01 jwb02\nvllm-hpc: not all nodes have joined, and srun did" in ran.err


def test_a_missing_node_ends_an_srun_that_listens(run: Run) -> None:
    one = JOINED.replace("0 1", "0")
    ran = run(srun=f"trap 'exit 143' TERM\n{one}{IDLE}", env=SOON)
    assert ran.code == 143
    assert ran.err.endswith("vllm-hpc: not joined within 1 s: jwb02\n")


def test_a_failed_rank_whose_srun_goes_on_is_cut_short(run: Run) -> None:
    failed = ': > "$VLLM_HPC_FOLDER/state/failed-$VLLM_HPC_ATTEMPT"'
    ran = run(srun=f"{JOINED}{failed}\nexec sleep 50", edit=("-ge 30 ]", "-ge 1 ]"))
    assert ran.code == 137
    assert "vllm-hpc: a rank has failed, and srun did not end" in ran.err
