"""A job on this machine needs torch in this Python: it is refused before anything is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_hpc.jobs.submit import prepare
from vllm_hpc.spec.errors import RequestError

pytestmark = pytest.mark.notebooks


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.submitit_executor.find_spec", lambda name: None)


def test_a_job_on_this_machine_is_refused(desk: Path, model: Path) -> None:
    with pytest.raises(RequestError, match=r"^a job on this machine needs torch, for torchrun and gloo, but it is not"):
        prepare(str(model), scheduler="local", nodes=1, tp=1).submit()
    assert not (desk / "runs").exists()


def test_a_job_elsewhere_may_have_it_there(desk: Path, model: Path) -> None:
    assert prepare(str(model), scheduler="slurm", nodes=1, tp=1).submit().job_id


def test_so_may_one_whose_profile_loads_it(desk: Path, model: Path) -> None:
    (desk / "vllm-hpc.toml").write_text("[profiles.p]\nscheduler = 'local'\nsetup = ['module load torch']\n")
    assert prepare(str(model), profile="p", nodes=1, tp=1)._is_of_this_python is False
