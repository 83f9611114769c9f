"""Another user of the machine takes names in /tmp and /dev/shm before the victim's job does: it runs all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hostile.conftest import Neighbours
from tests.hostile.test_two_users import SLOW, state, submit
from tests.real_jobs import wait_for

pytestmark = pytest.mark.trust


@pytest.mark.ranks
def test_shared_memory_of_another_user_is_left(neighbours: Neighbours) -> None:
    """The supervisor, which sweeps up behind each attempt, could not remove it, and began no second one."""
    job = submit(neighbours, *SLOW, "--rehearse-set", "fault_s=2", "--rehearse-set", "fault=die")
    job_id = json.loads((job / "state" / "submitted.json").read_text())["job_id"]
    taken = Path(f"/dev/shm/vllm-hpc-{job_id}-1-0")
    neighbours.attacker.plant(taken, "")
    try:
        wait_for(lambda: state(neighbours.victim, job) not in ("PENDING", "RUNNING"), "end of the job")
        assert taken.stat().st_uid == neighbours.attacker.uid
    finally:
        taken.unlink()
    assert state(neighbours.victim, job) == "COMPLETED"
