"""Programs on ranks, with everything real but the model: the context, rows, and what ends an attempt."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from tests.crafted import layout
from tests.marks import needs_torch
from tests.programs.by_hand import Ended, file_program, make_job, run_ranks, start_ranks, written
from tests.real_jobs import wait_for
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import RankError, RankRecord
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.programs, pytest.mark.ranks, needs_torch]

SAMPLING: dict[str, Any] = {"max_tokens": 4}
ROWS: list[Row] = [{"prompt": f"prompt {number}", "tag": number} for number in range(9)] + [{"prompt": 5}]

ALL = '''
import json
import torch
import torch.distributed as dist

class All:
    """What a program may do, on every rank; what it found is an artefact."""

    def setup(self, ctx):
        self.rows = []
        self.found = {
            "rank": [ctx.rank, ctx.world_size, ctx.global_rank, ctx.local_rank, ctx.replica, ctx.replicas],
            "is_leader": ctx.is_leader, "attempt": ctx.attempt, "device": ctx.device, "llm": ctx.llm,
            "rehearsed": [ctx.model, ctx.layers, list(ctx.parameters())],
            "input": [row["id"] for row in ctx.rows()], "max_tokens": ctx.sampling["max_tokens"],
            "sum": ctx.all_reduce(ctx.rank + 1), "mean": ctx.all_reduce([ctx.rank, 2.5], "mean"),
            "max": ctx.all_reduce({"b": ctx.rank, "a": 0.5 * ctx.rank}, "max"),
            "mixed": ctx.all_reduce(ctx.rank * 0.5 if ctx.rank else 0),
            "tensor": ctx.all_reduce(torch.full((2,), ctx.rank + 1, dtype=torch.int32)).tolist(),
            "half": ctx.all_reduce(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "mean").tolist(),
            "groups": [dist.get_world_size(group) for group in (ctx.cpu_group, ctx.device_group)],
        }
        try:
            ctx.all_reduce([1] * (ctx.rank + 1))
        except ValueError as error:
            self.found["unequal"] = str(error)
        for _ in range(3):
            ctx.barrier(30)
        ctx.log("set up", len(self.found))

    def on_output(self, ctx, row):
        self.rows.append(row["id"])
        if row["tag"] == 3:
            return {**row, "seen": ctx.all_reduce(len(self.rows))}
        row["seen"] = ctx.all_reduce(len(self.rows), "min")
        row["text"] = row["text"].upper()
        if row["tag"] == 4:
            row["error"] = {"type": "TooDull", "message": "no"}

    def teardown(self, ctx):
        ctx.barrier()
        self.found["rows"] = self.rows
        (ctx.artefacts / "found.json").write_text(json.dumps(self.found))
'''


def job_of(tmp_path: Path, text: str, name: str, shape: int = 2, **more: Any) -> JobFolder:
    facts = {key: more.pop(key) for key in ("drives_engine", "needs_hooks") if key in more}
    program = file_program(tmp_path / "code" / "mine.py", name, text, **facts)
    rows = more.pop("rows", ROWS)
    given = {"sampling": SAMPLING, "engine": {"max_num_seqs": 4}, **more}
    return make_job(tmp_path / "job", program, rows, given.pop("layout", layout(shape)), **given)


def errors_of(ended: Ended) -> list[RankError]:
    """The errors that ranks raised themselves."""
    return [record.error for record in ended.records if record.error is not None and not record.error.is_echo]


def found_by(job: JobFolder, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.artefacts / f"rank-{rank}" / "found.json").read_text())
    return found


def test_what_a_program_has_and_does_on_every_rank(tmp_path: Path) -> None:
    job = job_of(tmp_path, ALL, "All")
    ended = run_ranks(job).ok()
    first, second = found_by(job, 0), found_by(job, 1)
    assert (first["rank"], second["rank"]) == ([0, 2, 0, 0, 0, 1], [1, 2, 1, 1, 0, 1])
    assert (first["is_leader"], second["is_leader"]) == (True, False)
    same = [
        {key: value for key, value in found.items() if key not in ("rank", "is_leader", "unequal")}
        for found in (first, second)
    ]
    assert same[0] == same[1]
    order = same[0].pop("rows")
    assert sorted(order) == [str(number) for number in range(9)]
    assert same[0] == {
        "attempt": 1, "device": "cpu", "llm": None, "rehearsed": [None, [], []], "max_tokens": 4,
        "input": [str(number) for number in range(10)], "sum": 3, "mean": [0.5, 2.5], "max": {"b": 1.0, "a": 0.5},
        "mixed": 0.5, "tensor": [3, 3], "half": [1.0, 2.0], "groups": [2, 2],
    }  # fmt: skip
    words = "values of one form on all ranks, but those of ranks [1] are not like rank 0's; this rank's: sum of [0]"
    assert first["unequal"] == f"all_reduce needs {words}"
    rows = written(job)
    assert [row["index"] for row in rows] == list(range(10))
    assert "seen" not in rows[9]
    assert rows[9]["error"]["type"] == "TypeError"
    assert rows[4]["error"] == {"type": "TooDull", "message": "no"}
    assert all(row["text"] == row["text"].upper() for row in rows[:9] if row["tag"] != 3)
    assert rows[3]["text"] != rows[3]["text"].upper()
    place = {name: number for number, name in enumerate(order, 1)}
    assert [row["seen"] for row in rows[:9]] == [place[str(n)] * (2 if n == 3 else 1) for n in range(9)]
    assert "[rank 1/2 " in ended.logs[1]
    assert "] set up 16" in ended.logs[1]
    assert {"setup", "teardown"} <= set(ended.records[1].timings)


RAISES = """
class Raises:
    def on_output(self, ctx, row):
        if row["index"] == 5:
            raise KeyError("norm")
"""


def test_an_error_in_on_output_ends_the_ranks_and_names_its_line(tmp_path: Path) -> None:
    job = job_of(tmp_path, RAISES, "Raises", shape=1)
    ended = run_ranks(job)
    assert ended.codes == [1]
    assert [(error.type, error.message) for error in errors_of(ended)] == [("KeyError", "'norm' (mine.py:5)")]
    assert not job.crash(0, 1).exists()  # no row of the next attempt is suspected
    assert {row["index"] for row in written(job)} <= set(range(5))


SKIPS = """
class Skips:
    def setup(self, ctx):
        ctx.barrier(30)
        if ctx.rank != 1:
            ctx.barrier(0.5)
        else:
            import time
            time.sleep(3)
"""


def test_a_barrier_names_the_rank_that_does_not_come_and_its_node(tmp_path: Path) -> None:
    ended = run_ranks(job_of(tmp_path, SKIPS, "Skips"))
    assert ended.codes[0] == 1
    error = ended.records[0].error
    assert error is not None
    host = ended.records[1].host
    assert error.type == "TimeoutError"
    assert error.message.startswith(
        f"barrier at mine.py:6: 1 rank of 2 did not come within 0.5 s: rank 1 ({host}; last in barrier 1, at "
        "mine.py:4). "
    )
    assert "rank 0 waits in ctx.barrier (mine.py:6 in setup" in error.message
    assert error.message.endswith("(mine.py:6)")


# -- longer ones -----------------------------------------------------------------------------------------------------
DRIVES = """
import sys
class Drives:
    def setup(self, ctx):
        self.began = True
    def run(self, ctx):
        rows = [row["prompt"] for row in ctx.rows()]
        (ctx.artefacts / "found.json").write_text(f'{{"rows": {len(rows)}, "sum": {ctx.all_reduce(ctx.rank)}}}')
        sys.exit(EXIT)
    def teardown(self, ctx):
        ctx.log("torn down", self.began)
"""


@pytest.mark.full
def test_a_program_that_drives_has_no_rows_to_write(tmp_path: Path) -> None:
    job = job_of(tmp_path, DRIVES.replace("EXIT", "0"), "Drives", drives_engine=True)
    ended = run_ranks(job).ok()
    assert found_by(job, 1) == {"rows": 10, "sum": 1}
    assert [record.rows for record in ended.records] == [0, 0]
    assert not list(job.shards.iterdir())
    assert "torn down True" in ended.logs[1]


@pytest.mark.full
def test_a_program_that_exits_with_a_code_has_failed(tmp_path: Path) -> None:
    ended = run_ranks(job_of(tmp_path, DRIVES.replace("EXIT", "3"), "Drives", drives_engine=True))
    assert [(error.type, error.message) for error in errors_of(ended)] == [("SystemExit", "3 (mine.py:9)")] * 2
    assert not any("torn down" in log for log in ended.logs)


COUNTS = """
import json
class Counts:
    def setup(self, ctx):
        self.rows = []
        ctx.log("set up in attempt", ctx.attempt)
    def on_output(self, ctx, row):
        self.rows.append(row["index"])
        row["by"] = [ctx.replica, ctx.all_reduce(1), ctx.attempt]
    def teardown(self, ctx):
        (ctx.artefacts / "found.json").write_text(json.dumps({"rows": self.rows, "ranks": ctx.all_reduce(1)}))
"""


@pytest.mark.full
def test_replicas_reduce_among_their_own_ranks(tmp_path: Path) -> None:
    job = job_of(tmp_path, COUNTS, "Counts", layout=layout(2, dp=2), rows=[{"prompt": str(n)} for n in range(40)])
    run_ranks(job).ok()
    rows = {replica: written(job, replica) for replica in (0, 1)}
    assert sorted(row["index"] for part in rows.values() for row in part) == list(range(40))
    assert all(row["by"] == [replica, 2, 1] for replica, part in rows.items() for row in part)
    for rank in range(4):
        assert sorted(found_by(job, rank)["rows"]) == [row["index"] for row in rows[rank // 2]]


@pytest.mark.full
def test_after_a_kill_setup_runs_again_and_only_new_rows_are_taken(tmp_path: Path) -> None:
    many = [{"prompt": f"{number}"} for number in range(3000)]
    job = job_of(tmp_path, COUNTS, "Counts", rows=many, sampling={"max_tokens": 60})
    ranks = start_ranks(job)
    try:
        wait_for(lambda: len(written(job)) > 20 if job.shard(0, 1).exists() else False, "rows are written", 60)
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
            rank.wait()
    crafted.end(job, 1)
    before = {row["index"] for row in written(job)}
    assert len(before) < len(many)
    assert not list(job.artefacts.rglob("found.json"))
    ended = run_ranks(job, attempt=2).ok()
    assert "set up in attempt 2" in ended.logs[1]
    again = found_by(job, 1)["rows"]
    assert sorted(again) == sorted(set(range(len(many))) - before)
    assert all(row["by"][2] == 2 for row in written(job, attempt=2))


@pytest.mark.full
def test_a_drain_is_followed_by_teardown(tmp_path: Path) -> None:
    many = [{"prompt": f"{number}"} for number in range(5000)]
    job = job_of(tmp_path, COUNTS, "Counts", rows=many, sampling={"max_tokens": 60})
    ranks = start_ranks(job)
    try:
        wait_for(lambda: job.shard(0, 1).exists() and len(written(job)) > 5, "rows are written", 60)
        job.drain.touch()
        assert [rank.wait(60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    assert sorted(found_by(job, 1)["rows"]) == [row["index"] for row in written(job)]
    assert len(written(job)) < len(many)


ONE_FAILS = """
class Fails:
    def teardown(self, ctx):
        if ctx.rank == 1:
            raise OSError(28, "No space left")
        ctx.barrier(100)
"""


@pytest.mark.full
def test_a_rank_that_fails_in_teardown_is_the_cause_and_the_rows_are_there(tmp_path: Path) -> None:
    job = job_of(tmp_path, ONE_FAILS, "Fails")
    began = time.monotonic()
    ended = run_ranks(job)
    assert time.monotonic() - began < 60  # the other leaves by itself where no torchrun ends it
    assert [error.message for error in errors_of(ended)] == ["[Errno 28] No space left (mine.py:5)"]
    first = read_json(job.rank_record(0), RankRecord)
    assert first is not None
    assert first.outcome == "terminated"
    assert len(written(job)) == len(ROWS)
