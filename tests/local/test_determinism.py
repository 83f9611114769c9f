"""--verify, --debug-ranks and env on real ranks: rehearsed, and with the tiny model on vLLM."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.local.test_rehearsed_jobs import ROWS, rehearse
from tests.real_jobs import ONE_CORE, PATIENCE_S, PROMPTS, check_complete, submit_tiny
from vllm_hpc.jobs.compare_env import read_job_environment
from vllm_hpc.jobs.diff import diff_outputs, find_side

pytestmark = [pytest.mark.programs, pytest.mark.ranks]

SECRET = "hf_" + "aB3" * 12
# Rank 1 samples with another seed than rank 0, which vLLM itself does not notice.
OTHER_SEED = """
import os
if os.environ.get("RANK") == "1":
    import msgspec
    from vllm_hpc.engine.vllm_engine import VllmMaker
    make = VllmMaker.make
    def other(self, report):
        request = msgspec.structs.replace(self._record.request, seed=1)
        self._record = msgspec.structs.replace(self._record, request=request)
        return make(self, report)
    VllmMaker.make = other
"""


def test_ranks_that_agree_end_as_without_it_and_say_who_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    job = submit_tiny(
        None, tmp_path, tp=2, verify=3, debug_ranks=True, temperature=1.0, sampling={"n": 2}, env=ONE_CORE,
        pass_env=["HF_TOKEN"],
    )  # fmt: skip
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs(0) + job.logs(1)
    for rank in (0, 1):
        first, *lines = job.logs(rank).splitlines()
        assert first.startswith(f"-- rank {rank} on ")
        assert lines
        assert all(re.match(rf"\[rank {rank}/2 \S+\] ", line) for line in lines)
    found = read_job_environment(job.folder)
    assert (found.differences, found.missing) == ((), ())
    assert [rank.variables["RANK"] for rank in found.ranks] == ["0", "1"]
    assert all(rank.variables["OMP_NUM_THREADS"] == "1" and rank.hidden == ("HF_TOKEN",) for rank in found.ranks)
    files = [file for file in job.path.rglob("*") if file.is_file()]
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_ranks_that_diverge_are_stopped_at_the_step(tmp_path: Path) -> None:
    """No row has ended by then, of which the loop itself would see it; and no row is suspected, nor run again."""
    settings = {"fault": "diverge", "fault_row": 2, "fault_rank": 1, "tokens_per_s": 100_000}
    job, status = rehearse(tmp_path, tp=2, verify=2, max_tokens=500, rehearse=settings)
    assert (status.state, status.attempts, status.rows.done) == ("FAILED", 1, 0), (status, job.logs()[-3000:])
    said = r"diverged at step 1: rank 1 differs from rank 0 in row 2 \(token \d+ instead of \d+\)"
    assert re.search(
        rf"DivergedError: the ranks of replica 0 {said}: rows may be wrong: start a new job", status.reason
    )
    assert all(re.search(said, job.logs(rank)) for rank in (0, 1))


@pytest.mark.full
def test_a_fault_in_the_middle_is_seen_within_the_steps_asked_for(tmp_path: Path) -> None:
    settings = {"fault": "diverge", "fault_s": 0.5, "fault_rank": 1, "tokens_per_s": 1000}
    job, status = rehearse(tmp_path, ROWS[:50], tp=2, verify=5, max_tokens=500, rehearse=settings)
    assert (status.state, status.attempts, status.rows.done) == ("FAILED", 1, 0), (status, job.logs()[-3000:])
    found = re.search(r"diverged at step (\d+): rank 1 differs from rank 0", status.reason)
    assert found and int(found[1]) > 1


@pytest.mark.full
def test_two_jobs_with_other_layouts_and_orders_are_compared(tmp_path: Path) -> None:
    rows = [{**row, "id": f"x-{number}"} for number, row in enumerate(PROMPTS)]
    one = submit_tiny(None, tmp_path, rows, tp=2, env=ONE_CORE, name="one")
    changed = [*rows[:3], {**rows[3], "prompt": "another"}, *rows[4:], {"id": "new", "prompt": "x"}]
    other = submit_tiny(None, tmp_path, changed[::-1], tp=1, env=ONE_CORE, name="other")
    assert [job.wait(PATIENCE_S).state for job in (one, other)] == ["COMPLETED"] * 2
    first, second = (find_side(str(job.path), str(tmp_path / "runs")) for job in (one, other))
    found = diff_outputs(first, second, most=9)
    assert (found.compared, found.equal, found.inputs_differ, found.only_first, found.only_second) == (14, 13, 1, 0, 1)
    assert (found.settings, [row.id for row in found.examples]) == ({"tp": (2, 1)}, ['"x-3"'])
    assert diff_outputs(first, first).is_equal


@pytest.mark.vllm
@pytest.mark.full
def test_vllms_tokens_are_compared_too(tmp_path: Path, tiny: Path, reference: list[str]) -> None:
    job = submit_tiny(tiny, tmp_path, tp=2, verify=2, debug_ranks=True, env=ONE_CORE)
    check_complete(job, reference)
    assert all(line.startswith("[rank 1/2 ") for line in job.logs(1).splitlines()[1:])


@pytest.mark.vllm
@pytest.mark.full
@pytest.mark.parametrize("n", [1, 2])
def test_a_rank_of_vllm_that_samples_something_else_is_named(tmp_path: Path, tiny: Path, n: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_SEED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = submit_tiny(
        tiny, tmp_path, tp=2, verify=3, temperature=1.0, sampling={"n": n}, env={**ONE_CORE, "PYTHONPATH": path}
    )
    status = job.wait(PATIENCE_S)
    assert (status.state, status.attempts) == ("FAILED", 1), (status, job.logs()[-3000:])
    assert re.search(r"replica 0 diverged at step [123]: rank 1 differs from rank 0 in rows? \d", status.reason), status
    assert json.loads((job.path / "ranks" / "rank-0.json").read_text())["error"]["type"] == "DivergedError"


@pytest.mark.vllm
@pytest.mark.full
def test_without_verify_the_engine_is_not_touched(tmp_path: Path, tiny: Path) -> None:
    """The rank stops if anybody asks for the tokens of its steps."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK'):\n"
        "    from vllm_hpc.engine.vllm_patches import sampled_tokens\n"
        "    sampled_tokens.watch = lambda *_: os._exit(7)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = submit_tiny(tiny, tmp_path, PROMPTS[:2], tp=1, env={**ONE_CORE, "PYTHONPATH": path})
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()[-3000:]
