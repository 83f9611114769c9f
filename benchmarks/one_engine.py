"""One vLLM engine, started as the ranks of a job start it, and two ways to run rows through it in turns.

``attempt`` is an attempt of a job folder with all it does: reading, claims, checks, shards, fsync, progress;
``generate`` is ``vllm.LLM`` put around that very engine. Under torchrun every rank makes one, and all call the same.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.crafted import make_job, put_in_order
from vllm_hpc.engine import vllm_engine
from vllm_hpc.engine.startup import devices, flashinfer, mp_workers
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import JobRecord, Progress
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.row_order import INPUT, PREFIX, Order


class Run(msgspec.Struct):
    """One run: seconds, this process's CPU seconds, tokens and texts of this replica by row; and what its folder says.

    ``digest`` is over the rows' token ids: equal on the ranks of a replica. Of an attempt it is in the order in which
    rows end, and so is that of any other way's where they all end at once.
    """

    seconds: float
    cpu: float
    tokens: int
    texts: dict[int, str] = {}
    digest: str = ""
    idle: float = 0.0
    occupancy: float = 0.0
    steps: int = 0

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds


def prepare_environment() -> None:
    """What a job's script sets, for a process that nothing has launched: a world of one rank."""
    for name, value in {
        "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1",
        "VLLM_CPU_KVCACHE_SPACE": 1, "HF_HUB_OFFLINE": 1, "VLLM_NO_USAGE_STATS": 1, "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": 0,
    }.items():  # fmt: skip
        os.environ.setdefault(name, str(value))


def wait_for_turn() -> float:
    """Wait for the file that VLLM_HPC_BENCHMARK_TURN names, where it is set, and return when that was: now.

    Whoever runs one engine after another lets the next one's ranks import vLLM meanwhile, and waits for no import.
    """
    turn, parent = os.environ.get("VLLM_HPC_BENCHMARK_TURN"), os.getppid()
    while turn and not Path(turn).exists():
        if os.getppid() != parent:  # nobody is left to say so
            os._exit(1)
        time.sleep(0.05)
    return time.perf_counter()


def choose_port() -> None:
    """The port of a world that nothing has launched; not before it is needed, or another takes it meanwhile."""
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])


def digest_of(tokens: dict[int, list[int]]) -> str:
    """A digest of rows' token ids, in this order, as an attempt makes it of rows in the order in which they end."""
    from vllm_hpc.engine.loop.loop import Digest

    digest = Digest()
    for index, row in tokens.items():
        digest.add(index, [row])
    return digest.hexdigest


# Nobody else is on a machine that is measured.
SECRET = b"a benchmark"


class Barrier:
    """All ranks of a world wait for each other, over their store; a world of one needs none."""

    def __init__(self, store: Any, world: int) -> None:
        self._store, self._world, self._times = store, world, 0

    def wait(self) -> None:
        """Return when all have come here as often as this one."""
        if self._world == 1:
            return
        self._times += 1
        key = f"barrier/{self._times}"
        if self._store.add(key, 1) == self._world:
            self._store.set(f"{key}/all", "")
        self._store.wait([f"{key}/all"])


class OneEngine:
    """This rank's engine. ``work`` is a folder that all ranks see; ``sampling`` is the job's."""

    def __init__(
        self, work: Path, model: Path, layout: Layout, engine: dict[str, Any], sampling: dict[str, Any]
    ) -> None:
        prepare_environment()
        self._rank, self._world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._plan, self._model, self._sampling = Plan(layout=layout, engine=engine), str(model), sampling
        if self._plan.is_native:
            mp_workers.prepare_environment()
        devices.show_only_own(layout, self._rank, int(os.environ["LOCAL_RANK"]))
        began = time.perf_counter()
        from vllm import LLM, LLMEngine, SamplingParams

        from vllm_hpc.engine.startup import replicas
        from vllm_hpc.engine.startup.make_engine import make_engine
        from vllm_hpc.engine.vllm_patches import Patches
        from vllm_hpc.engine.vllm_patches.sharded_sampling import share_sampling

        imports = time.perf_counter() - began
        began = wait_for_turn()
        choose_port()
        self._work, self._runs = work, 0
        self._meeting = replicas.meet(SECRET, self._rank, self._world)
        self._barrier = Barrier(self._meeting.store, self._world)
        flashinfer.agree(self._meeting.store, self._rank, self._world)
        self._place, self._dp = layout.place(self._rank), layout.dp
        segments: str | None = None
        patches = Patches()
        if self._plan.is_native:  # this process runs the loop, vLLM starts the workers
            self._replica = mp_workers.lead(mp_workers.Seat(self._place, 0, 1, True))
        else:
            run = f"benchmark-{os.environ['MASTER_PORT']}"
            self._replica, segments = vllm_engine.join(
                vllm_engine.RankPlace(layout, self._place, run), self._meeting, patches
            )
        parts: dict[str, float] = {}
        self.engine = make_engine(self._job([{"prompt": "a"}], f"engine-{self._rank}").job(), parts, patches)
        if not self._plan.is_native:
            vllm_engine.meet_started(segments)
        self._sharing = share_sampling(self.engine)
        if self._plan.is_native:
            mp_workers.unlink_shared_memory()
        with mock.patch.object(LLMEngine, "from_engine_args", return_value=self.engine):
            self._llm = LLM(model=str(model))
        self._params = partial(SamplingParams, **sampling)
        self.start_up = {"import": imports, "load": time.perf_counter() - began, **parts}

    def _job(self, rows: list[Row], name: str, order: Order = INPUT) -> JobFolder:
        folder = make_job(self._work / name, rows, shape=self._plan.layout)
        given: JobRecord = msgspec.structs.replace(
            folder.job(), plan=self._plan, model=self._model, sampling=dict(self._sampling)
        )
        write_json(folder.job_json, given)
        if order == PREFIX:
            put_in_order(folder)
        return folder

    def attempt(self, rows: list[Row], sync_s: float = 5.0, order: Order = INPUT) -> Run:
        """One attempt at a job of these rows: from the input's file to durable rows."""
        from vllm_hpc.engine.attempt import ReplicaAttempt
        from vllm_hpc.engine.health.rank_record import RankReport

        self._runs += 1
        name = f"job-{self._runs}"
        if self._rank == 0:
            self._job(rows, name, order)
        self._barrier.wait()
        job = JobFolder(self._work / name)
        report = RankReport(job, self._rank, self._place.replica, 1)
        attempt = ReplicaAttempt(job, job.job(), self._place, 1, 0, sync_s)
        store = self._meeting.store.under(f"run/{self._runs}/")
        stop = self._start()
        digest = attempt.run(vllm_engine.VllmEngine(self.engine), self._replica, store, report)
        return _read(job, self._place.replica, *stop(), digest.hexdigest)

    @property
    def shares_sampling(self) -> bool:
        """Whether the ranks share out the rows to sample."""
        return self._sharing is not None

    def unshared(self, rows: list[Row]) -> Run:
        """The attempt, with every rank sampling all rows by itself."""
        assert self._sharing is not None
        self._sharing.is_on = False
        try:
            return self.attempt(rows)
        finally:
            self._sharing.is_on = True

    def limited(self, rows: list[Row], sequences: int, tokens: int | None = None) -> Run:
        """The attempt with at most so many sequences at once and tokens in a step: no more than the engine's own."""
        config, scheduler = self.engine.vllm_config.scheduler_config, self.engine.engine_core.engine_core.scheduler
        most = config.max_num_seqs
        wanted = {
            "max_num_running_reqs": sequences,
            "max_num_active_reqs": sequences,  # not in 0.26
            "max_num_scheduled_tokens": tokens or scheduler.max_num_scheduled_tokens,
        }
        before = {name: getattr(scheduler, name) for name in wanted if hasattr(scheduler, name)}
        try:
            config.max_num_seqs = sequences  # what the loop asks
            for name in before:
                setattr(scheduler, name, wanted[name])
            return self.attempt(rows)
        finally:
            config.max_num_seqs = most
            for name, value in before.items():
                setattr(scheduler, name, value)

    def generate(self, rows: list[Row], at_once: int | None = None) -> Run:
        """`LLM.generate` over this replica's equal share of the rows, so many prompts at a time (None: all)."""
        mine = list(enumerate(rows))[self._place.replica :: self._dp]
        params = [self._params(**row.get("sampling", {})) for _, row in mine]
        prompts = [
            row["prompt"] if isinstance(row["prompt"], str) else {"prompt_token_ids": row["prompt"]} for _, row in mine
        ]
        outputs: list[Any] = []
        stop = self._start()
        for first in range(0, len(mine), at_once or len(mine) or 1):
            part = slice(first, first + (at_once or len(mine)))
            outputs += self._llm.generate(prompts[part], params[part], use_tqdm=False)
        seconds, cpu = stop()
        tokens = {index: list(one.outputs[0].token_ids) for (index, _), one in zip(mine, outputs, strict=True)}
        texts = {index: one.outputs[0].text for (index, _), one in zip(mine, outputs, strict=True)}
        return Run(seconds, cpu, sum(map(len, tokens.values())), texts, digest_of(tokens))

    def _start(self) -> Callable[[], tuple[float, float]]:
        """Begin with all ranks at once; what is returned tells the seconds until all are done, and this rank's CPU."""
        self.engine.reset_prefix_cache()
        self._barrier.wait()
        began, cpu = time.perf_counter(), time.process_time()

        def stop() -> tuple[float, float]:
            used = time.process_time() - cpu
            self._barrier.wait()
            return time.perf_counter() - began, used

        return stop


def _read(job: JobFolder, replica: int, seconds: float, cpu: float, digest: str) -> Run:
    shard = job.shard(replica, 1)
    lines = [msgspec.json.decode(line) for line in shard.read_bytes().splitlines()] if shard.exists() else []
    texts = {line["index"]: line["text"] for line in lines}
    found = Run(seconds, cpu, sum(line["completion_tokens"] for line in lines), texts, digest)
    progress = read_json(job.progress(replica), Progress)
    if progress is not None and progress.runs:
        run = progress.runs[-1]
        found.idle = run.seconds["idle"] / (run.seconds["generate"] + run.seconds["drain"] or 1.0)
        found.occupancy, found.steps = run.occupancy, run.steps
    return found
