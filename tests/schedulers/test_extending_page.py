"""The examples of docs/extending.md, installed as another package: what the page says of them is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import end, make_job, start
from vllm_hpc.jobs.status import read_status
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.client import ClientError
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


@pytest.mark.parametrize(
    ("answer", "was_cancelled", "state", "reason"),
    [
        ("PEND", False, "PENDING", ""),
        ("EXIT", True, "CANCELLED", ""),
        ("EXIT", False, "FAILED", "the script was ended by a signal (TERM)"),
        ("UNKWN", False, "UNKNOWN", ""),
        (ClientError("bjobs refused: Job <77> is not found"), True, "CANCELLED", "cancelled"),
        (ClientError("bjobs refused: LSF is down"), True, "UNKNOWN", "bjobs refused: LSF is down"),
    ],
    ids=str,
)
def test_its_phases_are_the_states_of_the_page(
    lsf: Scheduler,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    was_cancelled: bool,
    state: str,
    reason: str,
) -> None:
    folder = make_job(desk / "runs" / "job", scheduler="lsf")
    if state not in ("PENDING", "UNKNOWN"):
        start(folder)
        end(folder, 143, "TERM")
    if was_cancelled:
        folder.cancelled.touch()

    def call(argv: list[str]) -> str:
        if isinstance(answer, ClientError):
            raise answer
        return f"{answer}\n"

    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", call)
    status = read_status(folder)
    assert (status.state, status.reason) == (state, reason)


def test_every_phase_of_a_job_state_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    phases = ("waiting", "running", "completed", "failed", "gone", "cancelled", "timeout", "preempted", "forgotten",
              "unknown")  # fmt: skip
    table = page.partition("| phase | when |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(phases)
