"""A script as it is, on every rank: as torchrun would run it, in the rank's own process.

So it has the rank's log, record, heartbeat and watchdog. Neither torch nor vLLM is imported before the script does.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from vllm_hpc.engine.health.rank_record import RankReport, is_echo
from vllm_hpc.engine.programs.artefacts import make_artefacts
from vllm_hpc.engine.programs.late_imports import when_imported
from vllm_hpc.engine.programs.main_module import run_as_main
from vllm_hpc.engine.programs.rendezvous import ScriptRendezvous
from vllm_hpc.engine.programs.source import compile_copy, line_of, read_copy
from vllm_hpc.engine.rank_part import RankPart
from vllm_hpc.engine.startup import meeting
from vllm_hpc.engine.startup.devices import show_only_own
from vllm_hpc.jobfolder.secret import job_secret
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.shared_memory import remove_segments

# Seconds in which a script's own handler of SIGTERM may do what it has to: a rank must be gone within 5 s.
_HANDLER_S = 3.0
_MOST_GONE = 8


def run_script(part: RankPart) -> None:
    """Run this rank's part of a script. Raises what the script raises.

    Raises RequestError if the copy in the job folder is not what was submitted, ScriptExitError for an exit code.
    """
    program, standing, report = _program(part), part.standing, part.report
    report.locate = partial(_locate, part)
    code = compile_copy(read_copy(part.job.program, program.sha256), program.source)
    _set_environment(part)
    with report.timed("load"):
        met = meeting.meet(job_secret(part.job), standing.rank, standing.world_size)
        segments = f"vllm-hpc-{standing.run_name}-{meeting.share_nonce(met.store, met.rank)}-{platform.node()}"[:128]
    ScriptRendezvous(met).install()
    when_imported("vllm.v1.executor.uniproc_executor", partial(_name_shared_memory, ident=segments))
    has_ended, umask = threading.Event(), _umask()
    report.on_leave = partial(_leave, signal.getsignal(signal.SIGTERM), has_ended, segments)
    try:
        with report.timed("run"):
            run_as_main(code, program, part.job.program)
    finally:
        os.umask(umask)  # of the rank's record, whatever the script has set
        has_ended.set()
        _describe(report)
        remove_segments(segments)
    met.end()


def _program(part: RankPart) -> Program:
    assert part.record.program is not None
    return part.record.program


def _locate(part: RankPart, error: BaseException) -> str:
    """Where in the script an error came from; and who was gone by then, if it only says that somebody is."""
    where = line_of(error, _program(part).source)
    if not is_echo(error):
        return where
    records = part.job.records_of(range(part.record.plan.layout.all_ranks))
    gone = [one.rank for one in records if one.outcome == "ok" and one.attempt == part.standing.attempt]
    return f"{where}; had ended by then: rank {', '.join(map(str, gone[:_MOST_GONE]))}" if gone else where


def _set_environment(part: RankPart) -> None:
    """What torchrun gives a script, and where its artefacts go; the working directory of the submission."""
    layout, program = part.record.plan.layout, _program(part)
    # One world, however the script divides it: it may use all GPUs of its node, as under torchrun.
    show_only_own(msgspec.structs.replace(layout, tp=layout.world_size, pp=1, dp=1), part.standing.rank, _local_rank())
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(layout.procs_per_node))
    os.environ["VLLM_HPC_ARTEFACTS"] = str(make_artefacts(part.job, part.standing.global_rank))
    # It is for our own processes: Python's children of the script's find its siblings, as they do elsewhere.
    os.environ.pop("PYTHONSAFEPATH", None)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what a killed rank printed is in its log
    try:
        os.chdir(program.directory or ".")
    except OSError as error:
        print(
            f"vllm-hpc: {program.directory!r}, where the job was submitted, is not here: {error.strerror}", flush=True
        )


def _umask() -> int:
    os.umask(umask := os.umask(0o077))
    return umask


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


def _name_shared_memory(module: Any, ident: str) -> None:
    """Have vLLM's CPU back-end name its shared memory so (vllm_patches/shm_name.py says why).

    It takes the name from what follows the last colon of the rendezvous, whose scheme alone counts for torch.
    """
    executor: Any = getattr(module, "ExecutorWithExternalLauncher", None)
    make = getattr(executor, "_distributed_args", None)
    if make is None:
        return

    def distributed_args(self: Any) -> tuple[str, int, int]:
        from vllm.platforms import current_platform

        method, rank, local_rank = make(self)
        is_named = method == "env://" and current_platform.is_cpu()
        return f"env://{ident}" if is_named else method, rank, local_rank

    executor._distributed_args = distributed_args


def _leave(ours: Any, has_ended: threading.Event, segments: str) -> None:
    """Let a handler of the script's own do its work, when the rank was told to leave; then tidy up."""
    if signal.getsignal(signal.SIGTERM) is not ours:
        has_ended.wait(_HANDLER_S)
    remove_segments(segments)


def _describe(report: RankReport) -> None:
    """What the script has used, as far as it has imported it."""
    report.versions = {"python": platform.python_version()}
    for name in ("vllm", "torch"):
        if version := getattr(sys.modules.get(name), "__version__", None):
            report.versions[name] = str(version)
    torch = sys.modules.get("torch")
    if torch is None:
        return
    report.device = "cpu"
    with suppress(AttributeError, RuntimeError):  # half imported, or a CUDA that has failed
        if torch.cuda.is_initialized():
            device = torch.cuda.current_device()
            properties = torch.cuda.get_device_properties(device)
            report.device, report.device_name = f"cuda:{device}", properties.name
            report.device_gib = round(properties.total_memory / 2**30, 1)
