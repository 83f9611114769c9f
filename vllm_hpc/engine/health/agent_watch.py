"""A thread in torchrun's agent: it answers 'vllm-hpc debug' for the ranks of its node that cannot, and tells of a hang.

All ranks of a node may be stopped at once, or wait for the same disk; the agent has nothing to do but to wait for them.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

from vllm_hpc.engine.health.inquiry import Listener
from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.jobfolder.debug_records import DebugFiles
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import VllmHpcError

# Seconds between two looks at the folder, which all nodes of all jobs share; the first follows on a question.
_PAUSE_S, _SOON_S = 5.0, 1.0


class AgentWatch:
    """The thread of one agent, for one attempt."""

    def __init__(self, job: JobFolder, attempt: int, here: range) -> None:
        self._files, self._attempt = DebugFiles(job), attempt
        self._listener = Listener(job, attempt, here, None)
        self._pause_s = min(_PAUSE_S, max(_SOON_S, _stall_s() / 4))
        self._end = threading.Event()
        threading.Thread(target=self._listen, name="vllm-hpc-agent-watch", daemon=True).start()

    def tell_hang(self) -> None:
        """Stop, and print into the scheduler's log what the ranks of this node have found, if they ended for a hang."""
        self._end.set()
        hang = self._files.read_hang(self._attempt)
        if hang and any(view.rank == hang.found_by and view.host == node_name() for view in hang.views):
            text = "".join(f"vllm-hpc: {line}\n" for line in hang.lines)
            print(text, end="", file=sys.stderr, flush=True)

    def _listen(self) -> None:
        while not self._end.wait(_SOON_S if self._listener.is_waiting else self._pause_s):
            self._listener.listen()


def start(folder: str, node: int) -> AgentWatch | None:
    """Begin to listen; None if this is no attempt of a job, or its record cannot be read: the ranks say that better."""
    job, attempt = JobFolder(folder), os.environ.get("VLLM_HPC_ATTEMPT", "")
    task = os.environ.get("VLLM_HPC_TASK", "0")
    if not attempt.isdecimal() or not task.isdecimal():
        return None
    with suppress(VllmHpcError, OSError):
        layout = job.job().plan.layout
        first = int(task) * layout.world_size + node * layout.procs_per_node
        return AgentWatch(job, int(attempt), range(first, first + layout.procs_per_node))
    return None


def _stall_s() -> float:
    with suppress(ValueError):
        return float(os.environ.get("VLLM_HPC_STALL_S", ""))
    return float("inf")
