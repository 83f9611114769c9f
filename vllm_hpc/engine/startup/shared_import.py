"""Has a node's ranks share one import of vLLM: when they may, what is imported, and how torchrun's agent gets them.

With eight ranks on a node the import is done once instead of eight times at once, and begins before the nodes meet.
Only ranks that would import vLLM first thing are forked: the user's own code may have to come before.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_hpc.engine.startup import devices, forked_ranks
from vllm_hpc.engine.startup.forked_ranks import ForkedRanks
from vllm_hpc.engine.startup.weights_readahead import ReadAhead
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.environment_variables import SHARED_IMPORT
from vllm_hpc.spec.errors import VllmHpcError

_CHOICES = {"on": True, "off": False}
# What torchrun runs behind its Python: what can be forked.
_RANK = ("-u", "-m", "vllm_hpc.in_job", "rank")


def begin(folder: JobFolder) -> ForkedRanks | None:
    """In torchrun's agent: begin to import vLLM for this node's ranks, and have torchrun take them from there.

    None where the ranks import it themselves.
    """
    record = _record(folder)
    if record is None or not (_is_torchrun() and imports_vllm_first(record) and _is_wanted()):
        return None
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    start_anew = getattr(SubprocessHandler, "_popen", None)
    if start_anew is None:  # another torch: the ranks import vLLM themselves
        return None
    ranks = forked_ranks.start(record.plan.layout.procs_per_node, lambda: _import(record))
    if ranks is None:
        return None

    def popen(self: Any, args: tuple[str, ...], env: dict[str, str]) -> Any:
        if self._stdout or self._stderr or tuple(args[1:5]) != _RANK:  # --redirects, --tee, --numa-binding
            ranks.close()
        return ranks.rank(args, env) or start_anew(self, args, env)

    setattr(SubprocessHandler, "_popen", popen)  # noqa: B010 - mypy knows the method as torch's
    ReadAhead.start_for_node(record)
    return ranks


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
    """What the job asks for; by default, where the node has no GPU, which torch opens while its compilers are imported
    (2.11: docs/performance.md), and each rank would not begin with code of the user's.
    """
    said = environment.get(SHARED_IMPORT, "")
    if said and said not in _CHOICES:
        print(
            f"vllm-hpc: {SHARED_IMPORT} must be on or off, not {said[:80]!r}: ignored",
            file=sys.stderr,
            flush=True,
        )
    return _CHOICES.get(said, not (devices.has_gpus() or _has_start_up_code()))


def _has_start_up_code() -> bool:
    """Whether Python runs a sitecustomize or usercustomize that is not its own: it may do something for each rank."""
    own = sysconfig.get_path("stdlib")
    modules = (sys.modules.get(name) for name in ("sitecustomize", "usercustomize"))
    return any(module is not None and not str(module.__file__).startswith(own) for module in modules)
