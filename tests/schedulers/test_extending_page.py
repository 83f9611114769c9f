"""The examples of docs/extending.md, installed as another package: what the page says of them is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crafted import end, make_job, result, start, write_lines
from vllm_hpc.jobs.status import read_status
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.launchers import get_launcher
from vllm_hpc.schedulers.scheduler import Scheduler, get_scheduler
from vllm_hpc.spec.errors import RequestError

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def lsf(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """The page's modules, with a template that is Slurm's but for its directives."""
    site = desk / "site"
    for name, code in re.findall(r"```python\n# my_site/(\w+)\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        (site / "my_site").mkdir(parents=True, exist_ok=True)
        (site / "my_site" / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, f"my_site.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "my_site", raising=False)
    (site / "my_site" / "templates").mkdir()
    (site / "my_site" / "templates" / "lsf.sh.j2").write_text(
        '{% extends "packaged/slurm.sbatch.j2" %}{% block directives %}#BSUB -J {{ job.name|sh }}\n{% endblock %}'
    )
    metadata = site / "my_site-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: my_site\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm_hpc.schedulers]\nlsf = my_site.lsf:SCHEDULER\n"
        "[vllm_hpc.launchers]\nblaunch = my_site.blaunch:LAUNCHER\naprun = my_site.aprun:LAUNCHER\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return get_scheduler("lsf")


def test_they_make_a_script(lsf: Scheduler) -> None:
    script = prepare(rehearse=True, scheduler="lsf", nodes=2, gpus_per_node=2, tp=4, name="a").script
    assert '    blaunch "${nodes[$node]}" "${task[@]}" "$node" & started[node]=$!\n' in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    assert get_launcher("aprun").schedulers == ("pbs",)


def test_an_array_is_refused_before_anything_is_made(lsf: Scheduler, desk: Path) -> None:
    with pytest.raises(RequestError, match="--array cannot be used with the scheduler lsf: leave it out"):
        prepare(rehearse=True, scheduler="lsf", dp=2, array=True)
    assert not (desk / "runs").exists()


# As in IBM's documentation of Spectrum LSF 10.1: the states of "LSF terms and concepts", the answers of the page
# LSB_BJOBS_CONSISTENT_EXIT_CODE (its text and its examples differ about the exit code of a job that is not found, so
# both are tried) and the default of LSB_MBD_DOWN_MSG.
NOT_FOUND, FINISHED, DOWN = "Job <123> is not found", "No unfinished job found", "LSF is down. Please wait..."


@pytest.mark.parametrize(
    ("bjobs", "was_cancelled", "state", "reason"),
    [
        ("echo PEND", False, "PENDING", ""),
        ("echo PSUSP", False, "PENDING", ""),
        ("echo WAIT", False, "PENDING", ""),
        ("echo RUN", False, "RUNNING", "starting"),
        ("echo USUSP", False, "RUNNING", "starting"),
        ("echo SSUSP", False, "RUNNING", "starting"),
        ("echo DONE", False, "COMPLETED", "every row has a result"),
        ("echo EXIT", True, "CANCELLED", ""),
        ("echo EXIT", False, "FAILED", "the script was ended by a signal (TERM)"),
        ("echo UNKWN", False, "UNKNOWN", "UNKWN"),
        ("echo ZOMBI", False, "UNKNOWN", "ZOMBI"),
        (f"echo '{NOT_FOUND}' >&2; exit 255", True, "CANCELLED", "cancelled"),
        (f"echo '{NOT_FOUND}' >&2", True, "CANCELLED", "cancelled"),
        (f"echo '{NOT_FOUND}'", True, "CANCELLED", "cancelled"),
        (f"echo '{FINISHED}' >&2; exit 255", True, "CANCELLED", "cancelled"),
        (f"echo '{FINISHED}'", False, "FAILED", "the script was ended by a signal (TERM)"),
        (f"echo '{DOWN}' >&2; exit 255", True, "UNKNOWN", f"bjobs refused: {DOWN}"),
    ],
    ids=str,
)
def test_its_phases_are_the_states_of_the_page(
    lsf: Scheduler, desk: Path, bjobs: str, was_cancelled: bool, state: str, reason: str
) -> None:
    (desk / "bin" / "bjobs").write_text(f"#!/bin/sh\n{bjobs}\n")
    (desk / "bin" / "bjobs").chmod(0o755)
    folder = make_job(desk / "runs" / "job", scheduler="lsf")
    if state not in ("PENDING", "RUNNING", "UNKNOWN"):
        start(folder)
        end(folder, 0) if state == "COMPLETED" else end(folder, 143, "TERM")
        write_lines(folder.shard(0, 1), [result(row) for row in range(3)] if state == "COMPLETED" else [])
    if was_cancelled:
        folder.cancelled.touch()
    status = read_status(folder)
    assert (status.state, status.reason) == (state, reason)


def test_every_phase_of_a_job_state_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    phases = ("waiting", "running", "completed", "failed", "gone", "node_failed", "cancelled", "timeout", "preempted",
              "forgotten", "unknown")  # fmt: skip
    table = page.partition("| phase | when |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(phases)
