"""What PBS's script writes for its hosts, and a member of the project's group can replace before they read it.

The script runs by itself, with a pbsdsh of the test's, which waits until the attacker is ready. No rank starts.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hostile.conftest import Neighbours
from tests.real_jobs import wait_for
from vllm_hpc.jobfolder.folder import SUBFOLDERS

pytestmark = [pytest.mark.trust, pytest.mark.timeout(120)]

CLIENTS = {
    "pbsdsh": 'touch ~/waits; until [ -e ~/go ]; do sleep 0.1; done; shift 3; exec "$@"',
    "qsub": '[ "$1" = --version ] && echo pbs_version = 23 || echo 12.head',
}


@pytest.fixture
def job(neighbours: Neighbours) -> Path:
    """A job of two hosts of the victim's, in whose folder the project's group may write.

    vllm-hpc 0.1 made such folders with umask 002; and where the group can write, it can put another in a job's place.
    """
    victim = neighbours.victim
    bin_ = victim.home / "bin"
    bin_.mkdir()
    for name, code in CLIENTS.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{code}\n")
        (bin_ / name).chmod(0o755)
    (victim.home / "rows.jsonl").write_text('{"prompt": "a"}\n')
    done = victim.vllm_hpc(
        "submit", "--rehearse", "--scheduler", "pbs", "--nodes", "2", "--input", victim.home / "rows.jsonl",
        "--job-dir", neighbours.project, "--name", "shared", umask=0o002, PATH=f"{bin_}:/usr/bin:/bin",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (victim.home / "nodefile").write_text("n1\nn2\n")
    folder = neighbours.project / "shared"
    for one in (folder, *(folder / name for name in SUBFOLDERS)):
        one.chmod(0o2775)
    return folder


def start(neighbours: Neighbours, job: Path) -> subprocess.Popen[str]:
    """The job's script, whose hosts wait for the file ``go`` in the victim's home."""
    home = neighbours.victim.home
    variables = {
        "PBS_JOBID": f"{neighbours.victim.uid}.head", "PBS_NODEFILE": home / "nodefile", "PBS_O_PATH": f"{home}/bin",
        "PBS_O_WORKDIR": home,
    }  # fmt: skip
    words = ["env", *(f"{name}={value}" for name, value in variables.items()), "bash", "-c", 'umask 002; . "$0"']
    process = neighbours.victim.start([*words, job / "script.pbs"], Path("/"))
    wait_for(lambda: (home / "waits").exists() or process.poll() is not None, "its hosts wait", 60)
    return process


def test_replaced_task_file_is_not_run(neighbours: Neighbours, job: Path) -> None:
    victim, attacker, _ = neighbours
    process = start(neighbours, job)
    [file] = (job / "state").glob(".run-*")
    attacker.plant(file, f"touch {victim.home}/ran\n")
    assert file.stat().st_uid == attacker.uid
    (victim.home / "go").touch()
    _, err = process.communicate(timeout=60)
    assert not (victim.home / "ran").exists()
    assert process.returncode == 1
    assert f"ran nothing: {file} cannot be read, or is not what the job wrote: " in err
