"""Jobs that run no rows: their states, what collect and resume do, and when they are run again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.conftest import Cli
from vllm_hpc.cli.print_status import wait_and_show
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.resume import resume
from vllm_hpc.jobs.status import read_status
from vllm_hpc.schedulers.in_script.requeue import should_run_again
from vllm_hpc.spec.errors import CollectError, FailedError, RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.programs

CODE = b"print(1)\n"
SCRIPT = Program(
    kind="script", name="s.py", source="/x/s.py", sha256=hashlib.sha256(CODE).hexdigest(), drives_engine=True
)


def make_script(path: Path, scheduler: str = "slurm", **request: Any) -> JobFolder:
    """A job of two ranks that run a script, in its first attempt."""
    folder = crafted.make_job(path, 0, scheduler, crafted.layout(tp=2))
    asked = Request(**{"model": "(none)", "script": "s.py", "max_requeues": 0, **request})
    record = msgspec.structs.replace(folder.job(), program=SCRIPT, request=asked)
    write_json(folder.job_json, record)
    folder.program.write_bytes(CODE)
    (folder.path / "script.sbatch").write_text("#!/bin/bash\n")
    crafted.start(folder)
    return folder


@pytest.fixture
def folder(desk: Path) -> JobFolder:
    return make_script(desk / "runs" / "job")


def end(folder: JobFolder, code: int = 0, outcomes: tuple[str, ...] = ("ok", "ok"), cause: str = "exit") -> None:
    crafted.end(folder, code, cause)
    for rank, outcome in enumerate(outcomes):
        error = crafted.error("boom (s.py:3)") if outcome == "error" else None
        crafted.rank(folder, rank, outcome, at=rank, error=error)


@pytest.mark.parametrize(
    ("code", "outcomes", "cause", "state", "reason"),
    [
        (0, ("ok", "ok"), "exit", "COMPLETED", "every rank ended with 0"),
        (1, ("ok", "error"), "exit", "FAILED", "rank 1 on node-1: ValueError: boom (s.py:3)"),
        (0, ("ok",), "exit", "FAILED", "the script ended normally, but rank 1 left no record: see the logs"),
        (0, ("running", "running"), "exit", "FAILED", "but rank 0 is 'running' (2 ranks in all): see the logs"),
        (1, ("ok", "running"), "cancelled", "CANCELLED", "cancelled"),
        (143, ("running", "running"), "timeout", "TIMEOUT", "the walltime was reached"),
    ],
)  # fmt: skip
def test_the_state_is_that_of_the_ranks(
    folder: JobFolder, code: int, outcomes: tuple[str, ...], cause: str, state: str, reason: str
) -> None:
    end(folder, code, outcomes, cause)
    status = read_status(folder)
    assert (status.state, status.program, status.has_rows) == (state, "script s.py", False)
    assert reason in status.reason
    assert (status.rows.total, status.tokens_per_s, status.eta_s) == (0, None, None)


def test_records_of_other_nodes_may_be_late(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    record = msgspec.structs.replace(folder.job().plan, layout=Layout(2, 1, 1, 2, 1, 1))
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), plan=record))
    end(folder, 0, ("ok", "running"))
    monkeypatch.setattr("time.time", lambda: crafted.SUBMITTED_AT + 70)
    assert read_status(folder).state == "RUNNING"
    monkeypatch.setattr("time.time", lambda: crafted.SUBMITTED_AT + 200)
    assert read_status(folder).state == "FAILED"


def test_input_rows_of_a_driving_program_are_not_expected_out(desk: Path) -> None:
    folder = make_script(desk / "runs" / "job")
    program = msgspec.structs.replace(SCRIPT, kind="file", name="go")
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), program=program, rows=3))
    end(folder)
    status = read_status(folder)
    assert (status.state, status.rows.total, status.program) == ("COMPLETED", 0, "program go")


def test_status_and_list_print_no_rows(folder: JobFolder, run_cli: Cli) -> None:
    end(folder)
    out = run_cli("status", folder.path).out
    assert "script s.py" in out and "rows" not in out and "tokens" not in out
    assert "script s.py" in run_cli("list").out
    status = json.loads(run_cli("status", folder.path, "--json").out)
    assert (status["program"], status["has_rows"], status["rows"]["total"]) == ("script s.py", False, 0)


def leave(folder: JobFolder) -> dict[str, bytes]:
    """What its ranks have left in artefacts/."""
    left = {"rank-0/a.txt": b"a", "rank-1/deep/b.bin": bytes(3000), "c d'.json": b"{}"}
    for name, content in left.items():
        (folder.artefacts / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.artefacts / name).write_bytes(content)
    return left


def test_collect_tells_of_ranks_and_artefacts(folder: JobFolder, run_cli: Cli) -> None:
    left = leave(folder)
    end(folder, 1, ("ok", "error"))
    outcome = run_cli("collect", folder.path)
    assert outcome.code == 1
    assert "Error: FAILED: rank 1 on node-1: ValueError: boom" in outcome.err
    assert outcome.out.startswith(f"1 of 2 ranks ended with 0, 3 artefacts (3003 bytes) in 65 s: {folder.path}")
    summary = json.loads(folder.summary.read_text())
    assert not folder.outputs.exists() and summary["outputs"] == ""
    assert {one["path"]: one["bytes"] for one in summary["artefacts"]} == {name: len(it) for name, it in left.items()}
    assert [(rank["rank"], rank["outcome"], rank["error"]) for rank in summary["ranks"]] == [
        (0, "ok", None), (1, "error", "ValueError: boom (s.py:3)"),
    ]  # fmt: skip
    assert Job(folder.path).artefacts() == [folder.artefacts / name for name in sorted(left)]
    with pytest.raises(RequestError, match="job runs no rows: see its artefacts"):
        Job(folder.path).results()


def test_collect_copies_them_elsewhere(folder: JobFolder, desk: Path, run_cli: Cli) -> None:
    left = leave(folder)
    end(folder)
    assert run_cli("collect", folder.path, "--output", "out").code == 0
    copied = {
        str(one.relative_to(desk / "out")): one.read_bytes() for one in (desk / "out").rglob("*") if one.is_file()
    }
    assert {name: copied[f"artefacts/{name}"] for name in left} == left
    assert set(copied) == {"summary.json", "ranks/rank-0.json", "ranks/rank-1.json", *(f"artefacts/{n}" for n in left)}
    assert run_cli("collect", folder.path, "--output", "out").code == 0  # again: its own
    (desk / "other" / "artefacts").mkdir(parents=True)
    outcome = run_cli("collect", folder.path, "--output", "other")
    assert (outcome.code, "has a file artefacts that is not of this job" in outcome.err) == (2, True)


def test_a_job_with_rows_and_a_program_has_both(desk: Path, run_cli: Cli) -> None:
    folder = crafted.make_job(desk / "runs" / "job", 1, "slurm")
    program = Program(kind="module", name="P", source="mine.mod")
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), program=program))
    crafted.start(folder)
    crafted.end(folder)
    crafted.write_lines(folder.shard(0, 1), [crafted.result(0)])
    leave(folder)
    assert run_cli("collect", folder.path, "--output", "out").code == 0
    assert (desk / "out" / "outputs.jsonl").read_text().count("\n") == 1
    assert (desk / "out" / "artefacts" / "rank-0" / "a.txt").read_bytes() == b"a"
    summary = json.loads((desk / "out" / "summary.json").read_text())
    assert (len(summary["artefacts"]), summary["ranks"], summary["rows"]["done"]) == (3, [], 1)


def test_only_files_count_and_no_link_is_followed(folder: JobFolder, desk: Path) -> None:
    end(folder)
    assert collect(folder).artefacts == []
    (desk / "secret").mkdir()
    (desk / "secret" / "key").write_text("secret")
    folder.artefacts.mkdir()
    os.mkfifo(folder.artefacts / "pipe")
    (folder.artefacts / "link").symlink_to(desk / "secret" / "key")
    (folder.artefacts / "folder").symlink_to(desk / "secret")
    (folder.artefacts / os.fsdecode(b"\xff")).write_text("no name")
    (folder.artefacts / "a\nb").write_text("ok")
    os.mkfifo(folder.ranks / "rank-7.json")
    (folder.ranks / "rank-8.json").symlink_to(desk / "secret" / "key")
    assert [one.path for one in collect(folder, desk / "out").artefacts] == ["a\nb"]
    assert [one.name for one in (desk / "out" / "artefacts").iterdir()] == ["a\nb"]
    assert sorted(one.name for one in (desk / "out" / "ranks").iterdir()) == ["rank-0.json", "rank-1.json"]
    folder.artefacts.rename(desk / "aside")
    folder.artefacts.symlink_to(desk / "secret")
    assert collect(folder).artefacts == []


def test_what_does_not_fit_is_not_begun(folder: JobFolder, desk: Path, run_cli: Cli) -> None:
    leave(folder)
    end(folder)
    with (folder.artefacts / "hole").open("wb") as file:
        file.truncate(1 << 43)
    outcome = run_cli("collect", folder.path, "--output", "out")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "MiB free, and the job's artefacts need 8388608 MiB more: remove some, or name another" in outcome.err
    assert [one.name for one in (desk / "out").iterdir()] == ["summary.json"]


def test_a_copy_replaces_links_and_follows_none(folder: JobFolder, desk: Path) -> None:
    leave(folder)
    end(folder)
    collect(folder, desk / "out")
    mine = desk / "mine"
    mine.write_text("mine")
    copy = desk / "out" / "artefacts" / "rank-0" / "a.txt"
    copy.unlink()
    copy.symlink_to(mine)
    collect(folder, desk / "out")
    assert (copy.read_bytes(), mine.read_text()) == (b"a", "mine")
    (desk / "out" / "ranks").rename(desk / "ranks")
    (desk / "out" / "ranks").symlink_to(desk / "ranks")
    with pytest.raises(CollectError, match="must be a folder, not a link"):
        collect(folder, desk / "out")


@pytest.mark.parametrize(
    ("asked", "code", "mark", "again", "why"),
    [
        (False, 1, "", False, "run again only with --requeue-script, or by 'vllm-hpc resume'"),
        (True, 0, "", False, "it ended normally"),
        (True, 1, "", True, "it ended with exit code 1, and --requeue-script runs it again from its start"),
        (True, 1, "cancelled", False, "it was cancelled"),
        (True, 1, "drain", False, "control/drain tells it to stop"),
        (False, 0, "drain-1", False, "it ended normally"),
    ],
)  # fmt: skip
def test_it_is_run_again_only_if_that_was_asked_for(
    desk: Path, asked: bool, code: int, mark: str, again: bool, why: str
) -> None:
    folder = make_script(desk / "runs" / "job", requeue_script=asked, max_requeues=2)
    if mark:
        (folder.path / "control" / mark).touch()
    answer, words = should_run_again(folder, 1, code)
    assert answer is again
    assert why in words


def test_not_more_often_than_max_requeues(desk: Path) -> None:
    folder = make_script(desk / "runs" / "job", requeue_script=True, max_requeues=1)
    assert should_run_again(folder, 1, 1)[0]
    crafted.end(folder, 1, "requeue")
    crafted.start(folder, 2)
    assert should_run_again(folder, 2, 1) == (False, "it has asked for another attempt 1 time (--max-requeues 1)")


def test_resume_runs_it_from_its_start(folder: JobFolder, run_cli: Cli, desk: Path) -> None:
    end(folder, 1, ("ok", "error"))
    outcome = run_cli("resume", folder.path)
    assert (outcome.code, outcome.out) == (0, "Submitted job again as 4711, the script s.py starts anew\n")
    assert (desk / "bin" / "received").exists()


def test_what_has_ended_well_is_not_resumed(folder: JobFolder, desk: Path) -> None:
    end(folder)
    with pytest.raises(
        FailedError, match=r"the script s.py has ended well \(COMPLETED\): to run it again, submit a new"
    ):
        resume(folder)
    end(folder, 1, ("ok", "error"))
    with pytest.raises(RequestError, match="--retry-errors is for rows, and this job runs none: leave it out"):
        resume(folder, retry_errors=True)
    assert not (desk / "bin" / "received").exists()


@pytest.mark.parametrize("change", ["edit", "link", "remove", "open"])
def test_code_that_has_changed_is_not_resumed(folder: JobFolder, desk: Path, change: str) -> None:
    end(folder, 1, ("ok", "error"))
    if change == "edit":
        folder.program.write_bytes(b"print(2)\n")
    elif change == "open":
        folder.program.chmod(0o666)
    else:
        folder.program.unlink()
    if change == "link":
        (desk / "s.py").write_bytes(CODE)
        folder.program.symlink_to(desk / "s.py")
    with pytest.raises(RequestError, match=r"program\.py") as refused:
        resume(folder)
    assert str(refused.value).count("cannot be used") <= 1
    assert not (desk / "bin" / "received").exists()


def test_a_job_with_a_profile_is_resumed_without_its_source(desk: Path, run_cli: Cli) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles.site]\nscheduler = "slurm"\ngpus_per_node = 4\n')
    (desk / "s.py").write_text("print(1)\n")
    assert run_cli("submit", "--script", "s.py", "--profile", "site", "--nodes", "2", "--name", "a").code == 0
    (desk / "s.py").unlink()
    folder = JobFolder(desk / "runs" / "a")
    write_json(folder.submitted, {"scheduler": "slurm", "job_id": "77", "submitted_at": 0.0, "uuid": folder.uuid})
    crafted.start(folder)
    end(folder, 1, ("error",))
    outcome = run_cli("resume", "a", "--time", "10")
    assert outcome.code == 0, outcome.err
    script = (folder.path / "script.sbatch").read_text()
    assert "#SBATCH --time=10" in script and "a script on 8 ranks" in script and "--no-requeue" in script


def test_wait_names_the_log_of_the_rank_that_failed(folder: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    end(folder, 1, ("ok", "error"))
    assert wait_and_show(Job(folder.path)) == 1
    assert capsys.readouterr().err.endswith(f"What it printed: vllm-hpc logs {folder.path} --rank 1\n")


def test_diff_says_what_it_was_that_gave_no_rows(folder: JobFolder, run_cli: Cli) -> None:
    end(folder)
    said = run_cli("diff", folder.path, folder.path)
    assert (said.code, said.err) == (2, "Error: job has no output rows: it ran the script s.py\n")
