"""'vllm-hpc list' under a shared --job-dir: no folder in it keeps the others from being listed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests import crafted
from tests.conftest import Cli
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import read_index
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.row_ids import IdSums
from vllm_hpc.jobs.status import read_statuses

pytestmark = pytest.mark.trust

# More than any machine has memory for, at nine bytes a row.
_ROWS = 1_000_000_000  # the most that a record may have


def make(parent: Path, name: str) -> JobFolder:
    """A job that has ended with a row missing, so that its shards are counted."""
    job = crafted.make_job(parent / name, rows=[{"prompt": "a", "id": f"r{number}"} for number in range(3)])
    sums = IdSums()
    for number in range(3):
        sums.add(f"r{number}")
    write_json(job.input_json, msgspec.structs.replace(read_index(job), ids=sums.store(job.input_ids)))
    crafted.start(job)
    crafted.end(job)
    crafted.write_lines(job.shard(0, 1), [crafted.result(0, id="r0")])
    return job


def _edit(path: Path, key: str, value: object) -> int:
    return path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    kept = path.rename(path.with_name("elsewhere"))
    path.symlink_to(kept)


DAMAGES: dict[str, tuple[Callable[[JobFolder], object], str]] = {
    "no ids": (lambda job: job.input_ids.unlink(), "input.ids: No such file"),
    "ids are a pipe": (lambda job: _pipe(job.input_ids), "input.ids: it must be a regular file"),
    "ids are a link": (lambda job: _link(job.input_ids), "input.ids: it must be a regular file, not a link"),
    "ids are many": (lambda job: os.truncate(job.input_ids, 1 << 40), "input.ids: it must have 12 bytes"),
    "a broken index": (lambda job: job.input_json.write_text("{"), "input.json: submit the job again"),
    "no index": (lambda job: job.input_json.unlink(), "input.json: submit the job again"),
    "many rows": (lambda job: _edit(job.job_json, "rows", _ROWS), f"job.json says {_ROWS} rows"),
    "many rows in both": (
        lambda job: [_edit(path, "rows", _ROWS) for path in (job.job_json, job.input_json)],
        f"input.json has no blocks for {_ROWS} rows",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_folder_ends_no_list(tmp_path: Path, run_cli: Cli, what: str) -> None:
    damage, said = DAMAGES[what]
    jobs = [make(tmp_path / "runs", name) for name in ("a", "b", "c")]
    damage(jobs[1])
    found = read_statuses(jobs)
    assert [one.rows.done for one in found] == [1, 0, 1]
    assert said in found[1].reason
    listed = run_cli("list", "--json", "--job-dir", tmp_path / "runs")
    assert (listed.code, len(json.loads(listed.out))) == (0, 3), listed.err
