"""The loop of a rank over a fake engine: always full, in step, told when to stop."""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import msgspec
import pytest

from tests import crafted
from tests.marks import needs_torch
from vllm_hpc.engine.health.rank_record import Mark, Phase, RankReport
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.engine.interface import InFlight
from vllm_hpc.engine.loop.chunk_claims import StoreClaims
from vllm_hpc.engine.loop.step_timer import Meter
from vllm_hpc.engine.loop.suspect_rows import Prior
from vllm_hpc.engine.rows import row_out
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.jobfolder.chunks import EvenChunks as Chunks
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.record_files import read_claimed
from vllm_hpc.jobfolder.records import Claimed, JobRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.words import counted

pytestmark = [needs_torch, pytest.mark.timeout(120)]
MOST = 8


class Ready(msgspec.Struct):
    row: Row
    prompt: str
    params: Any
    lora: Any = None
    text: Any = None
    split: Any = None
    calls: Any = None
    created: int = 0


def make(row: Row) -> Any:
    if row.get("bad") == "to make":
        raise ValueError("no such template")
    return Ready(row, row["prompt"], SimpleNamespace(n=row.get("n", 1), prompt_logprobs=None))


class Engine:
    """A row takes as many steps as its index says, between 2 and 6; ``before`` is called at every step."""

    def __init__(self, most: int = MOST) -> None:
        self.max_num_seqs = most
        self.left: dict[str, int] = {}
        self.held: list[int] = []
        self.admitted: list[int] = []
        self.before: Any = lambda engine: None

    def add_request(self, key: str, ready: Any) -> None:
        if ready.prompt == "refused":
            raise ValueError("the prompt is too long")
        if key == "probe":
            self.left[key] = 2
            return
        self.left[key] = 2 + int(key) * 7 % 5
        self.admitted.append(int(key))

    def idle_step(self) -> None:
        raise AssertionError("only of several lanes")

    def look(self) -> InFlight:
        return InFlight(min(len(self.left), self.max_num_seqs), 0, [])

    def watch(self, told: Any) -> None:
        raise AssertionError("only --verify asks for it")

    def request_maker(self, record: JobRecord, writes: bool) -> Any:
        return make

    def answer(self, ready: Any, output: Any, replica: int) -> Row:
        return row_out.answer(ready, output, replica)

    def failure(self, row: Row, error: Exception) -> Row:
        return row_out.failure(row, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, work: Any) -> tuple[list[Any], bool]:
        """The work is left to the loop: this one waits for what it has launched itself."""
        return self.take_step(), False

    def take_step(self) -> list[Any]:
        self.held.append(len(self.left))
        self.before(self)
        self.left = {key: steps - 1 for key, steps in self.left.items()}
        done = [key for key, steps in self.left.items() if steps <= 0]
        for key in done:
            del self.left[key]
        return [_output(key) for key in done]


def _output(key: str) -> Any:
    one = SimpleNamespace(
        token_ids=[len(key) if key == "probe" else int(key), 1],
        text="t",
        finish_reason="stop",
        stop_reason=None,
        logprobs=None,
    )
    return SimpleNamespace(request_id=key, finished=True, outputs=[one], prompt_token_ids=[1], prompt_logprobs=None)


@cache
def host() -> StoreServer:
    """The store of this process."""
    return StoreServer(b"secret", "127.0.0.1")


NUMBERS = count()


def new_store() -> JobStore:
    """One that nobody else uses."""
    return JobStore(host().address, b"secret", 5).under(f"{next(NUMBERS)}/")


class Rank:
    """All that a rank's loop is made of; only the first one has a chief and a writer."""

    def __init__(
        self,
        folder: JobFolder,
        lockstep: Any,
        rank: int = 0,
        share: int | None = None,
        trials: Any = (),
        engine: Any = None,
        replicas: int = 1,
        probe: Any = None,
    ) -> None:
        from vllm_hpc.engine.loop.leader import Chief, ReplicaRun
        from vllm_hpc.engine.loop.loop import Gauges, Lead, Loop, Work
        from vllm_hpc.engine.loop.row_prefetch import Feed

        rows = folder.job().rows
        self.engine: Any = engine or Engine()
        chunks, self.meter = Chunks(rows, 3), Meter(1, MOST, {})
        self.report = RankReport(folder, rank, 0, 1)
        self.feed = Feed(InputReader(folder), make, 2 * MOST)
        done = bytearray(rows)
        for group in trials:
            for row in group:
                done[row] = 1
        self.writer: ShardWriter | None = None
        chief = None
        if rank == 0:
            prior = Prior(folder, folder.job())
            prior.rows[:] = done
            done = prior.rows
            self.writer = ShardWriter(folder, 0, 1, prior.tally(0), self.meter.run, 5.0)
            store = new_store()
            claims = StoreClaims(store, chunks, prior, 0, replicas)
            chief = Chief(ReplicaRun(folder, 0, 1, 40.0), claims, self.writer, store)
            chief._looked = float("-inf")
        self.chief = chief
        work = Work(0, chunks, done, list(trials), rows if share is None else share, probe)
        lead = Lead(chief, self.writer) if chief and self.writer else None
        self.loop = Loop(self.engine, self.feed, lockstep, work, Gauges(self.meter, self.report), lead)

    def run(self) -> None:
        try:
            self.loop.run()
        finally:
            self.feed.close()
            if self.writer:
                self.writer.close()


def alone(folder: JobFolder, **how: Any) -> Rank:
    from vllm_hpc.engine.loop.lockstep import Lockstep

    return Rank(folder, Lockstep(0, 0, None), **how)


def make_job(path: Path, rows: int = 60, **special: Row) -> JobFolder:
    given: list[Row] = [{"prompt": "p", **special.get(f"row_{n}", {})} for n in range(rows)]
    return crafted.make_job(path / "job", given)


def rows_out(folder: JobFolder) -> dict[int, Row]:
    found = crafted.read_lines(folder.shard(0, 1))
    assert len({row["index"] for row in found}) == len(found)
    return {row["index"]: row for row in found}


def test_the_engine_is_full_until_the_input_ends(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder)
    rank.run()
    assert sorted(rows_out(folder)) == list(range(60))
    assert rank.engine.admitted == list(range(60))
    full = [number for number, held in enumerate(rank.engine.held) if held >= MOST]
    assert full == list(range(len(full)))  # never less between, over 20 chunks
    assert sum(rank.engine.held[: len(full)]) > 0.8 * sum(rank.engine.held)
    assert rank.loop.digest.rows == 60
    assert read_claimed(folder.claimed(0, 1)) == [Claimed(chunk=chunk) for chunk in range(20)]


def test_rows_that_all_finish_in_one_step_are_all_followed_at_once(tmp_path: Path) -> None:
    """As embeddings do, and texts of one length; whatever the size of a chunk."""
    rank = alone(make_job(tmp_path))
    rank.engine.before = lambda engine: engine.left.update(dict.fromkeys(engine.left, 1))
    rank.run()
    assert rank.engine.held == [MOST + 1] * 6 + [6]  # one waits in the engine, so that a step never begins with none


def test_bad_rows_become_error_rows_in_their_place(tmp_path: Path) -> None:
    folder = make_job(tmp_path, row_0={"bad": "to make"}, row_30={"prompt": "refused"}, row_59={"bad": "to make"})
    alone(folder).run()
    found = rows_out(folder)
    errors = {index: row["error"] for index, row in found.items() if "error" in row}
    assert len(found) == 60
    assert errors == {
        0: {"type": "ValueError", "message": "no such template"},
        30: {"type": "ValueError", "message": "the prompt is too long"},
        59: {"type": "ValueError", "message": "no such template"},
    }


def test_nothing_but_bad_rows_ends_too(tmp_path: Path) -> None:
    folder = make_job(tmp_path, 7, **{f"row_{n}": {"bad": "to make"} for n in range(7)})
    alone(folder).run()
    assert len(rows_out(folder)) == 7


def look_now(rank: Rank) -> None:
    assert rank.chief is not None
    rank.chief._looked = float("-inf")


def test_a_drain_admits_no_more_and_finishes_what_flies(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder)

    def ask(engine: Engine) -> None:
        if len(engine.held) == 6:
            folder.drain.touch()
            look_now(rank)

    rank.engine.before = ask
    rank.run()
    assert MOST < len(rank.engine.admitted) < 30
    assert sorted(rows_out(folder)) == sorted(rank.engine.admitted)
    assert rank.engine.left == {}


def test_when_time_is_up_what_flies_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder)

    def ask(engine: Engine) -> None:
        if len(engine.held) == 6:
            assert rank.chief is not None
            rank.chief._stop_at = 0.0

    rank.engine.before = ask
    rank.run()
    left = len(rank.engine.left)
    assert left > 0
    assert len(rows_out(folder)) + left == len(rank.engine.admitted)
    assert f"stopping: {counted(left, 'row')} in flight left to the next attempt" in capsys.readouterr().out


def test_trials_come_first_and_one_after_the_other(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder, trials=[[40, 41], [2]])
    rank.run()
    assert rank.engine.admitted[:4] == [40, 41, 2, 0]
    assert rank.engine.held[:2] == [2, 2]
    assert sorted(rows_out(folder)) == list(range(60))
    assert read_claimed(folder.claimed(0, 1))[:3] == [Claimed(trial=[40, 41]), Claimed(trial=[2]), Claimed(chunk=0)]


def test_an_input_that_was_cut_short_is_raised(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    folder.input.write_bytes(folder.input.read_bytes()[:300])
    with pytest.raises(InputError, match="changed since the job was submitted"):
        alone(folder).run()


def test_a_writer_that_has_ended_ends_the_work(tmp_path: Path) -> None:
    rank = alone(make_job(tmp_path))
    assert rank.writer is not None
    rank.writer._error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        rank.run()


def test_rows_of_several_outputs_count_as_often(tmp_path: Path) -> None:
    folder = make_job(tmp_path, 4, **{f"row_{n}": {"n": 2} for n in range(4)})
    rank = alone(folder)
    seen: list[int] = []
    rank.engine.before = lambda engine: seen.append(rank.loop._sequences)
    rank.run()
    assert (max(seen), seen[0], rank.loop._sequences) == (8, 8, 0)


def test_of_another_replicas_rows_only_what_there_are_slots_for(tmp_path: Path) -> None:
    """The other one never comes: all are run, its part chunk by chunk, and the engine stays full."""
    folder = make_job(tmp_path)
    rank = alone(folder, replicas=2)
    assert rank.chief is not None
    take, taken = rank.chief._claims.take, list[tuple[int | None, bool]]()

    def watched(any_part: bool) -> int | None:
        has_slots = rank.loop._held < MOST
        taken.append((take(any_part), has_slots))
        assert any_part is has_slots
        return taken[-1][0]

    rank.chief._claims.take = watched  # type: ignore[method-assign, assignment]
    rank.run()
    assert sorted(rows_out(folder)) == list(range(60))
    full = [number for number, held in enumerate(rank.engine.held) if held >= MOST]
    assert full == list(range(len(full)))
    ahead = [chunk for chunk, has_slots in taken if chunk is not None and not has_slots]
    assert ahead
    assert max(ahead) < 10  # of 20 chunks, those of its own part


def test_many_rows_at_once_are_admitted_between_several_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM takes a while for each, in which the GPU would wait for the first of them."""
    monkeypatch.setattr("vllm_hpc.engine.loop.loop._ADMITTED_AT_ONCE", 3)
    folder = make_job(tmp_path)
    rank = alone(folder)
    rank.run()
    assert rank.engine.held[:3] == [3, 6, MOST]
    assert sorted(rows_out(folder)) == list(range(60))


def test_a_small_input_is_shared_out_to_two_replicas(tmp_path: Path) -> None:
    rank = alone(make_job(tmp_path, 6), share=3)
    rank.run()
    assert max(rank.engine.held) == 3


class Within(Engine):
    """One with two batches under way: the work is done in each step, before its outputs are known."""

    def step(self, work: Any) -> tuple[list[Any], bool]:
        outputs = self.take_step()
        work()
        return outputs, True


def test_rows_are_handed_over_and_admitted_within_the_next_step(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder, engine=Within())
    written: list[int] = []
    rank.engine.before = lambda engine: written.append(rank.loop.digest.rows)
    rank.run()
    assert sorted(rows_out(folder)) == rank.engine.admitted == list(range(60))
    assert rank.loop.digest.rows == 60
    assert written[-1] < 60  # the last ones when the loop has ended


def test_what_has_finished_is_kept_when_the_next_step_fails(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder, engine=Within())
    finished: list[int] = []

    def fail(engine: Engine) -> None:
        if rank.loop._finished:
            finished.extend(ready.row["index"] for ready, _ in rank.loop._finished)
            raise RuntimeError("CUDA error")

    rank.engine.before = fail
    with pytest.raises(RuntimeError, match="CUDA error"):
        rank.run()
    assert finished
    assert sorted(rows_out(folder)) == sorted(finished)
    assert rank.report.mark is not None
    assert rank.report.mark.phase is Phase.STEP  # so that the next attempt asks which row it was


def test_rows_that_cannot_be_written_at_the_end_are_no_crash_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder, engine=Within())
    assert rank.writer is not None
    own = rank.writer.put

    def put(make_row: Any) -> None:
        if not rank.loop._in_flight:
            raise OSError(28, "No space left on device")
        own(make_row)

    def drain(_: Engine) -> None:
        folder.drain.touch()
        look_now(rank)

    monkeypatch.setattr(rank.writer, "put", put)
    rank.engine.before = drain
    with pytest.raises(OSError, match="No space left"):
        rank.run()
    assert rank.engine.left == {}
    assert rank.report.mark is not None
    assert rank.report.mark.phase is Phase.WRITE


def test_the_watch_sees_what_the_loop_is_at_until_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it hangs, its mark says in what: at each place the one that stands there."""
    rank = alone(make_job(tmp_path, 20))
    assert rank.chief is not None
    assert rank.writer is not None
    seen: dict[str, set[Phase]] = {}

    def spy(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            assert isinstance(rank.report.mark, Mark)
            seen.setdefault(name, set()).add(rank.report.mark.phase)
            return real(*args, **named)

        monkeypatch.setattr(owner, name, call)

    spy(rank.chief, "decide")
    spy(rank.loop._lockstep, "tell")
    spy(rank.feed, "take")
    spy(rank.engine, "add_request")
    spy(rank.engine, "step")
    spy(rank.writer, "put")
    rank.run()
    assert seen == {
        "decide": {Phase.CLAIM}, "tell": {Phase.AGREE}, "take": {Phase.READ}, "add_request": {Phase.ADMIT},
        "step": {Phase.STEP}, "put": {Phase.WRITE},
    }  # fmt: skip
    assert rank.report.mark is None


def test_an_error_between_steps_is_no_crash_of_the_engine(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    for phase, is_crash in ((Phase.WRITE, False), (Phase.STEP, True)):
        report = RankReport(folder, 0, 0, 1)
        report.enter(phase)
        report.failed(RuntimeError("no"))
        assert folder.crash(0, 1).exists() is is_crash


PROBE = make({"index": -1, "id": "probe", "prompt": "p"})


@pytest.mark.inputs
def test_a_probe_runs_alone_and_before_all_rows_and_is_no_row(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank, without = alone(folder, probe=PROBE), alone(make_job(tmp_path / "other"))
    rank.run()
    without.run()
    assert rank.engine.held[:3] == [1, 1, MOST + 1]
    assert read_claimed(folder.claimed(0, 1))[:2] == [Claimed(probe=True), Claimed(chunk=0)]
    assert sorted(rows_out(folder)) == list(range(60))
    assert (rank.loop.digest.hexdigest, rank.meter.steps) == (without.loop.digest.hexdigest, without.meter.steps)


@pytest.mark.inputs
def test_the_engine_that_dies_of_a_probe_has_crashed(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rank = alone(folder, probe=PROBE)

    def die(_: Engine) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    rank.engine.before = die
    with pytest.raises(RuntimeError, match="unspecified launch failure") as raised:
        rank.run()
    rank.report.failed(raised.value)
    assert folder.crash(0, 1).exists()
    assert read_claimed(folder.claimed(0, 1)) == [Claimed(probe=True)]
    assert rank.engine.admitted == []


@pytest.mark.inputs
def test_a_probe_that_vllm_refuses_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_job(tmp_path)
    alone(folder, probe=make({"index": -1, "id": "probe", "prompt": "refused"})).run()
    assert "no probe, because vLLM refuses its row: the prompt is too long" in capsys.readouterr().out
    assert sorted(rows_out(folder)) == list(range(60))
