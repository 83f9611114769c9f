"""One rank of the torchrun world, from its first line of log to its outcome. submitit runs ``run`` on every rank."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.engine import devices, flashinfer, native, network, watch
from vllm_hpc.engine.claims import DEAD_AFTER_S
from vllm_hpc.engine.compiled import CompiledCode
from vllm_hpc.engine.readahead import ReadAhead
from vllm_hpc.engine.report import RankReport, node_name
from vllm_hpc.errors import RequestError
from vllm_hpc.jobfolder import JobFolder
from vllm_hpc.layout import Place
from vllm_hpc.plan import CPU_KV_CACHE_GIB
from vllm_hpc.records import Attempt, JobRecord, read_json

# Seconds between two fsyncs of the finished rows: what a power cut costs.
SYNC_S = 5.0
# Seconds that one step may take. The longest that are in order: a first step that compiles, a grammar, a huge prompt.
STALL_S = 900.0


class Standing(msgspec.Struct, frozen=True):
    """Where this process stands. ``rank`` is in its torchrun world, ``global_rank`` counts through an array's tasks."""

    rank: int
    local_rank: int
    world_size: int
    task: int
    attempt: int
    job_id: str

    @property
    def global_rank(self) -> int:
        """The rank in the whole job."""
        return self.task * self.world_size + self.rank

    @classmethod
    def from_environment(cls) -> Standing:
        """Read what torchrun, or srun through the script, has set; RANK is kept, for a replica rewrites it."""
        os.environ["VLLM_HPC_RANK"] = os.environ["RANK"]
        return cls(
            rank=int(os.environ["RANK"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            task=int(os.environ["VLLM_HPC_TASK"]),
            attempt=int(os.environ["VLLM_HPC_ATTEMPT"]),
            job_id=os.environ["VLLM_HPC_JOB_ID"],
        )


class _Rank(NamedTuple):
    """All that a rank works with, once it knows where it stands."""

    job: JobFolder
    record: JobRecord
    standing: Standing
    place: Place
    report: RankReport
    sync_s: float
    compiled: CompiledCode


def run(folder: str) -> dict[str, Any]:
    """Run this rank and return its record. Raises whatever ended it, after that is on record."""
    job = JobFolder(folder)
    standing = Standing.from_environment()
    _redirect_output(job, standing.global_rank)
    record = job.job()
    place = record.plan.layout.place(standing.global_rank)
    report = RankReport(job, standing.global_rank, place.replica, standing.attempt)
    if attempt := read_json(job.attempt(standing.attempt), Attempt):  # by the clock of another node, maybe
        report.timings["launch"] = round(max(0.0, time.time() - attempt.started_at), 3)
    if standing.world_size > 1:  # a ring: of the ranks of a dead node, at least one is watched by a live one
        report.neighbour = standing.task * standing.world_size + (standing.rank + 1) % standing.world_size
    try:
        sync_s, stall_s = seconds("VLLM_HPC_SYNC_S", SYNC_S), seconds("VLLM_HPC_STALL_S", STALL_S)
        watch.start(report, stall_s, seconds("VLLM_HPC_DEAD_S", DEAD_AFTER_S))
        _check_world(record, standing)
        network.pin()
        _prepare_environment(record)
        ReadAhead.start(record, standing.local_rank)
        devices.show_only_own(record.plan.layout, standing.rank, standing.local_rank)
        compiled = CompiledCode(record, place, int(os.environ["LOCAL_RANK"]))
        rank = _Rank(job, record, standing, place, report, sync_s, compiled)
        if record.plan.is_native:
            _take_seat(rank, native.Seat.of(record.plan.layout, place, standing.rank, standing.local_rank))
        else:
            _generate(rank)
    except BaseException as error:
        with suppress(OSError):  # a disk too full to write down that it is: torchrun tells the error itself
            report.failed(error)
        raise
    outcome: dict[str, Any] = msgspec.to_builtins(report.finished())
    return outcome


def _take_seat(rank: _Rank, seat: native.Seat) -> None:
    """Do what is this rank's to do where vLLM starts its own workers."""
    native.prepare_environment()
    if seat.starts_workers and seat.node == 0:
        _generate(rank, seat)
        return
    from vllm_hpc.engine import replicas

    standing = rank.standing
    if seat.starts_workers:
        with rank.report.timed("restore"):
            rank.compiled.restore()
    store = replicas.meet(standing.rank, standing.world_size)
    flashinfer.agree(store, standing.rank, standing.world_size)
    rank.report.device = "native"  # its GPU is in the hands of the node's first rank
    if seat.starts_workers:
        native.serve(rank.record, seat, store)
        rank.compiled.keep()
    replicas.leave_together(store, standing.rank, standing.world_size)


def _generate(rank: _Rank, seat: native.Seat | None = None) -> None:
    """Load the model and run this rank's part of the rows; ``seat`` where vLLM starts its own workers."""
    job, record, standing, place, report, sync_s, compiled = rank
    with report.timed("restore"):
        compiled.restore()
    with report.timed("import"):
        import torch
        import vllm

        from vllm_hpc.engine import replicas
        from vllm_hpc.engine.attempt import Attempt
        from vllm_hpc.engine.start import make_engine
    report.versions = {"vllm": vllm.__version__, "torch": str(torch.__version__)}
    _tell_of_bytecode(vllm)
    layout = record.plan.layout
    attempt = Attempt(job, record, place, standing.attempt, standing.task, sync_s)
    with report.timed("load"):
        store = replicas.meet(standing.rank, standing.world_size)
        flashinfer.agree(store, standing.rank, standing.world_size)
        where = native.workers(seat, store) if seat else {}
        replica = native.lead(seat) if seat else replicas.join(layout, place, store, _run_name(standing))
        report.device, report.device_name, report.device_gib = replica.device, *replicas.describe_device()
        engine = make_engine(record, report.timings, **where)
        replica.after_engine_start()
        if seat:
            native.unlink_shared_memory()
        compiled.keep()
    with report.timed("generate"):
        digest = attempt.run(engine, replica.lockstep(), store, report)
        report.digest, report.rows = digest.hexdigest, digest.rows
    replica.check_digests(digest.hexdigest)
    compiled.keep()  # some kernels are compiled when a row first needs them
    if seat:
        native.release(seat, store)
    replicas.leave_together(store, standing.rank, standing.world_size)


def _tell_of_bytecode(module: ModuleType) -> None:
    """Say what makes the import slow where Python could not keep the package's bytecode: each rank compiles it anew.

    Twice the time: docs/performance.md.
    """
    kept, file = module.__spec__.cached if module.__spec__ else None, module.__file__
    if kept and file and not Path(kept).exists():
        print(
            f"vllm-hpc: {module.__name__}'s bytecode is not kept, which doubles the time of its import: "
            f"python -m compileall -q {shlex.quote(str(Path(file).parents[1]))}, "
            "or --env PYTHONPYCACHEPREFIX=FOLDER where that cannot be written to",
            flush=True,
        )


def _run_name(standing: Standing) -> str:
    return f"{standing.job_id}-{standing.attempt}"


def seconds(name: str, default: float) -> float:
    """A variable's seconds, more than none. Raises RequestError."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise RequestError(f"{name}={text!r} is no number of seconds: write {default:g}, or leave it out")
    return value


def _check_world(record: JobRecord, standing: Standing) -> None:
    planned = record.plan.layout.world_size
    if planned != standing.world_size:
        raise RuntimeError(f"the plan has {planned} ranks, and torchrun started {standing.world_size}")


def _prepare_environment(record: JobRecord) -> None:
    """Variables that vLLM and its libraries read when they are imported."""
    if "kv_cache_memory_bytes" not in record.plan.engine:  # the variable would win over it
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
    # vLLM warns of every VLLM_ variable that it does not know, and ours have been read.
    for name in [name for name in os.environ if name.startswith("VLLM_HPC_") and name != "VLLM_HPC_RANK"]:
        del os.environ[name]
    flashinfer.find_scripts()
    if os.path.isabs(record.model):  # noqa: PTH117 - a Hub id is no path
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _redirect_output(job: JobFolder, rank: int) -> None:
    """Let everything this process prints, C libraries included, go to its own log."""
    log = os.open(job.rank_log(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    print(f"-- rank {rank} on {node_name()}, {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
