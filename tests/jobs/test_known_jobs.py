"""The user's own list of jobs: names, ids and beginnings of them work from any folder, and nothing depends on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.named_jobs import named_job
from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobs import known_jobs as registry
from vllm_hpc.jobs.find import find_job, find_jobs
from vllm_hpc.jobs.known_jobs import forget_gone, known_jobs, remember
from vllm_hpc.spec.errors import JobNotFoundError

pytestmark = pytest.mark.notebooks


def state_file() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "vllm-hpc" / "jobs.jsonl"


def job_of(path: Path, job_id: str) -> None:
    folder = make_job(path)
    write_json(folder.submitted, Submitted("local", job_id, 1000.0))
    remember(folder)


def test_a_submission_is_found_from_any_folder(
    model: Path, desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli("submit", "model", "--name", "first", "--scheduler", "slurm").code == 0
    (known,) = known_jobs()
    assert (known.path, known.name, known.job_id) == (str(desk / "runs" / "first"), "first", "4711")
    assert state_file().stat().st_mode & 0o777 == 0o600
    (desk / "elsewhere").mkdir()
    monkeypatch.chdir(desk / "elsewhere")
    for name in ("first", "4711", "fir"):
        assert find_job(name).path == desk / "runs" / "first"


def test_a_home_that_cannot_be_written_keeps_nobody_from_submitting(
    model: Path, desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(desk / "file"))
    ran = run_cli("submit", "model", "--name", "first", "--scheduler", "slurm")
    assert (ran.code, known_jobs()) == (0, [])


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_no_list(desk: Path) -> None:
    remember(make_job(desk / "runs" / "one"))
    assert known_jobs() == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"{", b"[]\n[1]\n", b'{"path": 1, "name": "x"}\n', b"\xff\xfe\n", b"[" * 100_000,
     b'{"path": "relative", "name": "x"}\n', b'{"path": "/a\\u0000b", "name": "x"}\n'],
    ids=["empty", "zeros", "torn", "lists", "type", "bytes", "deep", "relative", "NUL"],
)  # fmt: skip
def test_a_damaged_list_is_no_error_and_goes_on(desk: Path, content: bytes) -> None:
    job_of(desk / "other" / "one", "55")
    state_file().write_bytes(content + b"\n")
    assert known_jobs() == []
    job_of(desk / "other" / "two", "56")
    assert [known.name for known in known_jobs()] == ["two"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "open"])
def test_what_is_not_the_users_own_file_is_not_obeyed(desk: Path, kind: str) -> None:
    job_of(desk / "other" / "one", "55")
    file = state_file()
    moved = file.rename(desk / "moved")
    if kind == "link":
        file.symlink_to(moved)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        moved.rename(file).chmod(0o666)
    assert known_jobs() == []


def test_a_beginning_that_several_have_names_them(desk: Path) -> None:
    for number in range(3):
        job_of(desk / "other" / f"sweep-{number}", f"9000{number}")
    job_of(desk / "runs" / "first", "8123")
    assert find_job("fir").path.name == find_job("8123").path.name == "first"
    with pytest.raises(JobNotFoundError, match=r"^'sw' fits 3 jobs: sweep-2, sweep-1, sweep-0: give more of its name"):
        find_job("sw")
    with pytest.raises(JobNotFoundError, match="fits 3 jobs"):
        find_job("9000")
    assert find_job("sweep-1").path == desk / "other" / "sweep-1"
    for unknown in ("", "812", "x", "sweep-11", "*", "swee?-1"):
        with pytest.raises(JobNotFoundError):
            find_job(unknown)


def test_whoever_ends_a_job_gives_its_whole_id(desk: Path) -> None:
    job_of(desk / "runs" / "first", "47112")
    assert find_job("4711").path.name == "first"
    with pytest.raises(JobNotFoundError):
        find_job("4711", acts=True)
    assert find_job("47112", acts=True).path.name == find_job("fi", acts=True).path.name == "first"


def test_a_job_is_found_by_the_ids_of_all_its_submissions(desk: Path) -> None:
    path = desk / "elsewhere" / "one"
    job_of(path, "8001")
    for job_id in ("8002", "8003", "8003"):
        write_json(path / "state" / "submitted.json", Submitted("local", job_id, 1000.0))
        remember(JobFolder(path))
    (known,) = known_jobs()
    assert known.ids == ("8003", "8002", "8001")
    write_json(path / "state" / "submitted.json", Submitted("local", "9001", 1000.0))  # on its node, by itself
    for job_id in ("8001", "8002", "8003", "9001"):
        assert find_job(job_id, acts=True).path == path


def test_two_jobs_of_one_name_are_told_apart_by_their_folders(desk: Path) -> None:
    for folder in ("a", "b"):
        job_of(desk / folder / "same", "1")
    with pytest.raises(JobNotFoundError, match=f"{desk}/b/same, {desk}/a/same"):
        find_job("same")
    assert find_job("same", "a").path == desk / "a" / "same"


def test_a_pattern_is_of_ones_own_jobs_under_the_folder(desk: Path) -> None:
    for name in ("sweep-1", "sweep-2", "other", "odd[1]"):
        job_of(desk / "runs" / name, name)
    job_of(desk / "elsewhere" / "sweep-3", "3")
    assert [job.path.name for job in find_jobs("sweep-*", "runs")] == ["sweep-1", "sweep-2"]
    assert [job.path.name for job in find_jobs("odd[1]", "runs")] == ["odd[1]"]
    with pytest.raises(JobNotFoundError, match="fits 'x"):
        find_jobs("x*", "runs")


def test_folders_that_are_gone_are_forgotten_but_not_a_file_system(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("kept/one", "removed/two", "unmounted/three"):
        job_of(desk / place, "1")
    (desk / "removed" / "two").rename(desk / "away")
    (desk / "unmounted").rename(desk / "not-here")
    forget_gone()
    assert [known.name for known in known_jobs()] == ["one", "three"]
    monkeypatch.setattr(registry, "_KEEP_UNSEEN_S", 0.0)
    monkeypatch.setattr(registry, "_MANY_BYTES", 0)
    remember(named_job(desk / "kept" / "four"))
    assert [known.name for known in known_jobs()] == ["one", "four"]


def test_a_long_list_becomes_short_again(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MOST_LINES", 5)
    for number in range(20):
        job_of(desk / "runs" / f"job-{number}", "1")
    assert [known.name for known in known_jobs()] == [f"job-{number}" for number in range(15, 20)]
    forget_gone()
    assert len(state_file().read_bytes().splitlines()) == 5
