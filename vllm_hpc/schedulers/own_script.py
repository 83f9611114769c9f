"""The script of a job, for whoever runs it: only what the user themselves has written, as this job's script."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_hpc.jobfolder.own_folder import OwnJobFolder
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.spec.errors import JobNotFoundError, RequestError
from vllm_hpc.spec.ownership import NotMineError, is_mine_alone, read_mine, write_mine


class ForeignScriptError(ClientError):
    """The script is not the user's own or not the job's, or others can write to it."""


def read_script(script: Path) -> bytes:
    """The script's text. Raises ForeignScriptError, or ClientError if it cannot be read."""
    try:
        content = read_mine(script)
        if not is_mine_alone(script.parent):
            _check_is_the_jobs(script, content)
    except NotMineError as error:
        raise ForeignScriptError(f"the job's script cannot be used: {error}") from None
    except OSError as error:
        raise ClientError(f"the job's script cannot be used: {error}") from None
    return content


def _check_is_the_jobs(script: Path, content: bytes) -> None:
    """Refuse any other file of the user's own: in a project's folder, its group can give one the script's name.

    Nearly every text is something to a shell: it runs what stands in a record between $( and ). Raises
    ForeignScriptError.
    """
    try:
        wanted = OwnJobFolder(script.parent).job().script_sha256
    except (RequestError, JobNotFoundError) as error:
        raise ForeignScriptError(f"the job's script cannot be used: {error}") from None
    if wanted and hashlib.sha256(content).hexdigest() != wanted:
        raise ForeignScriptError(
            f"the job's script cannot be used: {str(script)!r} is not the one that was submitted, and others can put "
            "files into its folder, or one above: restore it, or submit a new job"
        )


@contextmanager
def own_script(script: Path) -> Iterator[Path]:
    """The path to give to a scheduler's client: the script, or a private copy where others can replace it meanwhile.

    In a project's folder any of its group can rename the script after it was looked at and before sbatch reads it.
    """
    content = read_script(script)
    if is_mine_alone(script.parent):
        yield script
        return
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-submit-") as private:
        copy = Path(private) / script.name
        write_mine(copy, content, 0o700)
        yield copy
