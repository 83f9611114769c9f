"""cluster.sh itself: it leaves alone what is not its own. Needs no Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.slurm.conftest import CLUSTER


def test_down_ends_the_step_daemons_of_this_cluster_only(tmp_path: Path) -> None:
    """This host may be a node of a real cluster, or run the tests twice."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    daemon = shutil.copy(sleep, tmp_path / "slurmstepd")
    folder = tmp_path / "cluster"
    folder.mkdir()
    own, foreign = (
        subprocess.Popen([daemon, "600"], env={"SLURM_CONF": f"{conf}/slurm.conf"}) for conf in (folder, "/etc/slurm")
    )
    try:
        environment = {**os.environ, "VLLM_HPC_SLURM_DIR": str(folder)}
        subprocess.run([str(CLUSTER), "down"], env=environment, check=True, timeout=60)
        assert own.wait(10) == -9
        assert foreign.poll() is None
    finally:
        own.kill()
        foreign.kill()
    assert not folder.exists()
