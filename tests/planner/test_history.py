"""Rates of earlier jobs, in a folder where neighbours' jobs lie, too: whatever those hold, others count."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crafted import layout, make_job
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.planner.history import Measured, measured_rate

pytestmark = [pytest.mark.trust, pytest.mark.timeout(20)]

TOLD = {"state": "COMPLETED", "completion_tokens": 1000, "timings": {"generate": 100.0}}


def ran(path: Path, **told: object) -> Path:
    """A job that ran on an H100; its summary."""
    folder = make_job(path, 1)
    rank = RankRecord(
        rank=0, replica=0, attempt=1, host="n", pid=1, device="cuda:0", device_name="NVIDIA H100 80GB HBM3",
        device_gib=79.18, outcome="ok", updated_at=1.0,
    )  # fmt: skip
    write_json(folder.rank_record(0), rank)
    write_json(folder.summary, {**TOLD, **told})
    return folder.summary


def _with(tokens: int) -> str:
    return json.dumps({**TOLD, "completion_tokens": tokens})


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(os.mkfifo, id="fifo"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="device"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="broken link"),
        pytest.param(_sparse, id="sparse"),
        pytest.param(lambda path: path.write_text('{"state":' + "[" * 100_000), id="deep"),
        pytest.param(lambda path: path.write_text(_with(10**400)), id="many tokens"),
        pytest.param(lambda path: path.write_text(_with(-(10**9))), id="tokens below zero"),
    ],
)
@pytest.mark.parametrize("name", ["summary.json", "job.json", "ranks/rank-0.json"])
def test_a_neighbours_job_that_cannot_be_read_is_skipped(
    tmp_path: Path, leave: Callable[[Path], None], name: str
) -> None:
    ran(tmp_path / "own")
    ran(tmp_path / "theirs", completion_tokens=5000)
    (tmp_path / "theirs" / name).unlink()
    leave(tmp_path / "theirs" / name)
    assert measured_rate(tmp_path, "/models/model", "h100-80", layout()) == Measured(10.0, 1)


def test_stages_that_took_turns_say_nothing_of_those_that_overlap(tmp_path: Path) -> None:
    ran(tmp_path / "turns")
    ran(tmp_path / "native", completion_tokens=5000)
    for name, engine in (("turns", {}), ("native", {"distributed_executor_backend": "mp"})):
        record = json.loads((tmp_path / name / "job.json").read_text())
        record["plan"]["engine"] |= engine
        record["plan"]["layout"] |= {"pp": 2, "gpus_per_node": 2, "procs_per_node": 2}
        (tmp_path / name / "job.json").write_text(json.dumps(record))
    two = layout(pp=2)
    assert measured_rate(tmp_path, "/models/model", "h100-80", two) == Measured(5.0, 1)
    assert measured_rate(tmp_path, "/models/model", "h100-80", two, overlaps=True) == Measured(25.0, 1)


def test_a_job_with_fp8_says_nothing_of_one_without(tmp_path: Path) -> None:
    ran(tmp_path / "own")
    ran(tmp_path / "fp8", completion_tokens=5000)
    record = json.loads((tmp_path / "fp8" / "job.json").read_text())
    record["plan"]["engine"]["quantization"] = "fp8"
    (tmp_path / "fp8" / "job.json").write_text(json.dumps(record))
    assert measured_rate(tmp_path, "/models/model", "h100-80", layout()) == Measured(10.0, 1)
    fp8 = {"quantization": "fp8", "max_num_seqs": 4}
    assert measured_rate(tmp_path, "/models/model", "h100-80", layout(), fp8) == Measured(50.0, 1)
    assert measured_rate(tmp_path, "/models/model", "h100-80", layout(), {"kv_cache_dtype": "fp8"}) is None
