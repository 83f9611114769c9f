"""env: what ranks saw, side by side, and what of it is said to differ."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.conftest import Cli
from vllm_hpc.jobfolder.env_records import RankEnvironment
from vllm_hpc.jobs.compare_env import HIDDEN, NOT_SET, compare

pytestmark = pytest.mark.programs


def seen(rank: int, **changed: Any) -> RankEnvironment:
    """What a rank of two nodes with two ranks each saw."""
    node = rank // 2
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % 2),
        "WORLD_SIZE": "4",
        "OMP_NUM_THREADS": "1",
        "PATH": "/bin",
    }
    given: dict[str, Any] = {
        "host": f"node{node}", "pid": 100 + rank, "address": f"10.0.0.{node}", "interface": "ib0 (200 Gb/s)",
        "cwd": "/work", "executable": "/usr/bin/python3", "cores": f"{8 * rank}-{8 * rank + 7}",
        "versions": {"torch": "2.11"}, "memory": {"node": 2**39}, "hidden": ("HF_TOKEN",),
    }  # fmt: skip
    own = changed.pop("variables", {})
    return RankEnvironment(**{"rank": rank, "attempt": 1, **given, "variables": variables | own, **changed})


def differing(*ranks: RankEnvironment) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    return {one.name: [(value.value, value.ranks) for value in one.values] for one in compare(ranks) if one.differs}


def test_what_ranks_have_of_their_own_is_no_difference() -> None:
    assert differing(*map(seen, range(4))) == {}


@pytest.mark.parametrize(
    ("changed", "name", "value"),
    [
        ({"variables": {"OMP_NUM_THREADS": "8"}}, "OMP_NUM_THREADS", "8"),
        ({"variables": {"NCCL_DEBUG": "INFO"}}, "NCCL_DEBUG", "INFO"),
        ({"variables": {"WORLD_SIZE": "8"}}, "WORLD_SIZE", "8"),
        ({"variables": {"my_flag": "1"}}, "variable my_flag", "1"),
        ({"versions": {"torch": "2.12"}}, "torch", "2.12"),
        ({"interface": "eth0 (1 Gb/s)"}, "interface", "eth0 (1 Gb/s)"),
        ({"cwd": "/tmp"}, "cwd", "/tmp"),
        ({"attempt": 2}, "attempt", "2"),
        ({"memory": {"node": 2**38}}, "memory node", "256.0 GiB"),
        ({"memory": {"node": 2**39, "cgroup": 2**33}}, "memory cgroup", "8.0 GiB"),
        ({"hidden": ()}, "HF_TOKEN", NOT_SET),
    ],
)
def test_a_rank_that_saw_something_else_is_named(changed: dict[str, Any], name: str, value: str) -> None:
    ranks = [seen(0), seen(1), seen(2, **changed), seen(3)]
    found = differing(*ranks)
    assert list(found) == [name]
    assert (value, (2,)) in found[name]
    assert any(of == (0, 1, 3) for _, of in found[name])


def test_names_that_never_agree_are_known_and_their_neighbours_are_not() -> None:
    own = dict.fromkeys(("SLURM_PROCID", "SLURMD_NODENAME", "PMI_RANK", "CUDA_VISIBLE_DEVICES", "TMPDIR"), "x")
    assert differing(seen(0), seen(1, variables=own)) == {}
    assert list(differing(seen(0), seen(1, variables={"SLURM_NTASKS": "3"}))) == ["SLURM_NTASKS"]
    assert list(differing(seen(0), seen(1, variables={"RANKS": "3"}))) == ["RANKS"]


def put(folder: Any, *ranks: RankEnvironment) -> None:
    for one in ranks:
        folder.environment(one.rank).write_bytes(msgspec.json.encode(one))


@pytest.fixture
def job(desk: Path) -> Any:
    return crafted.make_job(desk / "runs" / "job", shape=crafted.layout(tp=4))


def test_the_command_shows_it(job: Any, run_cli: Cli) -> None:
    put(job, seen(0), seen(1), seen(2, variables={"OMP_NUM_THREADS": "8", "NCCL_IB_HCA": "a\nb\x1b[2J"}))
    outcome = run_cli("env", "job")
    lines = outcome.out.splitlines()
    assert (outcome.code, outcome.err) == (0, "")
    assert lines[0] == "3 ranks on 2 nodes; not yet told: rank 3"
    shown = {line[2:].split("  ")[0].strip(): line for line in lines[1:-1]}
    assert shown["RANK"].split()[1:] == ["0,", "1,", "2"]
    assert shown["host"].endswith("node0 (rank 0, 1); node1 (rank 2)")
    assert shown["HF_TOKEN"].endswith(HIDDEN)
    assert shown["OMP_NUM_THREADS"].startswith("! ") and shown["OMP_NUM_THREADS"].endswith("1 (rank 0, 1); 8 (rank 2)")
    assert "a b\ufffd[2J (rank 2)" in shown["NCCL_IB_HCA"]
    assert "PATH" not in shown and "PATH" in run_cli("env", "job", "--all").out
    assert lines[-1] == "Ranks differ in: NCCL_IB_HCA, OMP_NUM_THREADS"
    found = json.loads(run_cli("env", "job", "--json").out)
    assert (len(found["ranks"]), found["missing"], sorted(found["differences"])) == (
        3,
        [3],
        ["NCCL_IB_HCA", "OMP_NUM_THREADS"],
    )


BAD = {
    "empty": b"", "torn": b"{", "list": b"[]", "NUL": b"\0", "types": b'{"rank": "x"}', "deep": b"[" * 5000,
    "memory": msgspec.json.encode(seen(0)).replace(b'"memory":{', b'"memory":{"x":' + b"9" * 400 + b","),
    "none": None, "folder": "folder", "link": "link", "fifo": "fifo",
}  # fmt: skip


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_record_that_is_none_is_as_if_it_were_not_there(job: Any, desk: Path, run_cli: Cli, content: Any) -> None:
    path = job.environment(0)
    if content == "folder":
        path.mkdir()
    elif content == "fifo":
        os.mkfifo(path)
    elif content == "link":
        (desk / "elsewhere").write_bytes(msgspec.json.encode(seen(0)))
        path.symlink_to(desk / "elsewhere")
    elif content is not None:
        path.write_bytes(content)
    outcome = run_cli("env", "job")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("No rank has told what it saw: the job is ")
