"""The reason of a job that ended for a hang begins with the rank that the others waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import crafted
from vllm_hpc.jobfolder.debug_records import DebugFiles, Hang
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.failure import first_error
from vllm_hpc.jobs.status import read_status

pytestmark = pytest.mark.programs

LINES = ("rank 1 (node2): stopped by a signal (T), last seen at loop.py:120 in _step", "rank 0 waits in broadcast")
WHY = "the engine has been in one step for more than 900 s; its log has the stacks"


def ended(folder: JobFolder, message: str, attempt: int = 1) -> JobFolder:
    """A job whose first rank has died of that, in an attempt of which there is such a report."""
    crafted.start(folder)
    crafted.rank(folder, 0, "error", error=crafted.error(message))
    crafted.end(folder, 1)
    hang = Hang(attempt=attempt, found_by=0, why=WHY, at=1.0, lines=LINES, kind="stopped", odd=(1,))
    write_json(DebugFiles(folder).hang(attempt), hang)
    return folder


def test_it_names_the_rank_and_then_who_found_it(tmp_path: Path) -> None:
    folder = ended(crafted.make_job(tmp_path / "job"), f"{WHY}. {'; '.join(LINES)}")
    status = read_status(folder)
    assert status.state == "FAILED"
    assert status.reason == f"{LINES[0]} (found by rank 0 on node-1: ValueError: {WHY})"


@pytest.mark.parametrize(("message", "attempt"), [("another error", 1), (f"{WHY}. {LINES[0]}", 2)])
def test_another_error_or_attempt_is_told_as_it_is(tmp_path: Path, message: str, attempt: int) -> None:
    folder = ended(crafted.make_job(tmp_path / "job"), message, attempt)
    error = first_error(folder)
    assert error is not None
    assert error[0] == f"rank 0 on node-1: ValueError: {message}"


def test_a_damaged_report_hides_no_error(tmp_path: Path) -> None:
    folder = ended(crafted.make_job(tmp_path / "job"), f"{WHY}. {LINES[0]}")
    DebugFiles(folder).hang(1).write_bytes(b'{"attempt": 1, "lines": 3')
    assert read_status(folder).reason == f"rank 0 on node-1: ValueError: {WHY}. {LINES[0]}"


def test_a_link_in_place_of_the_report_is_not_followed(tmp_path: Path) -> None:
    folder = ended(crafted.make_job(tmp_path / "job"), f"{WHY}. {LINES[0]}")
    path = DebugFiles(folder).hang(1)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert DebugFiles(folder).read_hang(1) is None
