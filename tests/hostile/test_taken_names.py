"""Another user of the machine takes names in /tmp and /dev/shm before the victim's job does: it runs all the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.hostile.conftest import Neighbours
from tests.hostile.test_two_users import SLOW, state, submit
from tests.real_jobs import wait_for

pytestmark = pytest.mark.trust

# What a rank does before it imports torch, and where torch then keeps what it compiles.
_RANK = """
import os, tempfile
from vllm_hpc.engine.vllm_engine import use_private_temporary_folder
for _ in range(2):
    use_private_temporary_folder()
    print(tempfile.gettempdir())
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
print(default_cache_dir())
"""


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


@pytest.mark.parametrize("name", ["torchinductor_victim", "nccl_allocator.so", "vllm-hpc-{uid}"])
def test_code_is_loaded_from_no_name_that_others_can_take(neighbours: Neighbours, name: str) -> None:
    """torch and vLLM load what they find under such names in the temporary folder, which all users share."""
    victim, attacker, _ = neighbours
    common = victim.home.parent / "tmp"
    common.mkdir()
    common.chmod(0o1777)
    taken = common / name.format(uid=victim.uid)
    assert attacker.run(["mkdir", "-m", "777", taken], common).returncode == 0
    done = victim.run([sys.executable, "-c", _RANK], common, TMPDIR=str(common))
    assert done.returncode == 0, done.stderr
    place, again, inductor = done.stdout.split()
    assert place == again
    assert Path(inductor).parent == Path(place)
    assert (Path(place).stat().st_uid, Path(place).stat().st_mode & 0o777) == (victim.uid, 0o700)
    assert not list(taken.iterdir())
