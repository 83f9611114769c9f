"""Has a node's ranks share one import of vLLM: when they may, what is imported, and how torchrun's agent gets them.

With eight ranks on a node the import is done once in place of eight times beside each other, and begins while the nodes
still meet. Only ranks that would import vLLM first thing are forked: the user's own code may have to come before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_hpc.engine.startup import devices, fork_server
from vllm_hpc.engine.startup.fork_server import ForkServer
from vllm_hpc.engine.startup.weights_readahead import ReadAhead
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.environment_variables import SHARED_IMPORT
from vllm_hpc.spec.errors import VllmHpcError

_CHOICES = {"on": True, "off": False}


def begin(folder: JobFolder) -> ForkServer | None:
    """In torchrun's agent: fork what imports vLLM for this node's ranks, and have torchrun take them from there.

    None where the ranks import it themselves.
    """
    record = _record(folder)
    if record is None or not (_is_torchrun() and imports_vllm_first(record) and _is_wanted()):
        return None
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    start_anew = getattr(SubprocessHandler, "_popen", None)
    if start_anew is None:  # another torch: the ranks import vLLM themselves
        return None
    ranks = record.plan.layout.procs_per_node
    server = fork_server.start(ranks, lambda: _import(record))
    if server is None:
        return None

    def popen(self: Any, args: tuple[str, ...], env: dict[str, str]) -> Any:
        rank = None if self._stdout or self._stderr else server.rank(args, env)
        return rank or start_anew(self, args, env)

    setattr(SubprocessHandler, "_popen", popen)  # noqa: B010 - as it is torch's, of which mypy knows
    for rank in range(ranks):
        ReadAhead.start(record, rank, tells=False)
    return server


def imports_vllm_first(record: JobRecord) -> bool:
    """Whether each rank of the job begins with the import: not a rehearsal's, native ranks, or code of the user's."""
    program = record.program
    has_user_code = program is not None and (program.is_script or program.drives_engine)
    return not (record.request.rehearse or record.plan.is_native or has_user_code)


def import_vllm() -> None:
    """Import what every rank with vLLM's engine uses; ``import vllm`` alone is lazy."""
    import torch  # noqa: F401
    import vllm  # noqa: F401

    from vllm_hpc.engine.rows import prompts  # noqa: F401
    from vllm_hpc.engine.startup import make_engine  # noqa: F401


def _import(record: JobRecord) -> None:
    """What a rank does before and in its import, but for what is its own: each does that again."""
    from vllm_hpc.engine.startup.bytecode import Bytecode
    from vllm_hpc.engine.vllm_engine import prepare_environment

    prepare_environment(record)
    Bytecode(publishes=False).restore()
    import_vllm()


def _record(folder: JobFolder) -> JobRecord | None:
    with suppress(VllmHpcError, OSError):  # the ranks say it better
        return folder.job()
    return None


def _is_torchrun() -> bool:
    """Whether this process is torchrun, and no other program that uses its agent."""
    program = Path(sys.argv[0])
    return program.name == "torchrun" or program.parts[-3:] == ("torch", "distributed", "run.py")


def _is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """What the job asks for; by default, where a node has no GPU: with GPUs it has not been measured yet."""
    said = environment.get(SHARED_IMPORT, "")
    if said and said not in _CHOICES:
        print(f"vllm-hpc: {SHARED_IMPORT} must be on or off, not {said[:80]!r}: it is left out", file=sys.stderr, flush=True)
    return _CHOICES.get(said, not devices.has_gpus())
