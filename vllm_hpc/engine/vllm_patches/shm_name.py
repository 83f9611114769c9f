"""Give the CPU back-end's shared memory our own name.

vLLM derives the name from the init method (vllm/v1/worker/cpu_worker.py, VLLM_DIST_IDENT), which under torchrun is the
same for every job on the host: two jobs collide, and a killed one leaves its segment in the way of the next. Nothing
else reads the init method, because torch.distributed is already initialised. It differs between hosts, so vLLM knows
not to share memory with ranks on another host.
"""

from __future__ import annotations

import os
from typing import Any

from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher


def name_shared_memory(ident: str) -> None:
    """Have the names begin with ``ident`` in every engine that this process starts."""

    def distributed_args(self: Any) -> tuple[str, int, int]:
        return f"file:///{ident}", int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])

    ExecutorWithExternalLauncher._distributed_args = distributed_args
