"""Which attempt this is, where only the head's script knows it: the pods of Kubernetes are started one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vllm_hpc.engine.store.client import ForeignStoreError, JobStore
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.write_file import make_mark, replacing

T = TypeVar("T")
ATTEMPT = "VLLM_HPC_ATTEMPT"
# A file of the pod, for its script.
_POD_FILE = "VLLM_HPC_POD_FILE"
_KEY, _AGAIN_S, _LIMIT_S = "pods/", 0.5, 600.0


def agree_on_attempt(connect: Callable[[], JobStore], node: int, folder: JobFolder, limit_s: float = _LIMIT_S) -> None:
    """Tell the other nodes the attempt, as the head; or learn it, and mark this node as joined.

    On a node whose script knows it there is nothing to do. The ranks inherit the variable. Raises OSError.
    """
    if node == 0:
        attempt = os.environ.get(ATTEMPT, "")
        _told(connect, lambda store: store.set(f"{_KEY}attempt", attempt))
    elif ATTEMPT not in os.environ:
        attempt = _join(connect, node, limit_s)
        os.environ[ATTEMPT] = attempt
        make_mark(folder.joined(int(attempt), node))
        print(f"vllm-hpc: {os.uname().nodename} joined attempt {attempt} as node {node}", flush=True)
        if file := os.environ.get(_POD_FILE):
            with replacing(Path(file), 0o600) as out:
                out.write(attempt.encode())


def _join(connect: Callable[[], JobStore], node: int, limit_s: float) -> str:
    """The number of an attempt of which this node is not yet part.

    A pod that is started anew may still find the attempt in which it has failed. The next one has another store.
    """
    until = time.monotonic() + limit_s
    while True:
        try:
            found = _told(connect, lambda store: (store.add(f"{_KEY}{node}", 1), store.get(f"{_KEY}attempt")))
            if found[0] == 1:
                return found[1]
        except ForeignStoreError:
            raise
        except OSError:
            if time.monotonic() > until:
                raise
        if time.monotonic() > until:
            raise OSError("the head has begun no other attempt since this node left the last one")
        time.sleep(_AGAIN_S)


def _told(connect: Callable[[], JobStore], ask: Callable[[JobStore], T]) -> T:
    store = connect()
    try:
        return ask(store)
    finally:
        store.close()
