"""One rank of the torchrun world, from its first line of log to its outcome. submitit runs ``run`` on every rank."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from vllm_hpc.engine.health import fatal_signals, hang, rank_log, watchdog
from vllm_hpc.engine.health.rank_record import RankReport, node_name
from vllm_hpc.engine.interface import EngineMaker
from vllm_hpc.engine.makers import engine_maker
from vllm_hpc.engine.rank_part import RankPart
from vllm_hpc.engine.standing import Standing
from vllm_hpc.engine.startup import network, seen
from vllm_hpc.engine.startup.fork_server import shared_import
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import OwnJobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Attempt, JobRecord
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.write_file import open_append

if TYPE_CHECKING:
    from vllm_hpc.engine.programs.load import UserProgram
    from vllm_hpc.engine.programs.rows import RowProgram
    from vllm_hpc.engine.programs.started import Started

# Seconds between two fsyncs of the finished rows: the most that a power cut can lose.
SYNC_S = 5.0


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
    report = RankReport(job, standing.global_rank, place.lane, standing.attempt)
    shared = shared_import()
    if attempt := read_json(job.attempt(standing.attempt), Attempt):  # its time may be another node's clock
        began = time.time() - (shared.seconds if shared else 0.0)
        report.timings["launch"] = round(max(0.0, began - attempt.started_at), 3)
    _place_report(report, record, standing)
    if standing.world_size > 1:  # a ring: at least one rank of a dead node is watched by a live rank
        report.neighbour = standing.task * standing.world_size + (standing.rank + 1) % standing.world_size
    launcher = None
    try:
        sync_s, stall_s = seconds("VLLM_HPC_SYNC_S", SYNC_S), seconds("VLLM_HPC_STALL_S", watchdog.STALL_S)
        dead_s = seconds("VLLM_HPC_DEAD_S", watchdog.DEAD_AFTER_S)
        launcher = watchdog.start(report, stall_s, dead_s, stall_s if record.program else None)
        _check_world(record, standing)
        network.pin()
        seen.record_environment(job, record, standing)
        _work(RankPart(job, record, standing, place, report, sync_s))
    except BaseException as error:
        if record.program and type(error) is TimeoutError:
            hang.explain_timeout(report, error)
        with suppress(OSError):  # the disk may be full, and that may be the error itself; torchrun reports it
            watchdog.record_error(report, launcher, error)
        raise
    outcome: dict[str, Any] = msgspec.to_builtins(report.finished())
    return outcome


def _place_report(report: RankReport, record: JobRecord, standing: Standing) -> None:
    """Say which ranks are this one's world, which its node's, and where torch.distributed begins to count."""
    layout, first = record.plan.layout, standing.task * standing.world_size
    report.world = range(first, first + standing.world_size)
    on_node = standing.rank // layout.procs_per_node * layout.procs_per_node + first
    report.here = range(on_node, min(on_node + layout.procs_per_node, report.world.stop))
    is_script = record.program is not None and record.program.is_script
    report.first_rank = first if is_script else report.rank - layout.place(report.rank).rank


def _work(rank: RankPart) -> None:
    """Do this rank's part of the job: the user's code that drives, or rows, with the engine that the job asks for."""
    program = rank.record.program
    if program is not None and program.is_script:
        from vllm_hpc.engine.programs.run_script import run_script

        run_script(rank)
        return
    if program is not None and program.drives_engine:
        from vllm_hpc.engine.programs.drive import drive

        drive(rank)
        return
    maker = engine_maker(rank)
    if maker.leads:
        _generate(rank, maker)
    else:
        maker.serve(rank.report, rank.job)


def _generate(rank: RankPart, maker: EngineMaker) -> None:
    """Start the engine and run this rank's part of the rows, with the user's program if there is one."""
    job, record, standing, place, report, sync_s = rank
    maker.load(report)
    fatal_signals.tell_modules()
    user = _user_program(rank)
    from vllm_hpc.engine.attempt import ReplicaAttempt
    from vllm_hpc.engine.programs.started import Started
    from vllm_hpc.engine.startup import replicas

    attempt = ReplicaAttempt(job, record, place, standing.attempt, standing.task, sync_s)
    with report.timed("load"):
        world = replicas.meet(job_secret(job), standing.rank, standing.world_size)
        replica = maker.join(world)
        report.device = replica.device
        engine = maker.make(report)
    program = _begin(rank, user, Started(world, replica, maker.llm)) if user else None
    with report.timed("generate"):
        digest = attempt.run(engine, replica, world.store, report, program)
        report.digest, report.rows = digest.hexdigest, digest.rows
    if program:
        program.end()
    replica.check_digests(digest.hexdigest)
    maker.release(world.store)
    world.leave()


def _user_program(rank: RankPart) -> UserProgram | None:
    """The user's program, before the engine takes minutes to start: an error in it is told at once."""
    if rank.record.program is None:
        return None
    from vllm_hpc.engine.programs.load import load_program

    user = load_program(rank.job, rank.record.program)
    rank.report.locate = user.locate
    return user


def _begin(rank: RankPart, user: UserProgram, started: Started) -> RowProgram:
    """Begin a program beside the loop: its setup has run."""
    from vllm_hpc.engine.programs.context import Context
    from vllm_hpc.engine.programs.rows import RowProgram

    program = RowProgram(user, Context(rank, started), rank.report)
    program.begin()
    return program


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
