"""Every error that a user of vllm-hpc can see, as one tree.

    VllmHpcError                      base: the message says what is wrong and what to do
    ├── StillRunning       (exit 130)  the wait was interrupted, the job continues
    ├── RefusedError       (exit 2)   refused before anything was made
    │   ├── RequestError              an option or a job definition
    │   ├── InputError                the file of prompts
    │   ├── ModelError                MODEL was not found or is not usable
    │   ├── LayoutError               nodes, GPUs, TP, PP and DP do not match
    │   ├── ProfileError              a profile file
    │   ├── TemplateError             a template file
    │   └── JobNotFoundError          JOB does not name a job folder
    └── FailedError        (exit 1)   failed later
        ├── SubmitError               the scheduler refused, or was not found
        ├── JobFailedError            the job failed
        └── CollectError              the shards are inconsistent

The command line prints ``Error: <message>`` and exits with ``exit_code``; a notebook shows one line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vllm_hpc.spec.secret_shapes import redact

if TYPE_CHECKING:
    from types import TracebackType


class VllmHpcError(Exception):
    """Base of all errors of vllm-hpc. What is wrong is repeated without the secrets in it."""

    exit_code = 1
    # For api/errors.py: where it was raised, and whether a notebook has shown it.
    frames: TracebackType | None = None
    is_shown = False

    def __init__(self, *words: object) -> None:
        super().__init__(*(redact(word) if isinstance(word, str) else word for word in words))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: one line, and for ``%tb`` the traceback."""
        lines: list[str] = import_module("vllm_hpc.api.errors").rendered(self)
        return lines


class RefusedError(VllmHpcError):
    """Refused before anything was made."""

    exit_code = 2


class RequestError(RefusedError):
    """An option, or a value in a job definition, is wrong."""


class InputError(RefusedError):
    """The input file is missing, empty or malformed."""


class ModelError(RefusedError):
    """The model was not found, or cannot be used."""


class LayoutError(RefusedError):
    """Nodes, GPUs per node, TP, PP and DP do not match."""


class ProfileError(RefusedError):
    """A profile file is missing or malformed."""


class TemplateError(RefusedError):
    """A template is missing or does not render."""


class JobNotFoundError(RefusedError):
    """There is no job folder of that name."""


class FailedError(VllmHpcError):
    """Something failed after it was accepted."""


class SubmitError(FailedError):
    """The scheduler refused the job, or was not found."""


class JobFailedError(FailedError):
    """The job ended without doing its work."""


class CollectError(FailedError):
    """The shards of a job are inconsistent."""


class StillRunning(VllmHpcError):  # noqa: N818 - nothing went wrong
    """The wait was interrupted; the job continues."""

    exit_code = 130
