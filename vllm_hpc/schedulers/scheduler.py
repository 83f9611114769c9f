"""A scheduler is data (argv, id pattern, template) and a few pure functions; each lives in a module of its own.

To add one: a module here with a ``SCHEDULER`` in it, its name in ``SchedulerName`` (spec/request.py), and a template in
templates/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError, SubmitError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.request import Request

# Seconds a scheduler's client may take. A busy controller answers in seconds; a dead one lets clients hang.
SUBMIT_TIMEOUT_S = 60
QUERY_TIMEOUT_S = 15
# What an enclosing job sets for its own steps. Handed on, it would be taken for the new job's (sbatch exports all).
_OF_AN_OUTER_JOB = re.compile(
    r"(SLURM|SLURMD|SRUN|PMI|PMIX|OMPI|TORCHELASTIC|SUBMITIT|VLLM_HPC)_|PBS_(?!CONF|EXEC|SERVER|DEFAULT)"
    r"|(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_.*|MASTER_ADDR|MASTER_PORT)$"
    r"|(CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)$"
    r"|TMPDIR$"  # made for that job, on its node, and removed at its end
)
# Slurm's words for an answer that was lost on its way (src/common/slurm_errno.c): the controller may have acted. Not
# among them: "(connect failure)", where nothing ever reached it.
_ANSWER_LOST = re.compile(
    r"timed out on send/recv|zero bytes were transmitted|unexpected message received|message (send|receive) failure"
    r"|communication shutdown|controller \((send|receive|shutdown) failure|header lengths are longer|insane message"
    r"|connection (reset|timed out)|broken pipe"
    # PBS's (src/lib/Libifl): the server went away between the script and the id.
    r"|end of file|premature end of message|protocol .*(error|failure)",
    re.IGNORECASE,
)
# Nothing ever reached the other side, whatever else is said of it.
_NEVER_REACHED = re.compile("cannot connect", re.IGNORECASE)
# Whom to ask, in this order, and what its --version says. Slurm comes with a qsub of its own, which is none of PBS's.
_CLIENTS = (("slurm", "sbatch", re.compile("")), ("pbs", "qsub", re.compile("pbs_version")))
_LONGEST_WORDS = 1000
_OF_THE_SITE = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "VLLM_HPC_PROFILE"})


class ClientError(SubmitError):
    """A scheduler's client refused, is not there, or did not answer; the message has its words.

    ``code`` is its exit code, None where it had none.
    """

    code: int | None = None


class ClientMissingError(ClientError):
    """The client is not installed here."""


class ClientTimeoutError(ClientError):
    """A client gave no answer, or lost its controller's: what it was asked to do may have been done."""


@dataclass(frozen=True)
class Sighting:
    """What a scheduler says of a job, or of one task of an array.

    ``phase``: waiting, running, completed (its script ended with exit code 0), failed, gone (it ended, and only its own
    record can say how), cancelled, timeout, preempted, forgotten (the scheduler answers, and does not know it) or
    unknown (it does not answer); ``reason`` in its own words.
    """

    phase: str
    reason: str = ""


# Calls a scheduler's client and returns what it printed. Raises ClientError.
Ask = Callable[[list[str]], str]


@dataclass(frozen=True)
class Scheduler:
    """How to talk to one scheduler. ``script`` is the name that the rendered template has in the job folder.

    ``look`` gets the job's id and those of the tasks to look for, ID_0, ID_1 ... of an array, and answers by
    them; it calls clients through the Ask it is given.
    ``environment`` is what its client is handed to submit that script; ``remember`` gets what that printed, and keeps
    in the folder what else than the id will be needed. ``task_name`` is what people see of an array's task.

    ``launchers`` start its ranks, the first one where none is named. What it cannot be asked for, and folders that it
    cannot log into, are refused by ``check_request`` and ``check_folder`` before anything is made, as is, by
    ``check_client``, a client that is another scheduler's.
    """

    name: str
    template: str
    script: str
    id_pattern: re.Pattern[str]
    submit_argv: Callable[[Path], list[str]]
    cancel: Callable[[JobFolder, str], None]
    look: Callable[[JobFolder, str, Sequence[str], Ask], dict[str, Sighting]]
    environment: Callable[[Path], dict[str, str]]
    remember: Callable[[JobFolder, str], None] = lambda job, output: None
    explain: Callable[[str], str] = lambda words: ""
    task_name: Callable[[str, int], str] = lambda job_id, task: f"{job_id}_{task}"
    launchers: tuple[str, ...] = ("torchrun",)
    check_client: Callable[[], None] = lambda: None
    check_request: Callable[[Request, Profile, Layout], None] = lambda request, profile, layout: None
    check_folder: Callable[[JobFolder], None] = lambda folder: None

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
            raise ClientTimeoutError(f"{self.name} took the script but named no job id; it said: {output.strip()!r}")
        self.remember(JobFolder(script.parent), output)
        return match[1]


def get_scheduler(name: str) -> Scheduler:
    """The scheduler of that name."""
    scheduler: Scheduler = import_module(f"vllm_hpc.schedulers.{name}").SCHEDULER
    return scheduler


def find_scheduler() -> tuple[str, str]:
    """The scheduler that this machine offers, and why: Slurm where sbatch answers, PBS where qsub is PBS's, else local.

    Raises RequestError where a client hangs: a cluster's login node must not run the job itself for that.
    """
    words: list[str] = []
    for name, client, is_its_own in _CLIENTS:
        path = shutil.which(client)
        if path is None:
            words.append(f"no {client} here")
            continue
        try:
            # Needs the cluster's configuration, not its controller: one whose controller is down still is a cluster.
            version = " ".join(call_client([client, "--version"]).split())
        except ClientTimeoutError as error:
            raise RequestError(f"{error} Try again, or use --scheduler local to run on this machine") from None
        except ClientError:
            words.append(f"{path} has no cluster's configuration")
            continue
        if is_its_own.search(version):
            return name, f"{path} answers: {version}"
        words.append(f"{path} is not PBS's")
    return "local", ", ".join(words)


def call_client(argv: list[str], timeout: float | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a scheduler's client and return what it printed. Raises ClientError with the client's own words.

    Without an ``environment``, it gets this process's, cleaned of what an enclosing job set; without a ``timeout``,
    that of a question.
    """
    name = Path(argv[0]).name
    timeout = timeout or QUERY_TIMEOUT_S
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=clean_environment() if environment is None else environment,
        )
    except FileNotFoundError:
        raise ClientMissingError(
            f"{name} is not here: go to a login node of the cluster, or use --scheduler local"
        ) from None
    except OSError as error:
        raise ClientMissingError(f"{name} cannot be run here ({error.strerror}): see 'type {name}'") from None
    except subprocess.TimeoutExpired:
        raise ClientTimeoutError(f"{name} did not answer within {timeout:.0f} s: is the controller up?") from None
    if done.returncode:
        said = plain(done.stderr or done.stdout)
        words = re.sub(r"(?<=\S) usage: .*", "", said) or f"exit code {done.returncode}"
        is_lost = bool(_ANSWER_LOST.search(words)) and not _NEVER_REACHED.search(words)
        if done.returncode < 0 or is_lost:
            raise ClientTimeoutError(f"{name} got no answer from its controller: {words}: is it overloaded?")
        refused = ClientError(f"{name} refused: {re.sub(rf'{re.escape(name)}: (error: )?', '', words)}")
        refused.code = done.returncode
        raise refused
    return done.stdout


def plain(text: str) -> str:
    """A client's words on one line, of a length that can be read, and nothing in them that a terminal would obey."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= _LONGEST_WORDS else f"{words[:_LONGEST_WORDS]} ..."


def clean_environment() -> dict[str, str]:
    """This process's environment without what an enclosing job set for its own steps."""
    if "SLURM_JOB_ID" not in os.environ and "PBS_JOBID" not in os.environ:
        return dict(os.environ)
    return {key: value for key, value in os.environ.items() if key in _OF_THE_SITE or not _OF_AN_OUTER_JOB.match(key)}
