"""Ranks read inputs in several files and in frames, from the middle too, when an attempt is resumed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, rehearsed_texts
from vllm_hpc import submit
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import read_index
from vllm_hpc.jobfolder.store_input import VARIABLE

pytestmark = [pytest.mark.ranks, pytest.mark.full, pytest.mark.inputs]

ROWS = [{"prompt": f"row {number}", "id": f"id-{number}"} for number in range(9000)]


@pytest.mark.parametrize(("suffix", "pack"), [(".jsonl", bytes), (".jsonl.gz", gzip.compress)])
def test_an_attempt_that_died_goes_on_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv(VARIABLE, "1000")
    (tmp_path / "in").mkdir()
    for shard in range(30):
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS[shard * 300 : (shard + 1) * 300])
        (tmp_path / "in" / f"part-{shard:02}{suffix}").write_bytes(pack(lines))
    job = submit(
        input=tmp_path / "in", job_dir=str(tmp_path), scheduler="local", dp=2, max_tokens=2, max_requeues=6,
        rehearse={"tokens_per_s": 6000, "fault": "die", "fault_s": 1.0, "fault_rank": 1}, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    status = job.wait(PATIENCE_S)
    assert (status.state, status.attempts) == ("COMPLETED", 2), (status, job.logs()[-3000:])
    index = read_index(JobFolder(job.path))
    assert (len(index.files), index.compression) == ((30, "") if suffix == ".jsonl" else (0, "zstd"))
    found = list(job.results())
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    assert [row["text"] for row in found] == rehearsed_texts(ROWS, 2)
