"""The script of a job, for whoever runs it: only what the user themselves has written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.spec.ownership import NotMineError, is_mine_alone, read_mine, write_mine


class ForeignScriptError(ClientError):
    """The script is not the user's own, or others can write to it."""


def read_script(script: Path) -> bytes:
    """The script's text. Raises ForeignScriptError, or ClientError if it cannot be read."""
    try:
        return read_mine(script)
    except NotMineError as error:
        raise ForeignScriptError(f"the job's script cannot be used: {error}") from None
    except OSError as error:
        raise ClientError(f"the job's script cannot be used: {error}") from None


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
