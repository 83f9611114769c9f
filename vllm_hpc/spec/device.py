"""Device: what ranks run on."""

from __future__ import annotations

import msgspec

from vllm_hpc.spec.gpus import GIB, Gpu


class Device(msgspec.Struct, frozen=True):
    """What ranks run on. ``gpu`` None means the CPU; its ranks share ``node_bytes``, the memory of a node.

    ``per_node``: GPUs per node, where detected. ``note``: what the name that was given leaves open.
    """

    gpu: Gpu | None
    origin: str
    node_bytes: int | None = None
    per_node: int | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.gpu is None:
            return f"the CPU, with {(self.node_bytes or 0) / GIB:.0f} GiB a node ({self.origin})"
        note = f": {self.note}" if self.note else ""
        return f"GPU {self.gpu.name} with {self.gpu.memory_gib:.4g} GiB ({self.origin}){note}"
