"""What a rank records of what it sees: no secret, nothing that JSON cannot hold, and quickly."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_hpc.engine.standing import Standing
from vllm_hpc.engine.startup import seen
from vllm_hpc.jobfolder.env_records import RankEnvironment, read_environments
from vllm_hpc.jobfolder.folder import JobFolder

pytestmark = pytest.mark.programs

STANDING = Standing(rank=1, local_rank=1, world_size=2, task=2, attempt=3, job_id="7")
KEY = "hf_" + "aB3" * 12


def see(environment: dict[str, str], given: tuple[str, ...] = (), passed: tuple[str, ...] = ()) -> RankEnvironment:
    return seen.see(STANDING, environment, given, passed)


@pytest.mark.parametrize(
    "name",
    [
        "RANK",
        "MASTER_ADDR",
        "NCCL_DEBUG",
        "GLOO_SOCKET_IFNAME",
        "VLLM_X",
        "OMP_NUM_THREADS",
        "HF_HOME",
        "SLURM_NODEID",
        "PBS_JOBID",
        "CUDA_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "LD_LIBRARY_PATH",
    ],
)
def test_variables_that_matter_have_their_values(name: str) -> None:
    assert see({name: "value"}).variables == {name: "value"}


@pytest.mark.parametrize(
    "name", ["USER", "EDITOR", "SSH_CLIENT", "BASH_FUNC_x%%", "MYRANK", "PWD", "DBUS_SESSION_BUS_ADDRESS"]
)
def test_others_are_not_written_unless_the_job_gives_them(name: str) -> None:
    found = see({name: "value"})
    assert (found.variables, found.hidden) == ({}, ())
    assert see({name: "value"}, given=(name,)).variables == {name: "value"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "anything"), ("VLLM_API_KEY", "x1y2z3"), ("SLURM_JOB_SECRET", "s"), ("NCCL_X", KEY), ("VLLM_URL", "http://u:p4ssw@h/"),
        ("PBS_JOBCOOKIE", "0000000060B1D0C7"), ("OMPI_MCA_orte_precondition_transports", "8a7-1"),
        ("TORCH_ARGS", "--a TOKEN=abc123def"), ("HF_X", f"before\n{KEY}"), ("PYTHONPATH", "AKIA" + "A1" * 8),
    ],
)  # fmt: skip
def test_no_secret_is_written(name: str, value: str) -> None:
    found = see({name: value, "RANK": "0", "NCCL_DEBUG": "INFO"}, given=(name,))
    assert found.hidden == (name,)
    assert found.variables == {"RANK": "0", "NCCL_DEBUG": "INFO"}


def test_what_the_job_takes_by_name_is_never_written() -> None:
    found = see(
        {"RANK": "0", "PLAIN": "word", "NCCL_DEBUG": "INFO"}, given=("PLAIN",), passed=("PLAIN", "NCCL_DEBUG", "UNSET")
    )
    assert (found.variables, found.hidden) == ({"RANK": "0"}, ("NCCL_DEBUG", "PLAIN"))


def test_odd_values_are_told_as_well_as_can_be() -> None:
    found = see(
        {"NCCL_A": "\udcff", "NCCL_B": "x" * 10_000, "NCCL_C": "a\nb\0", "NCCL_D\udcff": "1"}, given=("NCCL_D\udcff",)
    )
    assert found.variables["NCCL_A"] == "\\udcff"
    assert len(found.variables["NCCL_B"]) == 4096
    assert found.variables["NCCL_C"] == "a\nb\0"
    assert found.variables["NCCL_D\\udcff"] == "1"


def test_the_place_and_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = see({"VLLM_HOST_IP": "10.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    assert (found.rank, found.attempt, found.pid, found.address, found.interface) == (
        5,
        3,
        os.getpid(),
        "10.0.0.1",
        "lo",
    )
    assert found.memory["node"] > 2**20 and found.cores and found.versions["python"]
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert see({}).cwd == "(removed)"


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 3, 8], "0-3,8"), ([9, 1, 0], "0-1,9"), ([0, 2, 4], "0,2,4")]
)
def test_cores_are_listed_as_the_kernel_does(numbers: list[int], text: str) -> None:
    assert seen.ranges(numbers) == text


def record(**request: Any) -> Any:
    return SimpleNamespace(request=SimpleNamespace(env={}, pass_env=[], **request))


def test_only_its_owner_reads_the_record(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    (tmp_path / "state").mkdir()
    seen.record_environment(folder, record(), STANDING)
    (found,) = read_environments(folder, range(9))
    assert found.rank == 5
    assert stat.S_IMODE(folder.environment(5).stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    seen.record_environment(JobFolder(tmp_path), record(), STANDING)
    assert list(tmp_path.iterdir()) == []
