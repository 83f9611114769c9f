"""Every way to lay a job over two hosts of a PBS: complete, in order, equal to plain vLLM.

``make test`` has vLLM once over two hosts, and rehearses the other ways; ``make test-full`` has vLLM in all of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ON_VLLM, REHEARSED
from tests.real_jobs import ONE_CORE, check_complete, submit_tiny
from vllm_hpc import Job

pytestmark = [pytest.mark.pbs, pytest.mark.usefixtures("pbs")]

# An MPI, as far as a job of ours sees one: it starts one task a host, each with its number.
MPIEXEC = """#!/bin/bash
while [ "$1" != --hostfile ]; do shift; done
mapfile -t hosts < "$2"
shift 2
number=0
for host in "${hosts[@]}"; do
  pbs_tmrsh "$host" env PMI_RANK=$number "$@" &
  number=$((number + 1))
done
trap 'kill $(jobs -p)' TERM
while [ -n "$(jobs -pr)" ]; do wait; done
"""


def submit(model: Path | None, work: Path, **options: Any) -> Job:
    return submit_tiny(model, work, scheduler="pbs", **{"env": ONE_CORE, **options})


LAYOUTS: dict[str, dict[str, Any]] = {
    "PP=2 over two hosts": {"nodes": 2, "pp": 2, "launcher": "pbsdsh"},
    "native, PP=2 over two hosts": {"nodes": 2, "pp": 2, "launcher": "native"},
    "DP=2, one a host": {"nodes": 2, "dp": 2},
    "TP=2 on one host": {"nodes": 1, "tp": 2},
    "pbs_tmrsh, TP=2 over two": {"nodes": 2, "tp": 2, "launcher": "pbs_tmrsh"},
    "mpiexec, TP=2 over two": {"nodes": 2, "tp": 2, "launcher": "mpiexec"},
}


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        pytest.param({"nodes": 2, "tp": 2}, True, id="TP=2 over two hosts", marks=pytest.mark.vllm),
        *(
            pytest.param(options, *case.values, id=f"{name}-{case.id}", marks=case.marks)
            for name, options in LAYOUTS.items()
            for case in ((ON_VLLM,) if "pp" in options else (REHEARSED, ON_VLLM))  # a rehearsal has no stages
        ),
    ],
    indirect=["subject"],
)
def test_layout(
    subject: Path | None, answers: list[str], tmp_path: Path, pbs: list[str], options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    client = tmp_path / "bin" / "mpiexec"
    client.parent.mkdir()
    client.write_text(MPIEXEC)
    client.chmod(0o755)
    # Also where the job finds it: PBS has an mpiexec of its own, for MPIs that need one.
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    (tmp_path / "vllm-hpc.toml").write_text(f"[profiles.p]\nsetup = ['export PATH={client.parent}:$PATH']\n")
    monkeypatch.chdir(tmp_path)
    job = submit(subject, tmp_path, profile="p", **options)
    check_complete(job, answers)
    hosts = [rank.host for rank in job.ranks()]
    assert set(hosts) <= set(pbs)
    assert len(set(hosts)) == options["nodes"]
    log = job.logs()
    for number, host in enumerate(dict.fromkeys(hosts)):
        assert f"vllm-hpc: {host} joined as node {number}" in log


def test_array_of_four(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    job = submit(subject, tmp_path, dp=4, array=True)
    check_complete(job, answers)
    assert str(job.job_id).partition("[]")[1] == "[]"
    assert sorted(attempt.task for attempt in job.folder.attempts()) == [0, 1, 2, 3]
    assert job.status().attempts == 1
    assert all(job.folder.rank_log(rank).exists() for rank in range(4))


def test_an_array_of_one(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    """PBS has none."""
    check_complete(submit(subject, tmp_path, dp=1, array=True), answers)


def test_a_folder_that_directives_trip_over(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    work = tmp_path / "a b $HOME #1 'q' \"d\" 100%"
    work.mkdir()
    job = submit(subject, work, nodes=2, tp=2, name="naive $(id) #2 50% job")
    check_complete(job, answers)
    assert "joined as node 1" in job.logs()  # the log is where #PBS -o said
