"""doctor on a PBS: its nodes report without the script's environment, which PBS does not hand on."""

from __future__ import annotations

from pathlib import Path

import pytest

import vllm_hpc
from vllm_hpc.doctor.doctor import examine

ROOT = Path(vllm_hpc.__file__).parents[1]
pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.pbs, pytest.mark.full]


def test_two_nodes_of_pbs(pbs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm-hpc.toml").write_text(
        '[profiles.site]\nscheduler = "pbs"\ngpu_flag = "none"\nenv = { OMP_NUM_THREADS = "1" }\n'
        f"setup = ['export PYTHONPATH={ROOT}']\n"  # PBS hands no environment on, and these are the versions to be found
    )
    monkeypatch.chdir(tmp_path)
    found = examine(None, on_nodes=True, profile="site", nodes=2, gpus_per_node=1, job_dir=str(tmp_path / "runs"))
    assert [one for one in found if one.status == "fail"] == []
    assert {one.where for one in found if one.check == "versions" and one.where} <= set(pbs)
    assert [one.status for one in found if one.check == "rename"] == ["ok"]
    assert [one.status for one in found if one.check == "all-reduce"] == ["ok"]
