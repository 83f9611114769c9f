"""Job folders as 0.1 made them, before any of their scripts had run: a later version must still run them.

Each is a rehearsal of 200 rows: TP=2 on one machine (local), and over two nodes of Slurm and of PBS. They were recorded
once, at commit ed489ce, and never change.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, ends_as
from vllm_hpc import Job
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted

ROOT = Path(__file__).parent
ROWS = 200
_BIN = b"/opt/recorded/bin"
_SUBFOLDERS = ("attempts", "state", "control", "logs", "ranks", "shards")
# What `pip install -e` of 0.1 wrote, and an update of the checkout leaves as it is.
_METADATA = {
    "METADATA": "Metadata-Version: 2.4\nName: vllm-hpc\nVersion: 0.1.0\n",
    "entry_points.txt": "[submitit]\njob_environment = vllm_hpc.environment:VllmHpcJobEnvironment\n",
}


def replay(name: str, work: Path) -> Path:
    """Lay out the recorded folder ``name`` below ``work``, and return its script.

    A pickle tells a text's length before it: the new path is made as long as the recorded one.
    """
    recorded = ROOT / "0.1" / name
    script = next(recorded.glob("script.*"))
    (was,) = re.findall(r"^job=(\S+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    folder = work / "x".ljust(len(was) - len(str(work)) - 1, "x")
    for sub in _SUBFOLDERS:
        (folder / sub).mkdir(parents=True)
    for file in (one for one in recorded.rglob("*") if one.is_file()):
        content = file.read_bytes().replace(was.encode(), str(folder).encode())
        (folder / file.relative_to(recorded)).write_bytes(
            content.replace(_BIN, str(Path(sys.executable).parent).encode())
        )
    return folder / script.name


def submit_as_0_1(name: str, argv: list[str], work: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Lay out the recorded folder and submit its script with ``argv``; 0.1's metadata is found first from now on."""
    script = replay(name, work)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_old_metadata(work)), os.environ.get("PYTHONPATH", "")]))
    job_id = subprocess.check_output([*argv, str(script)], text=True).strip()
    job = Job(script.parent)
    write_json(job.folder.submitted, Submitted(name, job_id, time.time()))
    return job


def check_queued(name: str, argv: list[str], work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that 0.1 put into a queue runs to its end, in one attempt."""
    job = submit_as_0_1(name, argv, work, monkeypatch)
    status = ends_as(job, "COMPLETED", PATIENCE_S)
    assert (status.rows.done, status.attempts) == (ROWS, 1)
    assert job.collect().rows["done"] == ROWS


def _old_metadata(work: Path) -> Path:
    """A folder for PYTHONPATH in which Python finds 0.1's metadata before the installed version's."""
    metadata = work / "installed" / "vllm_hpc-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    for name, text in _METADATA.items():
        (metadata / name).write_text(text, encoding="utf-8")
    return metadata.parent
