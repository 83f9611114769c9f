"""Job folders in file systems that set owners or modes themselves, as NFS with all_squash and CIFS."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.spec.errors import RequestError

OTHERS = 61_999
SUBMIT = ("submit", "--rehearse", "--scheduler", "slurm", "--name", "first")


class Mount(NamedTuple):
    """What psutil tells of a mounted file system."""

    mountpoint: str
    fstype: str


def setting(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], None]) -> None:
    """Have each new temporary file changed at once, as by such a file system."""
    make = tempfile.mkstemp

    def make_and_change(*args: Any, **kwargs: Any) -> tuple[int, str]:
        descriptor, name = make(*args, **kwargs)
        change(descriptor)
        return descriptor, name

    monkeypatch.setattr("tempfile.mkstemp", make_and_change)


def test_a_mode_that_is_not_kept_is_refused(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, lambda descriptor: os.fchmod(descriptor, 0o777))
    mounts = [("/", "ext4"), (str(desk), "ext4"), (str(desk), "cifs"), (f"{desk}/other", "nfs"), (f"{desk}x", "nfs")]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [Mount(*one) for one in mounts])
    outcome = run_cli(*SUBMIT)
    assert (outcome.code, outcome.out, list((desk / "runs").iterdir())) == (2, "", [])
    said = "new files have mode 777, not the one that is asked for, for its file system sets that"
    assert outcome.err == f"Error: in '{desk}/runs/first' {said} (cifs on {desk}): choose another --job-dir\n"


def test_an_owner_that_is_not_kept_is_refused(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("a file of another user needs root")
    setting(monkeypatch, lambda descriptor: os.fchown(descriptor, OTHERS, OTHERS))
    outcome = run_cli(*SUBMIT)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"Error: in '{desk}/runs/first' new files belong to '{OTHERS}', not to you, for its")


def test_the_secret_is_not_made_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a node that mounts the folder in another way; deleting it, as was advised, did not help."""
    folder, make = make_job(tmp_path / "job"), os.open

    def make_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        descriptor = make(path, flags, *args, **kwargs)
        if flags & os.O_CREAT:
            os.fchmod(descriptor, 0o644)
        return descriptor

    monkeypatch.setattr("os.open", make_open)
    with pytest.raises(RequestError, match=r"new files have mode 644.*choose another --job-dir$"):
        job_secret(folder)
    assert [one for one in folder.secret.parent.iterdir() if "secret" in one.name] == []
