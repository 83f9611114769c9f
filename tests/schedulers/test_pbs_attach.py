"""A rank is made part of its PBS job by pbs_attach, where that is, and runs on where that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_hpc.schedulers.in_script import rank
from vllm_hpc.schedulers.pbs.attach import attach_to_job

pytestmark = pytest.mark.inputs
PBS = {"PBS_JOBID": "12.head", "VLLM_HPC_JOB_ID": "12.head"}


def program(folder: Path, code: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pbs_attach"
    path.write_text(f'#!/bin/sh\necho "$*" >> {folder}/asked\n{code}\n')
    path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("job_id", "ours"), [("12.head", "12.head"), ("12[3].head", "12[].head_3"), ("12.head:15001", "12.head:15001")]
)
def test_its_session_is_attached_to_its_job(tmp_path: Path, job_id: str, ours: str) -> None:
    path = program(tmp_path / "bin", "")
    assert attach_to_job({"PBS_JOBID": job_id, "VLLM_HPC_JOB_ID": ours, "PATH": f"{path}:/bin"}) == ""
    assert (path / "asked").read_text() == f"-j {job_id} -p {os.getpid()}\n"


@pytest.mark.parametrize("conf", ["PBS_SERVER=head\nPBS_EXEC={}\nPBS_HOME=/var\n", "  PBS_EXEC = {}\n"])
def test_it_is_found_where_pbs_is_installed(tmp_path: Path, conf: str) -> None:
    program(tmp_path / "pbs" / "bin", "")
    (tmp_path / "pbs.conf").write_text(conf.format(tmp_path / "pbs"))
    environment = {**PBS, "PATH": "/nowhere", "PBS_CONF_FILE": str(tmp_path / "pbs.conf")}
    assert attach_to_job(environment) == ""
    assert attach_to_job({**PBS, "PATH": "/nowhere", "PBS_EXEC": str(tmp_path / "pbs"), "PBS_CONF_FILE": "/no"}) == ""
    assert len((tmp_path / "pbs" / "bin" / "asked").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"VLLM_HPC_JOB_ID": "77"},
        {"PBS_JOBID": "", "VLLM_HPC_JOB_ID": "12.head"},
        {"PBS_JOBID": "12.head", "VLLM_HPC_JOB_ID": "4711-1000"},
        {"PBS_JOBID": "12.head", "VLLM_HPC_JOB_ID": "123.head"},
        {"PBS_JOBID": "12.head"},
    ],
    ids=["nothing", "Slurm", "empty", "a local job in a PBS job", "another number", "not ours"],
)
def test_in_no_other_job_anything_is_asked(tmp_path: Path, environment: dict[str, str]) -> None:
    path = program(tmp_path / "bin", "")
    assert attach_to_job({**environment, "PATH": f"{path}:/bin"}) == ""
    assert not (path / "asked").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("echo 'pbs_attach: tm_attach: System Error' >&2; exit 1", "pbs_attach: tm_attach: System Error"),
        ("exit 3", "pbs_attach exited 3"),
        ("printf '\\033[31mno\\n\\nno' >&2; exit 1", "no no"),
    ],
)
def test_why_it_failed_is_one_line(tmp_path: Path, code: str, words: str) -> None:
    path = program(tmp_path / "bin", code)
    said = attach_to_job({**PBS, "PATH": f"{path}:/bin"})
    assert said.endswith(words)
    assert "\n" not in said


def test_what_cannot_be_run_or_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pbs_attach").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "bin" / "pbs_attach").chmod(0o755)
    assert "Exec format error" in attach_to_job({**PBS, "PATH": str(tmp_path / "bin")})
    assert attach_to_job({**PBS, "PATH": "/no", "PBS_CONF_FILE": "/no"}) == "pbs_attach was not found"


@pytest.mark.parametrize(("local_rank", "lines"), [("0", 1), ("1", 0)])
def test_of_a_nodes_ranks_one_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], local_rank: str, lines: int
) -> None:
    for key, value in {**PBS, "PATH": "/no", "PBS_CONF_FILE": "/no", "LOCAL_RANK": local_rank}.items():
        monkeypatch.setenv(key, value)
    rank._attach()
    said = capsys.readouterr().out
    assert said.count("\n") == lines
    assert ("ranks as part of the job: pbs_attach was not found" in said) == bool(lines)
