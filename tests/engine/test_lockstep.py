"""Two ranks of a replica over gloo: the same steps on both, and one that is out of step says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.test_loop import make_job, rows_out
from tests.marks import needs_torch
from vllm_hpc.jobfolder.folder import JobFolder

pytestmark = [needs_torch, pytest.mark.timeout(120)]

TWO = """
import os, sys, traceback
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from tests.engine.test_loop import Engine, Rank
from vllm_hpc.engine.loop.lockstep import Lockstep
from vllm_hpc.jobfolder.folder import JobFolder
path, rank, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
store = dist.FileStore(path + "/store", 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=30))
class Late(Engine):
    def take_step(self):
        found = super().take_step()
        for one in found:
            if how == "digest" and rank == 1 and one.request_id == "9":
                one.outputs[0].token_ids = [666]
        return found
ours = Rank(JobFolder(path), Lockstep(rank, 0, dist.group.WORLD), rank, engine=Late())
def drain(engine):
    if how == "drain" and rank == 0 and len(engine.held) == 5:
        (Path(path) / "control" / "drain").touch()
        ours.chief._looked = float("-inf")
    if how == "step" and rank == 1 and len(engine.held) == 5:
        ours.meter.steps += 1
ours.engine.before = drain
try:
    ours.run()
except Exception:
    traceback.print_exc()
    os._exit(1)  # gloo's threads do not like to be taken down by the interpreter: at times they abort it
print(ours.loop.digest.hexdigest, ours.loop.digest.rows, ours.meter.steps, flush=True)
dist.barrier()
os._exit(0)
"""


def two_ranks(folder: JobFolder, how: str) -> list[tuple[int, str, str]]:
    """Exit code and words of both."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(folder.path), str(rank), how],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for rank in (0, 1)
    ]  # fmt: skip
    second = ranks[1].communicate(timeout=100)
    if ranks[1].returncode:
        ranks[0].kill()  # as torchrun does: it waits for the other
    first = ranks[0].communicate(timeout=100)
    return [(rank.returncode, *words) for rank, words in zip(ranks, (first, second), strict=True)]


@pytest.mark.parametrize("how", ["all", pytest.param("drain", marks=pytest.mark.slow)])
def test_two_ranks_take_the_same_steps(tmp_path: Path, how: str) -> None:
    folder = make_job(tmp_path, row_5={"bad": "to make"}, row_6={"prompt": "refused"})
    (code, out, err), (other_code, other_out, other_err) = two_ranks(folder, how)
    assert (code, other_code) == (0, 0), err + other_err
    assert out.splitlines()[-1] == other_out.splitlines()[-1]
    found = rows_out(folder)
    assert {index for index, row in found.items() if "error" in row} == {5, 6}
    assert len(found) == 60 if how == "all" else 10 < len(found) < 40


@pytest.mark.parametrize("how", ["digest", pytest.param("step", marks=pytest.mark.slow)])
def test_a_rank_that_is_out_of_step_says_so(tmp_path: Path, how: str) -> None:
    _, (code, _, err) = two_ranks(make_job(tmp_path), how)
    assert code == 1
    assert "DivergedError: the ranks of replica 0 diverged: rank 0 was at step" in err


SHARES = """
import os, pickle, sys
from datetime import timedelta
import torch.distributed as dist
from vllm_hpc.engine.loop.lockstep import Lockstep
def refuse(*_, **__): raise AssertionError("a pickle")
pickle.loads = pickle.Unpickler = dist.distributed_c10d._unpickler = refuse
path, rank = sys.argv[1], int(sys.argv[2])
store = dist.FileStore(path + "/store", 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=30))
lockstep = Lockstep(rank, 0, dist.group.WORLD)
print([lockstep.share(value if rank == 0 else b"") for value in (b"", b"one", b"\\0" * 3, b"x" * 100_000)] ==
      [b"", b"one", b"\\0" * 3, b"x" * 100_000], lockstep.gather(b"of %d" % rank), flush=True)
dist.barrier()
os._exit(0)
"""


def test_nothing_that_ranks_share_is_a_pickle(tmp_path: Path) -> None:
    """gloo takes whoever connects for a rank."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SHARES, str(tmp_path), str(rank)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for words, error in [rank.communicate(timeout=100) for rank in ranks]:
        assert words == "True [b'of 0', b'of 1']\n", error


TELLS = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from vllm_hpc.engine.loop.lockstep import Decision, Lockstep, Order
path, rank = Path(sys.argv[1]), int(sys.argv[2])
store = dist.FileStore(str(path / "store"), 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
ours = Lockstep(rank, 0, dist.group.WORLD)
while rank and not (path / "told").exists():
    time.sleep(0.05)
words = [ours.tell(None if rank else Decision(Order.GO, n, bytes([n])), n, 7, room=2) for n in (1, 2)]
(path / "told").touch()
print([word.result() for word in words] == [Decision(Order.GO, 1, b"\\1"), Decision(Order.GO, 2, b"\\2")], flush=True)
dist.barrier()
os._exit(0)
"""


def test_who_tells_does_not_wait_for_who_hears(tmp_path: Path) -> None:
    """The second rank comes only when the first has gone on from both its words."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TELLS, str(tmp_path), str(rank)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[2],
        )
        for rank in (0, 1)
    ]  # fmt: skip
    words = [rank.communicate(timeout=100)[0] for rank in ranks]
    assert [word.splitlines()[-1:] for word in words] == [["True"], ["True"]], words
