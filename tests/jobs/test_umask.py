"""A job's files follow the umask of whoever submits it: a group shares them, or nobody else sees them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import crafted
from tests.conftest import Cli
from tests.real_jobs import GREEDY, PROMPTS, check_complete, rehearsed_texts, submit_tiny
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.engine.rank import _redirect_output
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Run
from vllm_hpc.jobfolder.shards import Tally


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check_modes(folder: Path, umask: int) -> None:
    """Everybody whom the umask lets in reads all, and writes to rows and logs as their owner does.

    Nobody else writes to folders, scripts, records and marks, nor reads the secret, and what ranks saw (seen.py).
    """
    for path in (folder, *folder.rglob("*")):
        full = 0o777 if path.is_dir() or path.name.startswith("script.") else 0o666
        if path.is_dir() or path.suffix not in (".jsonl", ".ids", ".log", ".out"):
            full &= ~0o022
        if path.name == "secret" or path.match("state/env-*.json"):
            full = 0o600
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == full & ~umask, f"{path.relative_to(folder)}: {mode:o}"


@pytest.mark.inputs
def test_the_files_of_a_submission(desk: Path, model: Path, run_cli: Cli, umask: int) -> None:
    (desk / "job").mkdir()
    (desk / "job" / "job.toml").write_text('model = "../model"\nscheduler = "slurm"\n')
    (desk / "job" / "job.toml").chmod(0o600)
    assert run_cli("submit", "job", "--name", "run").code == 0
    folder = JobFolder(desk / "runs" / "run")
    folder.take("4711")
    check_modes(folder.path, umask)
    assert os.access(folder.path / "script.sbatch", os.X_OK)
    assert folder.path.joinpath("job.toml").exists()


@pytest.mark.inputs
def test_the_files_of_a_rank(tmp_path: Path, umask: int) -> None:
    folder = crafted.make_job(tmp_path / "job")
    writer = ShardWriter(folder, 0, 1, Tally(), lambda rows, prompt, completion: Run(attempt=1), 5.0)
    writer.close()
    before = os.dup(1), os.dup(2)
    try:
        _redirect_output(folder, 0)
    finally:
        os.dup2(before[0], 1)
        os.dup2(before[1], 2)
    assert folder.shard(0, 1).exists() and folder.rank_log(0).exists()
    check_modes(folder.path, umask)


@pytest.mark.full
@pytest.mark.ranks
def test_the_files_of_a_job(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        job = submit_tiny(None, tmp_path, tp=1)
        check_complete(job, rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"])))
        check_modes(job.path, 0o002)
    finally:
        os.umask(before)
