"""What a campaign kills: a rank, a torchrun agent, the batch script, the local supervisor, or all that a node runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.real_jobs import processes_of
from vllm_hpc import Job
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.schedulers.local import SupervisorRecord, find_supervisor

TARGETS = ("rank", "agent", "script", "node")
# Seconds that a node takes to come back. Slurm misses a batch job on a node that registers again, but not one that was
# active within BatchStartTimeout and 10 s of a message (20 s here; slurmctld's _purge_missing_jobs): then it asks again
# with its next pings, which may be minutes later. No real node boots that fast.
_BOOT_S = 25.0


class Live(NamedTuple):
    """A live process, with what it was started with."""

    process: psutil.Process
    environment: dict[str, str]
    words: list[str]
    name: str

    @property
    def is_agent(self) -> bool:
        """Whether it is torchrun: what that forks has its words, but a name of its own (fork_server.py)."""
        is_torchrun = any(word.endswith(("/torchrun", "torch.distributed.run")) for word in self.words)
        return is_torchrun and not self.name.startswith("vllm-")

    @property
    def is_rank(self) -> bool:
        """Whether it is a rank, or a child of one: forked ranks have the environment of torchrun."""
        return "RANK" in self.environment or self.name.startswith("vllm-rank")


def everything() -> list[Live]:
    """Every process of this machine that can be looked at and is not dead."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(Live(process, process.environ(), process.cmdline(), process.name()))
    return found


def of_attempt(job: Job, attempt: int) -> list[Live]:
    """What the script of an attempt has started and that still lives."""
    wanted = {"VLLM_HPC_FOLDER": str(job.path), "VLLM_HPC_ATTEMPT": str(attempt)}.items()
    return [one for one in everything() if wanted <= one.environment.items()]


def find(job: Job, task: int, attempt: int, target: str) -> list[list[psutil.Process]]:
    """The victims to choose from: each is a group of processes that dies at once. Empty where none lives."""
    if target == "script":
        return [[script] for script in _scripts(job, task)]
    if target == "node":
        return _nodes(job, task) if _is_slurm(job) else _machine(job)
    living = of_attempt(job, attempt)
    agents = {one.process.pid for one in living if one.is_agent}
    if target == "agent":
        return [[one.process] for one in living if one.is_agent]
    return [[one.process] for one in living if one.is_rank and _parent(one.process) in agents]


def strike(victims: list[psutil.Process], number: signal.Signals) -> None:
    """Send them all the signal. They are stopped first, so that none sees another die: a node goes all at once."""
    for step in (signal.SIGSTOP, number, signal.SIGCONT):
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(step)


class Node:
    """The node of the two-node Slurm that victims run on; its daemon dies with them, and comes back as after a boot."""

    def __init__(self, victims: list[psutil.Process]) -> None:
        self._name = next(name for one in victims if (name := _node_of(one)))
        pid = Path(os.environ["SLURM_CONF"]).with_name(f"slurmd.{self._name}.pid")
        self.daemon = psutil.Process(int(pid.read_text()))

    def boot(self) -> None:
        """Start the daemon when a node would be back; -b: it tells Slurm that what ran here is gone."""
        time.sleep(_BOOT_S)
        psutil.wait_procs([self.daemon], timeout=20)
        path = f"{os.environ['PATH']}:/usr/sbin"
        subprocess.run(["slurmd", "-b", "-N", self._name], check=True, env={**os.environ, "PATH": path})


def _node_of(process: psutil.Process) -> str | None:
    """The node that a process runs on; None of one that has ended meanwhile, as a script's short commands do."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.environ().get("SLURMD_NODENAME")
    return None


def _scripts(job: Job, task: int) -> Iterator[psutil.Process]:
    """The shell that runs the job's script, without the subshells that it has at this moment."""
    if not _is_slurm(job):
        record = read_json(job.folder.supervisor, SupervisorRecord)
        supervisor = find_supervisor(record) if record else None
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from (child for child in supervisor.children() if child.name() == "bash") if supervisor else ()
        return
    shells = [one for one in _in_allocation(job, task) if any(word.endswith("/slurm_script") for word in one.words)]
    pids = {shell.process.pid for shell in shells}
    yield from (shell.process for shell in shells if _parent(shell.process) not in pids)


def _machine(job: Job) -> list[list[psutil.Process]]:
    """The whole job: what a power cut takes."""
    found = processes_of(job)
    return [found] if found else []


def _nodes(job: Job, task: int) -> list[list[psutil.Process]]:
    """The processes of each node of the allocation, with the step daemons over them."""
    nodes: dict[str, dict[int, psutil.Process]] = {}
    for one in _in_allocation(job, task):
        group = nodes.setdefault(one.environment.get("SLURMD_NODENAME", ""), {})
        group[one.process.pid] = one.process
        with contextlib.suppress(psutil.NoSuchProcess):
            above = (parent for parent in one.process.parents() if parent.name() == "slurmstepd")
            group.update((parent.pid, parent) for parent in above)
    return [list(group.values()) for name, group in sorted(nodes.items()) if name]


def _in_allocation(job: Job, task: int) -> list[Live]:
    """What Slurm runs for a task of the job; of the cluster that we are a client of, for ids are used twice."""
    name, ident = ("SLURM_ARRAY_JOB_ID", str(job.job_id)) if _is_array(job) else ("SLURM_JOB_ID", str(job.job_id))
    ours = [one for one in everything() if one.environment.get(name) == ident and _is_of_our_cluster(one)]
    return [one for one in ours if not _is_array(job) or one.environment.get("SLURM_ARRAY_TASK_ID") == str(task)]


def _is_of_our_cluster(one: Live) -> bool:
    return one.environment.get("SLURM_CONF") == os.environ["SLURM_CONF"]


def _is_slurm(job: Job) -> bool:
    return job.folder.job().scheduler == "slurm"


def _is_array(job: Job) -> bool:
    return job.folder.job().plan.layout.is_array


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None
