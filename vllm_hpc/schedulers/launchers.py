"""Launchers: what starts a job's ranks on its nodes.

Ours lie beside each scheduler; ``spec/registry.py`` names them. Another package adds one by an entry point in the
group "vllm_hpc.launchers" (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec

from vllm_hpc.schedulers.scheduler import Scheduler
from vllm_hpc.schedulers.script_context import ScriptContext
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.registry import LAUNCHERS
from vllm_hpc.spec.resolved_job import FilledRequest, ResolvedJob

NATIVE = "native"


class Launcher(msgspec.Struct, frozen=True, kw_only=True):
    """What starts a job's ranks on its nodes, for ``schedulers``. It is called ``program`` in messages.

    ``words`` gives the shell's words, quoted, of the line that starts ``"${task[@]}"`` on all nodes; with
    ``is_line_per_node`` on the node of number ``$node``, which follows the task. Such a task is one torchrun on each
    node, or with ``is_task_per_rank`` one rank, with Slurm's variables. ``node`` is the shell's word by which it knows
    its node's number. ``wrapper`` comes before torchrun, or python, on each node.
    """

    name: str
    schedulers: tuple[str, ...]
    program: str
    words: Callable[[ScriptContext], tuple[str, ...]]
    node: str
    is_line_per_node: bool = False
    is_task_per_rank: bool = False
    wrapper: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        """What it does, for the head of a script."""
        if self.is_task_per_rank:
            return f"{self.program} starts one task per rank, without torchrun."
        return f"{self.program} starts one task per node; each starts torchrun, which starts one rank per GPU."

    def tasks_per_node(self, ranks: int) -> int:
        """How many tasks it starts on a node that has so many ranks."""
        return ranks if self.is_task_per_rank else 1


def get_launcher(name: str) -> Launcher:
    """The launcher of that name, ours or another package's. Raises RequestError."""
    launcher = LAUNCHERS.load(name)
    if not isinstance(launcher, Launcher) or launcher.name != name:
        raise RequestError(f"--launcher {name}: its entry point must name a vllm_hpc Launcher called {name!r}")
    return launcher


def is_native(filled: FilledRequest) -> bool:
    """Whether vLLM starts its own workers: an option says so, or the profile where no option does."""
    return (filled.request.launcher or filled.site.launcher) == NATIVE


def choose_launcher(filled: FilledRequest, scheduler: Scheduler) -> str:
    """What starts processes on the nodes: the launcher of the option or the profile, else the scheduler's default.

    A profile describes a cluster: on this machine, a launcher of its that the scheduler does not have is ignored.
    """
    by_profile = filled.site.launcher
    if scheduler.runs_here and by_profile not in scheduler.launchers:
        by_profile = None
    asked = (name for name in (filled.request.launcher, by_profile) if name not in (None, NATIVE))
    return next(asked, None) or scheduler.launchers[0]


def explain_override(job: ResolvedJob) -> str | None:
    """What to tell of a launcher that takes the place of the profile's; None if none does.

    A site may have good reasons: on Frontier torchrun's workers end up on one core, and srun's do not.
    """
    asked, of_site = job.request.launcher, job.site.launcher
    if asked in (None, NATIVE, of_site) or of_site in (None, NATIVE) or job.runs_here:
        return None
    return (
        f"{job.origin('launcher')} {asked}: the profile has {of_site}, which the site may want for its cores and GPUs"
    )


def explain_unused(job: ResolvedJob) -> list[str]:
    """What to tell of a key of the profile that the launcher does not use."""
    if not job.site.torchrun_options or not get_launcher(job.launcher).is_task_per_rank:
        return []
    return [f"of the profile not used by --launcher {job.launcher}, which starts no torchrun: torchrun_options"]


def _usable(scheduler: Scheduler) -> list[str]:
    """The scheduler's own launchers, and those of other packages that name it, but for one that cannot be imported."""
    found = list(scheduler.launchers)
    for name in LAUNCHERS.names():
        if name in LAUNCHERS.built_in or name in found:
            continue
        with suppress(RequestError):
            launcher = get_launcher(name)
            if scheduler.name in launcher.schedulers and (scheduler.name == "slurm" or not launcher.is_task_per_rank):
                found.append(name)
    return found


def check_launcher(job: ResolvedJob, scheduler: Scheduler) -> None:
    """Whether the scheduler has that launcher. Raises RequestError."""
    if job.launcher not in scheduler.launchers and scheduler.name not in get_launcher(job.launcher).schedulers:
        known = ", ".join(_usable(scheduler))
        raise RequestError(
            f"--launcher {job.launcher} cannot be used with the scheduler {scheduler.name} ({job.scheduler_reason}): "
            f"use one of {known}, {NATIVE}, or leave it out"
        )
    if scheduler.name != "slurm" and get_launcher(job.launcher).is_task_per_rank:
        raise RequestError(
            f"--launcher {job.launcher} starts one task per rank, which needs the variables of Slurm's tasks: use "
            f"another launcher with the scheduler {scheduler.name}"
        )
