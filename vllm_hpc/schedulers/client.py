"""Call a scheduler's client (sbatch, squeue, qsub, qstat ...) and tell a refusal from a lost answer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from vllm_hpc.schedulers.capture import MOST_BYTES, PrintsTooMuchError, capture
from vllm_hpc.spec.errors import SubmitError

# Seconds that a scheduler's client may take. A busy controller answers in seconds; a dead one lets clients hang.
SUBMIT_TIMEOUT_S = 60
QUERY_TIMEOUT_S = 15
# Seconds after its begin at which a submission has ended in any case: its client's limit, and as long for the rest.
SUBMIT_MAY_TAKE_S = 2 * SUBMIT_TIMEOUT_S
# What an enclosing job sets for its own steps. The new job would take it for its own (sbatch exports everything).
_OF_AN_OUTER_JOB = re.compile(
    r"(SLURM|SLURMD|SRUN|PMI|PMIX|OMPI|TORCHELASTIC|SUBMITIT|VLLM_HPC)_|PBS_(?!CONF|EXEC|SERVER|DEFAULT)"
    r"|(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_.*|MASTER_ADDR|MASTER_PORT)$"
    r"|(CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL)$"
    r"|TMPDIR$"  # made for the enclosing job on its node, and removed when it ends
)
# Slurm's messages for a lost answer (src/common/slurm_errno.c): the controller may have acted. They do not include
# "(connect failure)", where nothing reached it.
_ANSWER_LOST = re.compile(
    r"timed out on send/recv|zero bytes were transmitted|unexpected message received|message (send|receive) failure"
    r"|communication shutdown|controller \((send|receive|shutdown) failure|header lengths are longer|insane message"
    r"|connection (reset|timed out)|broken pipe"
    # PBS (src/lib/Libifl): the server went away after it got the script and before it sent the id.
    r"|end of file|premature end of message|protocol .*(error|failure)"
    # kubectl (Go's net/http, and the API server's own limits): the request was sent, and no answer came.
    r"|\": (unexpected )?EOF$|serializer for \S+ doesn't exist|awaiting headers|client connection lost|goaway"
    r"|\bread tcp\b.*timeout|etcdserver: request timed out|from server \(Timeout\)|did not complete within",
    re.IGNORECASE,
)
# Nothing reached the other side, whatever else the message says.
_NEVER_REACHED = re.compile(r"cannot connect|\bdial tcp\b|TLS handshake timeout", re.IGNORECASE)
# kubectl's own log, which says five times before its message what that says.
_LOG_OF_KUBECTL = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ .*\n", re.MULTILINE)
_LONGEST_WORDS = 1000
# Colours and the like (ECMA-48, 5.4), which a site's wrapper may print although nobody looks.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# Users' defaults for squeue that hide jobs (man squeue, ENVIRONMENT VARIABLES).
_FILTERS = re.compile(r"SQUEUE_(ACCOUNT|LICENSES|NAMES|PARTITION|QOS|STATES|USERS)$")
_OF_THE_SITE = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "VLLM_HPC_PROFILE"})
# Calls a scheduler's client and returns what it printed, as call_client does. Raises ClientError.
Ask = Callable[[list[str]], str]


class Answer(str):
    """What a client printed. ``err`` is what it said on stderr: some say there why they printed nothing, and exit 0."""

    err: str = ""


def said_beside(answer: str) -> str:
    """What a client said on stderr beside its answer; empty if that is not known."""
    return answer.err if isinstance(answer, Answer) else ""


class ClientError(SubmitError):
    """A scheduler's client refused, is missing, or did not answer; the message quotes it.

    ``code`` is its exit code, None if it had none; ``output`` and ``err`` are all that it printed.
    """

    code: int | None = None
    output: str = ""
    err: str = ""


class ClientMissingError(ClientError):
    """The client is not installed on this machine."""


class ClientTimeoutError(ClientError):
    """A client did not answer, or lost its controller's answer: the request may have been carried out.

    ``job_id``: under which id, if it is known.
    """

    def __init__(self, words: str, job_id: str | None = None) -> None:
        super().__init__(words)
        self.job_id = job_id


class ByHandError(ClientTimeoutError):
    """Nobody can be asked from this machine: the user submits the script from another one, and perhaps has done so.

    ``why``: what is missing here; ``how`` the user does that.
    """

    def __init__(self, why: str, how: str) -> None:
        super().__init__(f"not submitted, for {why}: {how}")
        self.why = why


def call_client(argv: list[str], timeout: float | None = None, environment: dict[str, str] | None = None) -> Answer:
    """Run a scheduler's client and return what it printed. Raises ClientError with the client's own message.

    Default ``environment``: this process's, without what an enclosing job set. Default ``timeout``: that of a query.
    """
    name = Path(argv[0]).name
    timeout = timeout or QUERY_TIMEOUT_S
    try:
        done = capture(argv, timeout, clean_environment() if environment is None else environment)
    except FileNotFoundError:
        raise ClientMissingError(
            f"{name} was not found: run this on a login node of the cluster, or use --scheduler local"
        ) from None
    except OSError as error:
        raise ClientMissingError(f"{name} cannot be run ({error.strerror}): 'type {name}' shows the file") from None
    except subprocess.TimeoutExpired:
        raise ClientTimeoutError(f"{name} did not answer within {timeout:.0f} s: is the controller up?") from None
    except PrintsTooMuchError:  # killed, so that what it was asked for may have been done
        raise ClientTimeoutError(
            f"{name} printed more than {MOST_BYTES >> 20} MiB, and was stopped: try it by hand"
        ) from None
    if done.code:
        said = plain(_LOG_OF_KUBECTL.sub("", done.err) or done.err or done.out)
        words = (
            re.sub(r"(?<=\S) usage: .*|; if you choose to ignore these errors, turn .*", "", said)
            or f"exit code {done.code}"
        )
        is_lost = bool(_ANSWER_LOST.search(words)) and not _NEVER_REACHED.search(words)
        if done.code < 0 or is_lost:
            raise ClientTimeoutError(f"{name} got no answer from its controller: {words}: is it overloaded?")
        refused = ClientError(f"{name} refused: {re.sub(rf'^error: |{re.escape(name)}: (error: )?', '', words)}")
        refused.code, refused.output, refused.err = done.code, done.out, done.err
        raise refused
    answer = Answer(done.out)
    answer.err = done.err
    return answer


def as_text(output: str) -> str:
    """A client's output without terminal escapes, and with line ends as in Unix."""
    return _ESCAPES.sub("", output).replace("\r\n", "\n").replace("\r", "\n")


def plain(text: str) -> str:
    """A client's message on one line, of a readable length and without control characters.

    Of a longer one the end is kept: there the client says why, after what a site's plugins and banners have to say.
    """
    words = " ".join("".join(c if c.isprintable() else " " for c in as_text(text)).split())
    if len(words) <= _LONGEST_WORDS:
        return words
    return f"{words[: _LONGEST_WORDS // 2]} ... {words[-_LONGEST_WORDS // 2 :]}"


def clean_environment() -> dict[str, str]:
    """This process's environment without what an enclosing job set for its own steps, and without filters of squeue."""
    environment = {key: value for key, value in os.environ.items() if not _FILTERS.match(key)}
    if "SLURM_JOB_ID" not in os.environ and "PBS_JOBID" not in os.environ:
        return environment
    return {key: value for key, value in environment.items() if key in _OF_THE_SITE or not _OF_AN_OUTER_JOB.match(key)}
