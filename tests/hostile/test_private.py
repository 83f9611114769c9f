"""--private: what a job writes is for whoever submitted it, and nobody else, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.hostile.conftest import Neighbours
from vllm_hpc.jobfolder.private import private_files
from vllm_hpc.jobs.submit import prepare, submit

pytestmark = pytest.mark.trust


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Of a project, in which everybody reads and the group writes."""
    before = os.umask(0o002)
    yield
    assert os.umask(before) == 0o002, "a umask was not put back"


def open_to_others(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


def test_a_private_folder_is_for_nobody_else(desk: Path) -> None:
    job = submit(rehearse=True, scheduler="slurm", private=True)
    assert job.path.stat().st_mode & 0o777 == 0o700
    assert open_to_others(job.path) == []
    assert (desk / "runs").stat().st_mode & 0o777 == 0o775
    job.collect()
    assert job.folder.outputs.stat().st_mode & 0o777 == 0o600


def test_what_is_closed_is_said_with_whom_to_ask(neighbours: Neighbours) -> None:
    """Not as a job that is broken, nor from Python as an error of Python's own."""
    victim, colleague, project = neighbours
    words = ("submit", "--rehearse", "--scheduler", "local", "--job-dir", project, "--name", "theirs", "--private")
    assert colleague.vllm_hpc(*words).returncode == 0
    said = f"is closed to you (--private, or {colleague.uid}'s umask): ask {colleague.uid}"
    for command in ("status", "logs", "collect", "cancel", "resume"):
        done = victim.vllm_hpc(command, project / "theirs")
        assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr
    assert said in victim.vllm_hpc("list", "--job-dir", project, "--json").stdout


def test_any_other_follows_the_umask(desk: Path, run_cli: Cli) -> None:
    assert run_cli("submit", "--rehearse", "--scheduler", "slurm", "--name", "first").code == 0
    assert (desk / "runs/first").stat().st_mode & 0o777 == 0o755
    assert run_cli("collect", "runs/first").code in (0, 3)
    assert (desk / "runs/first/outputs.jsonl").stat().st_mode & 0o777 == 0o664


def test_job_toml_and_the_command_line_ask_for_it(desk: Path, run_cli: Cli) -> None:
    (desk / "job").mkdir()
    (desk / "job" / "job.toml").write_text('rehearse = true\nscheduler = "slurm"\nprivate = true\nname = "a"\n')
    assert run_cli("submit", "job").code == 0
    assert run_cli("submit", "--rehearse", "--scheduler", "slurm", "--private", "--name", "b").code == 0
    assert [open_to_others(desk / "runs" / name) for name in "ab"] == [[], []]


@pytest.mark.parametrize(
    ("scheduler", "line"), [("slurm", "umask 077 "), ("pbs", "#PBS -W umask=077\n"), ("local", "umask 077 ")]
)
@pytest.mark.usefixtures("desk")
def test_the_script_keeps_to_it_on_its_nodes(scheduler: str, line: str) -> None:
    assert line in prepare(rehearse=True, scheduler=scheduler, private=True, tp=1).script
    assert "077" not in prepare(rehearse=True, scheduler=scheduler, tp=1).script


def test_an_error_puts_the_umask_back() -> None:
    with pytest.raises(ZeroDivisionError), private_files(True):
        1 / 0  # noqa: B018 - raises


@pytest.mark.ranks
def test_what_ranks_write_is_private(neighbours: Neighbours) -> None:
    """In a project's folder that the attacker reads: first without --private, then with it."""
    victim, attacker, project = neighbours
    for name, options, is_read in (("open", [], True), ("closed", ["--private"], False)):
        done = victim.vllm_hpc(
            "submit", "--rehearse", "--scheduler", "local", "--wait", "--job-dir", project, "--name", name, *options,
            umask=0o002,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        read = attacker.run(["cat", project / name / "outputs.jsonl"], attacker.home)
        assert (read.returncode == 0) == is_read
    assert open_to_others(project / "closed") == []
