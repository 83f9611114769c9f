"""A controller that is down as a job is drained: the job goes on once it is back.

scontrol itself waits for it for a minute or two, and the script asks again where scontrol has given up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_jobs import wait_for
from tests.slurm.conftest import cluster, kill_controller
from tests.slurm.requeues import start_now
from tests.slurm.test_failures import alone, ends_as, submit

pytestmark = [
    pytest.mark.inputs,
    pytest.mark.full,
    pytest.mark.ranks,
    pytest.mark.slurm,
    pytest.mark.usefixtures("slurm"),
]


@pytest.mark.usefixtures("slurm")
def test_a_controller_that_is_down_at_the_drain_is_asked_until_it_is_back(tmp_path: Path) -> None:
    job = submit(None, tmp_path, time="3", drain_lead=100, max_requeues=5, **alone(None))
    wait_for(lambda: job.folder.drain_attempt(1).exists(), "it is drained", 200)
    kill_controller(str(job.job_id))
    try:
        wait_for(lambda: [rank.outcome for rank in job.ranks()] == ["ok"], "the ranks have left", 100)
    finally:
        cluster("daemon", "slurmctld")
    wait_for(lambda: job.status().state == "PENDING" and job.status().attempts > 0, "requeued", 100)
    job.folder.drain.touch()
    start_now(job)
    assert ends_as(job, "PARTIAL", limit=200).attempts == 2
