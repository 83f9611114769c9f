"""A scheduler is one object: data (argv, id pattern, template) and a few pure functions.

Ours lie beside this, a folder each; ``spec/registry.py`` names them. Another package adds one by an entry point in the
group "vllm_hpc.schedulers" (docs/extending.md).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import SUBMIT_TIMEOUT_S, Ask, ClientError, ClientTimeoutError, call_client
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.registry import SCHEDULERS
from vllm_hpc.spec.resolved_job import ResolvedJob


@dataclass(frozen=True)
class JobState:
    """What a scheduler says of a job, or of one task of an array.

    ``phase``: waiting, running, completed (its script ended with exit code 0), failed, gone (it ended, and only its own
    record can say how), cancelled, timeout, preempted, forgotten (the scheduler answers, and does not know it) or
    unknown (it does not answer); ``reason`` in its own words.
    """

    phase: str
    reason: str = ""


@dataclass(frozen=True)
class Scheduler:
    """How to talk to one scheduler. ``script`` is the name that the rendered template has in the job folder.

    ``query`` gets the job's id and those of the tasks to look for, ID_0, ID_1 ... of an array, and answers by
    them; it calls clients through the Ask it is given.
    ``environment`` is what its client is handed to submit that script; ``remember`` gets what that printed, and keeps
    in the folder what else than the id will be needed. ``task_name`` is what people see of an array's task.

    ``launchers`` start its ranks, the first one where none is named. What it cannot be asked for, and folders that it
    cannot log into, are refused by ``check_request`` and ``check_folder`` before anything is made, as is, by
    ``check_client``, a client that is another scheduler's.

    ``runs_here``: jobs run on this machine, which is their one node; its GPUs or its memory are theirs, options of a
    cluster mean nothing, and the exit record of a script is the last word on it.

    ``template`` lies in the folder ``templates``, None: among the packaged ones. ``client`` is what "auto" calls with
    --version, and what its answer holds; a scheduler without one is taken only where it is named.
    """

    name: str
    template: str
    script: str
    id_pattern: re.Pattern[str]
    submit_argv: Callable[[Path], list[str]]
    cancel: Callable[[JobFolder, str], None]
    query: Callable[[JobFolder, str, Sequence[str], Ask], dict[str, JobState]]
    environment: Callable[[Path], dict[str, str]]
    remember: Callable[[JobFolder, str], None] = lambda job, output: None
    explain: Callable[[str], str] = lambda words: ""
    task_name: Callable[[str, int], str] = lambda job_id, task: f"{job_id}_{task}"
    launchers: tuple[str, ...] = ("torchrun",)
    check_client: Callable[[], None] = lambda: None
    check_request: Callable[[ResolvedJob, Layout], None] = lambda job, layout: None
    check_folder: Callable[[JobFolder], None] = lambda folder: None
    runs_here: bool = False
    templates: Path | None = None
    client: tuple[str, re.Pattern[str]] | None = None

    def submit(self, script: Path) -> str:
        """Submit a script and return the job's id. Raises ClientError with the scheduler's words and what to do."""
        try:
            output = call_client(self.submit_argv(script), SUBMIT_TIMEOUT_S, self.environment(script))
        except ClientTimeoutError:
            raise
        except ClientError as error:
            hint = self.explain(str(error))
            raise ClientError(f"{error}: {hint}" if hint else str(error)) from None
        match = self.id_pattern.search(output)
        if not match:
            raise ClientTimeoutError(
                f"{self.name} accepted the script, but printed no job id; its output was {output.strip()!r}"
            )
        self.remember(JobFolder(script.parent), output)
        return match[1]


def get_scheduler(name: str) -> Scheduler:
    """The scheduler of that name, ours or another package's. Raises RequestError where there is none."""
    scheduler = SCHEDULERS.load(name)
    if not isinstance(scheduler, Scheduler) or scheduler.name != name:
        raise RequestError(f"--scheduler {name}: its entry point must name a vllm_hpc Scheduler called {name!r}")
    return scheduler


def installed_scheduler(name: str) -> Scheduler | None:
    """The scheduler of a job, None if the package that adds it is not installed here."""
    try:
        return get_scheduler(name)
    except RequestError:
        return None


def find_scheduler() -> tuple[str, str]:
    """The scheduler that this machine offers, and why: Slurm where sbatch answers, PBS where qsub is PBS's, else local.

    Only ours are looked for. Raises RequestError where a client hangs: a cluster's login node must not run the job
    itself for that.
    """
    words: list[str] = []
    for name in (name for name, where in SCHEDULERS.built_in.items() if where):
        client = get_scheduler(name).client
        if client is None:
            continue
        command, answer = client
        path = shutil.which(command)
        if path is None:
            words.append(f"{command} was not found")
            continue
        try:
            # Needs the cluster's configuration, not its controller: one whose controller is down still is a cluster.
            version = " ".join(call_client([command, "--version"]).split())
        except ClientTimeoutError as error:
            raise RequestError(f"{error} Try again, or use --scheduler local to run on this machine") from None
        except ClientError:
            words.append(f"{path} has no cluster configuration")
            continue
        if answer.search(version):
            return name, f"{path} answers: {version}"
        words.append(f"{path} does not belong to PBS")
    return "local", ", ".join(words)
