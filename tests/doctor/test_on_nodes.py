"""What doctor makes of an ended job: reports in its folder and in its log, and nodes that said nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.crafted import make_job, start
from vllm_hpc import Job
from vllm_hpc.doctor.expected import Expected, own_versions
from vllm_hpc.doctor.on_nodes import judge_job
from vllm_hpc.jobfolder.node_report import MARK, NodeReport, Writes
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.finding import Finding

pytestmark = pytest.mark.admins

EXPECTED = Expected(nodes=2, procs_per_node=1, versions=own_versions())
REPORT = NodeReport(
    node=0, host="n0", has_met=True, versions={**own_versions(), "vllm": "0.32"}, address="10.0.0.1",
    writes=Writes(0.001, 0.002),
)  # fmt: skip
JOINED = "vllm-hpc: n0 joined as node 0\nvllm-hpc: n1 joined as node 1\n"


def status(job: Job, **changes: Any) -> Status:
    rows = Rows(total=2, done=0, failed=0)
    given = {"state": "FAILED", "reason": "exit code 1", **changes}
    return Status(job=str(job.path), job_id="7", scheduler="slurm", rows=rows, **given)


def judged(folder: Path, log: str, *reports: NodeReport) -> list[Finding]:
    made = make_job(folder / "job")
    start(made)
    for report in reports:
        write_json(made.doctor_node(1, report.node), report)
    made.scheduler_log.write_text(log)
    job = Job(made.path)
    return [one for one in judge_job(job, status(job), EXPECTED) if one.status == "fail" or one.check == "node"]


def test_a_node_that_prints_its_report_has_no_folder(tmp_path: Path) -> None:
    lost = NodeReport(
        node=1, host="n1", has_met=True, versions=REPORT.versions, folder_error="No such file or directory"
    )
    line = f"{MARK}{msgspec.json.encode(lost).decode()}\n"
    found = judged(tmp_path, f"{JOINED}{line}{MARK}{{cut off\n", REPORT)
    assert [(one.check, one.where) for one in found] == [("job-dir", "n1"), ("job", None)]
    assert found[-1].advice == "see what failed above"


@pytest.mark.parametrize(
    ("log", "status", "words"),
    [
        ("", "fail", "it did not report"),
        (JOINED + "usage: python -m vllm_hpc.in_job VERB ...\n", "fail", "is another one, which knows no doctor"),
        (JOINED + "srun: error: n1: task 1: Terminated\n", "skip", "it was ended before it could report"),
        (
            JOINED + "bash: line 3: python: command not found\nsrun: error: n1: task 1: Exited with exit code 127\n",
            "fail", "task 1: Exited with exit code 127; bash: line 3: python: command not found",
        ),
        ("vllm-hpc: n0 joined as node 0\nvllm-hpc: not joined within 9 s: n1\n", "fail", "not joined within 9 s: n1"),
        ("vllm-hpc: this line of the profile's setup failed: module load x\n", "fail", "setup failed: module load x"),
    ],
)  # fmt: skip
def test_a_node_that_is_silent(tmp_path: Path, log: str, status: str, words: str) -> None:
    found = judged(tmp_path, log, REPORT)[0]
    assert (found.check, found.status) == ("node", status)
    assert found.where == ("n1" if "n1" in log else "node 1")
    assert words in found.found


def test_a_report_of_no_node_of_the_job_is_left_out(tmp_path: Path) -> None:
    line = f"{MARK}{msgspec.json.encode(msgspec.structs.replace(REPORT, node=7)).decode()}\n"
    found = judged(tmp_path, line, REPORT, msgspec.structs.replace(REPORT, node=1, host="n1"))
    assert [one.check for one in found] == ["job"]


def test_a_damaged_report_counts_as_none(tmp_path: Path) -> None:
    made = make_job(tmp_path / "job")
    start(made)
    made.doctor_node(1, 0).write_text('{"node": "x"}')
    job = Job(made.path)
    assert [one.check for one in judge_job(job, status(job), EXPECTED) if one.status == "fail"] == [
        "node",
        "node",
        "job",
    ]
