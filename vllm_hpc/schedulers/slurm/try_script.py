"""Have sbatch say whether it would take a script, with --test-only: nothing is submitted."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from vllm_hpc.schedulers.client import ClientError, ClientMissingError, ClientTimeoutError, call_client
from vllm_hpc.schedulers.slurm.environment import submit_environment
from vllm_hpc.schedulers.slurm.refusals import explain
from vllm_hpc.spec.ownership import write_mine


class Refusal(msgspec.Struct, frozen=True):
    """Why sbatch would refuse a script, and what to do about it, if that is known."""

    words: str
    advice: str = ""


def try_script(script: str) -> Refusal | None:
    """Why sbatch would refuse it; None if it would not.

    Raises ClientMissingError where there is no sbatch, ClientTimeoutError where it does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-") as folder:
        path = Path(folder) / "script.sbatch"
        write_mine(path, script.encode(), 0o700)
        try:
            call_client(["sbatch", "--test-only", str(path)], environment=submit_environment(path))
        except (ClientMissingError, ClientTimeoutError):
            raise
        except ClientError as error:
            words = str(error).removeprefix("sbatch refused: ").replace(f"{folder}/", "")
            return Refusal(words, explain(words, path))
    return None
