"""One rank of the torchrun world, from its first line of log to its outcome. submitit runs ``run`` on every rank."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.engine.health import fatal_signals, rank_log, watchdog
from vllm_hpc.engine.health.rank_record import RankReport, node_name
from vllm_hpc.engine.interface import EngineMaker
from vllm_hpc.engine.loop.suspect_rows import earlier_attempts
from vllm_hpc.engine.standing import Standing
from vllm_hpc.engine.startup import network, seen
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import OwnJobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Attempt, JobRecord
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Place
from vllm_hpc.spec.write_file import open_append

# Seconds between two fsyncs of the finished rows: the most that a power cut can lose.
SYNC_S = 5.0


class _Rank(NamedTuple):
    """What a rank works with once it knows its place."""

    job: JobFolder
    record: JobRecord
    standing: Standing
    place: Place
    report: RankReport
    sync_s: float


def run(folder: str, kind: type[OwnJobFolder] = OwnJobFolder) -> dict[str, Any]:
    """Run this rank and return its record. Raises whatever ended it, after recording that.

    ``kind``: who may have written the job's records.
    """
    job = kind(folder)
    standing = Standing.from_environment()
    _redirect_output(job, standing.global_rank)
    fatal_signals.tell_python_stack()
    record = job.job()
    if record.request.debug_ranks:
        rank_log.prefix_lines(job.rank_log(standing.global_rank), standing.global_rank, record.plan.layout.all_ranks)
    place = record.plan.layout.place(standing.global_rank)
    report = RankReport(job, standing.global_rank, place.replica, standing.attempt)
    if attempt := read_json(job.attempt(standing.attempt), Attempt):  # its time may be another node's clock
        report.timings["launch"] = round(max(0.0, time.time() - attempt.started_at), 3)
    if standing.world_size > 1:  # a ring: at least one rank of a dead node is watched by a live rank
        report.neighbour = standing.task * standing.world_size + (standing.rank + 1) % standing.world_size
    launcher = None
    try:
        sync_s, stall_s = seconds("VLLM_HPC_SYNC_S", SYNC_S), seconds("VLLM_HPC_STALL_S", watchdog.STALL_S)
        launcher = watchdog.start(report, stall_s, seconds("VLLM_HPC_DEAD_S", watchdog.DEAD_AFTER_S))
        _check_world(record, standing)
        network.pin()
        seen.record_environment(job, record, standing)
        _work(_Rank(job, record, standing, place, report, sync_s))
    except BaseException as error:
        with suppress(OSError):  # the disk may be full, and that may be the error itself; torchrun reports it
            watchdog.record_error(report, launcher, error)
        raise
    outcome: dict[str, Any] = msgspec.to_builtins(report.finished())
    return outcome


def _work(rank: _Rank) -> None:
    """Do this rank's part of the job, with the engine that the job asks for."""
    if rank.record.request.rehearse:
        from vllm_hpc.engine.rehearsal.engine import RehearsalMaker

        needs_first = rank.record.request.rehearse_set.fault_s is not None
        is_first = needs_first and not earlier_attempts(rank.job, rank.standing.task, rank.standing.attempt)
        _generate(rank, RehearsalMaker(rank.record, rank.standing, rank.place, is_first))
        return
    from vllm_hpc.engine.vllm_engine import VllmMaker

    maker = VllmMaker(rank.record, rank.standing, rank.place)
    if maker.leads:
        _generate(rank, maker)
    else:
        maker.serve(rank.report, rank.job)


def _generate(rank: _Rank, maker: EngineMaker) -> None:
    """Start the engine and run this rank's part of the rows."""
    job, record, standing, place, report, sync_s = rank
    maker.load(report)
    fatal_signals.tell_modules()
    from vllm_hpc.engine.attempt import ReplicaAttempt
    from vllm_hpc.engine.startup import replicas

    attempt = ReplicaAttempt(job, record, place, standing.attempt, standing.task, sync_s)
    with report.timed("load"):
        world = replicas.meet(job_secret(job), standing.rank, standing.world_size)
        replica = maker.join(world)
        report.device = replica.device
        engine = maker.make(report)
    with report.timed("generate"):
        digest = attempt.run(engine, replica.lockstep(), world.store, report)
        report.digest, report.rows = digest.hexdigest, digest.rows
    replica.check_digests(digest.hexdigest)
    maker.release(world.store)
    world.leave()


def seconds(name: str, default: float) -> float:
    """The seconds that a variable gives, above 0. Raises RequestError."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise RequestError(f"{name} must be a number of seconds, not {text!r}: write {default:g}, or leave it out")
    return value


def _check_world(record: JobRecord, standing: Standing) -> None:
    planned = record.plan.layout.world_size
    if planned != standing.world_size:
        raise RuntimeError(f"the plan has {planned} ranks, but torchrun started {standing.world_size}")


def _redirect_output(job: JobFolder, rank: int) -> None:
    """Redirect everything that this process prints, C libraries included, to its own log."""
    log = open_append(job.rank_log(rank))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    print(f"-- rank {rank} on {node_name()}, {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
