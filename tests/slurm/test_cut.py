"""A cut between two nodes: the ranks of each are in a network of their own, and the cable between them is pulled.

Slurm's own network stays, as where a site has one for its jobs: nobody but the ranks notices.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_jobs import LONG_SAMPLING, ONE_CORE, PATIENCE_S, ends_as, processes_of, started, submit_tiny, wait_for
from tests.slurm.requeues import start_now
from vllm_hpc.jobfolder.debug_records import DebugFiles
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.programs, pytest.mark.usefixtures("slurm")]

HEAD, OTHER = "10.213.77.1", "10.213.77.2"
# Runs what it is given in its node's network.
WRAPPER = """#!/bin/sh
exec ip netns exec "{name}-$SLURM_NODEID" "$@"
"""
ROWS: list[Row] = [{"prompt": f"def function_{number}(folder):"} for number in range(600)]
# Of vLLM's, which takes as long for them, on two cores.
FEW = 40


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Networks:
    """Two networks, and the cable between them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self) -> None:
        for node in "01":
            ip("netns", "add", f"{self.name}-{node}")
            ip("-n", f"{self.name}-{node}", "link", "set", "lo", "up")
        ip(
            "link",
            "add",
            "veth0",
            "netns",
            f"{self.name}-0",
            "type",
            "veth",
            "peer",
            "veth1",
            "netns",
            f"{self.name}-1",
        )
        for node, address in (("0", HEAD), ("1", OTHER)):
            ip("-n", f"{self.name}-{node}", "address", "add", f"{address}/24", "dev", f"veth{node}")
        self.join()

    def join(self) -> None:
        for node in "01":
            ip("-n", f"{self.name}-{node}", "link", "set", f"veth{node}", "up")

    def cut(self) -> None:
        ip("-n", f"{self.name}-1", "link", "set", "veth1", "down")

    def remove(self) -> None:
        for node in "01":
            subprocess.run(["ip", "netns", "delete", f"{self.name}-{node}"], capture_output=True)


@pytest.fixture
def networks() -> Iterator[Networks]:
    made = Networks(f"vllm-hpc-{os.getpid()}")
    try:
        made.make()
        yield made
    finally:
        made.remove()


def test_a_cut_between_two_nodes(
    subject: Path | None, tmp_path: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the limit the report names the node without the head, and where its rank waits; the job goes on later."""
    wrapper = tmp_path / "in-network.sh"
    wrapper.write_text(WRAPPER.format(name=networks.name))
    wrapper.chmod(0o755)
    (tmp_path / "vllm-hpc.toml").write_text(f"[profiles.p]\nwrapper = ['{wrapper}']\nhead_command = 'echo {HEAD}'\n")
    monkeypatch.chdir(tmp_path)
    # A first step that compiles takes vLLM longer on two cores.
    env = {**ONE_CORE, "VLLM_HPC_STALL_S": "5" if subject is None else "40"}
    pace = {"rehearse": {"tokens_per_s": 2000}} if subject is None else {"max_tokens": 60}
    options = {**LONG_SAMPLING, "max_requeues": 2, **pace}
    rows = ROWS if subject is None else ROWS[:FEW]
    job = started(
        submit_tiny(subject, tmp_path, rows, scheduler="slurm", nodes=2, tp=2, profile="p", env=env, **options)
    )
    networks.cut()
    wait_for(lambda: job.folder.exit_of(1) is not None, "the first attempt ends", 180)
    hang = DebugFiles(job.folder).read_hang(1)
    assert hang is not None, job.logs()
    assert (hang.kind, hang.odd) == ("cut", (1,)), hang.lines
    assert hang.lines[0].startswith("rank 1 (node2): cut off: node2 and node1 do not reach each other")
    assert ".py:" in hang.lines[0]
    assert hang.lines[0] in job.logs()
    assert "running again: a rank died" in job.logs()
    assert not list((job.path / "state").glob("crash-*")), "no row is suspected"
    networks.join()
    start_now(job)
    status = ends_as(job, "COMPLETED", PATIENCE_S)
    assert (status.attempts, status.rows.done) == (2, len(rows))
    assert processes_of(job) == []
