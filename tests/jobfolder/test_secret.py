"""The job's secret: made once, whoever asks first, and refused where others could have read or made it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.spec.errors import RequestError


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return crafted.make_job(tmp_path / "job")


def test_all_ranks_have_the_same(folder: JobFolder) -> None:
    """Also those of a job that an earlier version submitted, which has none yet."""
    assert not folder.secret.exists()
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: job_secret(folder), range(32)))
    assert len(found) == 1
    assert len(found.pop()) == 32
    assert [file.name for file in folder.secret.parent.glob("*secret*")] == ["secret"]


def test_jobs_have_different_ones(folder: JobFolder, tmp_path: Path) -> None:
    assert job_secret(folder) != job_secret(crafted.make_job(tmp_path / "other"))


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_only_the_owner_can_read_it(folder: JobFolder, umask: int) -> None:
    before = os.umask(umask)
    try:
        job_secret(folder)
    finally:
        os.umask(before)
    assert folder.secret.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["readable", "writable", "link", "fifo", "short", "long", "empty", "folder"])
def test_one_that_others_may_know_is_refused(folder: JobFolder, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "elsewhere" if kind == "link" else folder.secret
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(bytes({"short": 31, "long": 33, "empty": 0}.get(kind, 32)))
        path.chmod({"readable": 0o640, "writable": 0o622}.get(kind, 0o600))
    if kind == "link":
        folder.secret.symlink_to(path)
    with pytest.raises(RequestError, match=r"secret.*delete secret, and the next attempt makes another"):
        job_secret(folder)
