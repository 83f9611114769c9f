"""What answers a script that asks for its process group: the job's store, at MASTER_ADDR and MASTER_PORT.

``dist.init_process_group()`` makes a store of torch's there, or expects torchrun's. That asks nobody who they are, and
who reaches the port can send ranks elsewhere. The job's own store listens there instead (engine/store), and knows its
ranks by the job's secret. Other addresses, and other stores that a script makes, are left to torch.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from vllm_hpc.engine.programs.late_imports import when_imported
from vllm_hpc.engine.startup.meeting import JOIN_TIMEOUT, Meeting
from vllm_hpc.spec.layout import Place


class ScriptRendezvous:
    """Gives the process groups of a script that this process runs their store, and checks who is in them."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._point = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A script may end its process group and make another: each has keys of its own.
        self._made, self._checked = 0, 0

    def install(self) -> None:
        """Have torch use it, once the script imports torch."""
        when_imported("torch.distributed.rendezvous", self._answer)
        when_imported("torch.distributed.distributed_c10d", self._check_groups)

    def _answer(self, module: Any) -> None:
        make = module._create_c10d_store

        def create(hostname: str, port: int, *arguments: Any, **options: Any) -> Any:
            return self._store() if (hostname, port) == self._point else make(hostname, port, *arguments, **options)

        module._create_c10d_store = create

    def _store(self) -> Any:
        from torch._C._distributed_c10d import PrefixStore

        from vllm_hpc.engine.store.torch_store import TorchStore

        self._made += 1
        return PrefixStore(self._prefix, TorchStore(self._meeting.connect, JOIN_TIMEOUT))

    @property
    def _prefix(self) -> str:
        return f"script/{self._made}/"

    def _check_groups(self, module: Any) -> None:
        make = module.init_process_group

        @functools.wraps(make)
        def init_process_group(*arguments: Any, **options: Any) -> None:
            make(*arguments, **options)
            if self._checked < self._made:
                self._checked = self._made
                self._check(module.get_rank())

        module.init_process_group = init_process_group
        package = sys.modules["torch.distributed"]
        if hasattr(package, "init_process_group"):  # it was imported before
            vars(package)["init_process_group"] = init_process_group

    def _check(self, rank: int) -> None:
        from vllm_hpc.engine.startup import gloo_peers

        gloo_peers.check_all(self._meeting.store.under(self._prefix), Place(0, rank, 0, 0, 0, rank))
