"""A scheduler is one object: data (argv, id pattern, template) and a few pure functions.

Each of ours has a folder beside this file, and ``spec/registry.py`` names them. Another package adds one through an
entry point in the group "vllm_hpc.schedulers" (docs/extending.md).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import (
    SUBMIT_TIMEOUT_S,
    Ask,
    ClientError,
    ClientTimeoutError,
    as_text,
    call_client,
    plain,
)
from vllm_hpc.spec.errors import FailedError, RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import NodePart
from vllm_hpc.spec.registry import SCHEDULERS

if TYPE_CHECKING:
    from vllm_hpc.schedulers.inventory import Inventory
    from vllm_hpc.spec.resolved_job import ResolvedJob


@dataclass(frozen=True)
class JobState:
    """What a scheduler says of a job, or of one task of an array.

    ``phase``: waiting, running, completed (its script ended with exit code 0), failed, gone (it ended, and only its own
    record can say how), node_failed (a node of it died, and it has ended unless the scheduler queues it again),
    cancelled, timeout, preempted, forgotten (the scheduler answers, but does not know the job) or unknown (it does not
    answer); ``reason`` quotes the scheduler.
    """

    phase: str
    reason: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked about one job: the states of ``tasks``, which are its own id, or ID_0, ID_1 ... of an array."""

    job: JobFolder
    job_id: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Scheduler:
    """How to talk to one scheduler. ``script`` is the file name of the rendered template in the job folder.

    ``id_pattern`` is searched in what the client printed; group 1 of its last match is the job's id. ``id_alone`` is
    what an id looks like by itself: nothing else is handed to a client as one.
    ``query`` gets the job's id and the ids of the tasks to look up (ID_0, ID_1 ... of an array), and returns a state
    for each; it calls clients through the Ask it is given. ``query_all`` does so for several jobs with few calls, and
    returns the states in their order; without it, each job is asked for alone.
    ``environment`` is the environment in which its client submits that script. ``remember`` gets what the client
    printed, and keeps in the folder whatever is needed besides the id. ``explain`` gets a refusal and the refused
    script, and says what to do, or nothing. ``task_name`` is the name of an array's task that users see. ``find_job``
    looks for a folder's job, waiting or running, whose id was lost, and which has none of these ids; without it, what a
    user says of such a job is checked with ``query`` alone.

    ``take_inventory`` asks its clients what the cluster has, for ``profiles init`` and ``profiles check``. It raises
    ClientError, and RequestError where nothing can be made of the answer.

    ``launchers`` can start its ranks; the first one is the default. Before anything is made, ``check_request`` refuses
    what the scheduler cannot be asked for, ``check_folder`` folders that it cannot log into, and ``check_client`` a
    client that belongs to another scheduler. ``node_part`` says what to ask for on each node where neither the user nor
    the profile does, and why; it does not raise.

    Of a refusal, ``is_lasting`` says whether this script will always be refused, and ``refuses_host`` whether all will
    be that this host submits. ``check_host``, called in a job, raises ClientError if its host certainly cannot submit
    another one. ``forgotten_has_ended`` says of a job's id whether a job that the scheduler does not know has ended.

    ``check_reach`` gets the script before it is submitted: it raises ByHandError if that can be done only from another
    machine, and says how. ``read_log`` is what the job has printed, where the scheduler keeps that itself; it is asked
    if the folder has no log. Raises ClientError.

    ``runs_here``: jobs run on this machine, which is their only node. They get its GPUs or its memory, a cluster's
    options have no meaning, and a script's exit record is final.

    ``passes_environment``: a job inherits the environment of the shell that submits it, unless its profile says no.

    ``describe_pods``: its jobs run in pods of the job's image, script and all. Its template has what this returns as
    ``job.pods``; it gets what is asked for in each pod (gpus, cores, memory), and paths outside of the job's folder.

    ``template`` is in the folder ``templates``; None means the packaged ones. ``client`` is the command that "auto"
    calls with --version, and a pattern that its output must contain; a scheduler without one must be named.
    ``cancel_client`` is the command with which an administrator cancels any job, given its id.
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
    explain: Callable[[str, Path], str] = lambda words, script: ""
    query_all: Callable[[Sequence[Question], Ask], list[dict[str, JobState]]] | None = None
    find_job: Callable[[JobFolder, Sequence[str]], str | None] | None = None
    take_inventory: Callable[[Ask], Inventory] | None = None
    task_name: Callable[[str, int], str] = lambda job_id, task: f"{job_id}_{task}"
    launchers: tuple[str, ...] = ("torchrun",)
    check_client: Callable[[], None] = lambda: None
    check_request: Callable[[ResolvedJob, Layout], None] = lambda job, layout: None
    check_folder: Callable[[JobFolder], None] = lambda folder: None
    node_part: Callable[[ResolvedJob, Layout], tuple[NodePart, str]] = lambda job, layout: (NodePart(), "")
    is_lasting: Callable[[ClientError], bool] = lambda error: False
    refuses_host: Callable[[ClientError], bool] = lambda error: False
    check_host: Callable[[JobFolder, str], None] | None = None
    check_reach: Callable[[Path], None] = lambda script: None
    read_log: Callable[[JobFolder, str], str] | None = None
    forgotten_has_ended: Callable[[str], bool] = lambda job_id: False
    runs_here: bool = False
    passes_environment: bool = True
    describe_pods: Callable[[ResolvedJob, Layout, JobFolder, Mapping[str, Any], Sequence[Path]], Any] | None = None
    templates: Path | None = None
    client: tuple[str, re.Pattern[str]] | None = None
    cancel_client: str | None = None
    id_alone: re.Pattern[str] = re.compile(r"\w[\w.:\[\]-]{0,99}", re.ASCII)

    def submit(self, script: Path) -> str:
        """Submit a script and return the job's id. Raises ClientError with the scheduler's message and what to do."""
        self.check_reach(script)
        try:
            from vllm_hpc.schedulers.own_script import own_script

            with own_script(script) as path:
                argv = self.submit_argv(script if self.runs_here else path)
                output = as_text(call_client(argv, SUBMIT_TIMEOUT_S, self.environment(script)))
        except ClientTimeoutError:
            raise
        except ClientError as error:
            hint = self.explain(str(error), script)
            error.args = (f"{error}: {hint}" if hint else str(error),)
            self._check_refused(error)
            raise
        job_id = self.read_id(output)
        if job_id is None:
            raise ClientTimeoutError(
                f"{self.name} accepted the script, but printed no job id; its output was {plain(output)!r}."
            )
        self.remember(JobFolder(script.parent), output)
        return job_id

    def _check_refused(self, error: ClientError) -> None:
        """Raise ClientTimeoutError if the client has printed a job's id although it failed, as a wrapper's hook may."""
        job_id = self.read_id(as_text(error.output))
        if job_id is not None:
            raise ClientTimeoutError(f"its client printed the id {job_id}, and failed: {error}.", job_id) from None

    def is_id(self, text: str) -> bool:
        """Whether a text can be a job's id: records may be damaged, or another user's, and clients take options."""
        return bool(self.id_alone.fullmatch(text))

    def delete(self, job: JobFolder, job_id: str) -> None:
        """Cancel the job of that id. Raises FailedError with the scheduler's message, and for what is no id."""
        if not self.is_id(job_id):
            raise FailedError(f"{job_id[:100]!r} is no job id of {self.name}: see the records in {str(job.path)!r}")
        self.cancel(job, job_id)

    def read_id(self, answer: str) -> str | None:
        """The job's id in what the client printed, None if there is none.

        It is the last word that looks like one: banners come first as a rule, and may have numbers of their own.
        """
        found = list(self.id_pattern.finditer(answer))
        return found[-1][1] if found else None


def get_scheduler(name: str) -> Scheduler:
    """The scheduler of that name, ours or another package's. Raises RequestError if there is none."""
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


def check_scheduler_installed(name: str) -> None:
    """Whether the scheduler of a job that was submitted earlier, or elsewhere, is here. Raises RequestError."""
    if installed_scheduler(name) is None:
        raise RequestError(
            f"the job's scheduler {name!r} is not installed here: install the package that adds it beside vllm-hpc"
        )


def find_scheduler() -> tuple[str, str]:
    """This machine's scheduler, and why: Slurm if sbatch answers, PBS if qsub belongs to PBS, else local.

    Only our own schedulers are tried. Raises RequestError if a client hangs: a cluster's login node must not run the
    job itself just because of that.
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
            # Needs the cluster's configuration, not its controller: with the controller down it is still a cluster.
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
