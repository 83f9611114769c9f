"""How torchrun's agents meet: ``torchrun --rdzv-backend vllm-hpc``, found by the entry point group torchrun.handlers.

torchrun's own ways make a store of torch's, which listens on all addresses and asks nobody who they are. Here the
head's agent runs the job's store (engine/store) at the endpoint, and the ranks meet in it, too. Every torchrun of this
Python loads this file, those of other programs as well.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.write_file import make_mark

if TYPE_CHECKING:
    from vllm_hpc.engine.health.agent_watch import AgentWatch
    from vllm_hpc.engine.startup.forked_ranks import ForkedRanks
    from vllm_hpc.engine.store.server import StoreServer
    from vllm_hpc.engine.store.torch_store import TorchStore

BACKEND = "vllm-hpc"
# Seconds: for the other nodes' agents, and until these have heard that all have ended.
_JOIN_S, _LEAVE_S = 600.0, 2.0


def creator() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What makes the handler: the form in which torchrun wants an entry point."""
    return JobRendezvous


class JobRendezvous(RendezvousHandler):
    """One agent's way into the job's store; the configuration's ``rank`` is the number of its node."""

    def __init__(self, params: RendezvousParameters) -> None:
        host, port = parse_rendezvous_endpoint(params.endpoint, -1)
        node = params.get_as_int("rank")
        if port < 1 or node is None:
            raise ValueError(f"--rdzv-backend {BACKEND} needs --rdzv-endpoint HOST:PORT and --rdzv-conf rank=NODE")
        self._host, self._port, self._node = host, port, node
        self._nodes, self._run_id = params.max_nodes, params.run_id
        self._server: StoreServer | None = None
        self._store: TorchStore | None = None
        self._watch: AgentWatch | None = None
        self._ranks = _share_import(node)  # before this process has threads and sockets

    def get_backend(self) -> str:
        """The name on torchrun's command line."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """False: what listens at MASTER_ADDR is no store of torch's. The ranks know the case by this (meeting.py)."""
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other agents. Raises OSError, RequestError, ForeignStoreError."""
        store = self._store = self._store or self._open()
        self._watch = self._watch or _watch(self._node)
        return RendezvousInfo(store, self._node, self._nodes, RendezvousStoreInfo(self._host, self._port))

    def _open(self) -> TorchStore:
        from vllm_hpc.engine.startup import network
        from vllm_hpc.engine.startup.attempt_of_pods import agree_on_attempt
        from vllm_hpc.engine.store.client import JobStore
        from vllm_hpc.engine.store.messages import Address
        from vllm_hpc.engine.store.torch_store import TorchStore
        from vllm_hpc.jobfolder.secret import job_secret

        folder = JobFolder(os.environ["VLLM_HPC_FOLDER"])
        secret = job_secret(folder)
        address = Address(self._host, self._port)
        if self._node == 0:
            self._server = self._serve(secret, network.address_of_head(self._host))
            address = self._server.address
            self._port = address.port
        connect = partial(JobStore, address, secret, _JOIN_S)
        agree_on_attempt(connect, self._node, folder)
        return TorchStore(connect, timedelta(seconds=_JOIN_S))

    def _serve(self, secret: bytes, host: str) -> StoreServer:
        """The job's store. Where no other node has to know the port, any will do if another program has taken it."""
        from vllm_hpc.engine.store.server import StoreServer

        try:
            return StoreServer(secret, host, self._port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or self._nodes > 1:
                raise
            return StoreServer(secret, host)

    def is_closed(self) -> bool:
        """Never: the agents meet once."""
        return False

    def set_closed(self) -> None:
        """Nothing to do: nobody could come later."""

    def num_nodes_waiting(self) -> int:
        """None: all nodes are there from the start."""
        return 0

    def get_run_id(self) -> str:
        """What --rdzv-id says."""
        return self._run_id

    def shutdown(self) -> bool:
        """Leave; the store ends with the head's agent, once the others have left."""
        if self._ranks is not None:
            self._ranks.close()
        if self._watch is not None:
            self._watch.tell_hang()
        if self._store is not None:
            self._store.close()
        # Called while torchrun raises an error if a rank of this node has failed.
        has_failed = sys.exc_info()[0] is not None
        if self._server is not None:
            while not self._server.wait_until_left(_LEAVE_S) and not has_failed and _others_may_run():
                pass
        return True


def _share_import(node: int) -> ForkedRanks | None:
    """Begin to import vLLM for this node's ranks; None outside of a job, and where each imports it itself.

    The script waits for each node to join. Where a site's own launch line does not tell it, the ranks do, which start
    after the import: so the node is marked here.
    """
    from vllm_hpc.engine.startup import shared_import

    path, attempt = os.environ.get("VLLM_HPC_FOLDER"), os.environ.get("VLLM_HPC_ATTEMPT")
    if not path:
        return None
    folder = JobFolder(path)
    if attempt and os.environ.get("VLLM_HPC_WATCHED"):
        with suppress(OSError):  # a full disk is the rank's to report
            make_mark(folder.joined(int(attempt), node))
    return shared_import.begin(folder)


def _watch(node: int) -> AgentWatch | None:
    """What answers for this node's ranks if they cannot; None outside of a job's attempt."""
    from vllm_hpc.engine.health import agent_watch

    return agent_watch.start(os.environ["VLLM_HPC_FOLDER"], node)


def _others_may_run() -> bool:
    """Whether other nodes' ranks may go on for long after this node's have ended: only where the user's code drives."""
    from vllm_hpc.spec.errors import VllmHpcError

    folder = JobFolder(os.environ["VLLM_HPC_FOLDER"])
    try:
        return not folder.job().has_rows and not folder.failed(int(os.environ["VLLM_HPC_ATTEMPT"])).exists()
    except VllmHpcError:  # the folder is gone
        return False
