"""Device: what ranks run on."""

from __future__ import annotations

import msgspec

from vllm_hpc.spec.gpus import GIB, Gpu


class Device(msgspec.Struct, frozen=True):
    """Where ranks run. ``gpu`` None is the CPU; ``node_bytes`` then is the memory of a node that its ranks share.

    ``per_node``: how many GPUs a node has, where that was seen.
    """

    gpu: Gpu | None
    origin: str
    node_bytes: int | None = None
    per_node: int | None = None

    def __str__(self) -> str:
        if self.gpu is None:
            return f"the CPU, with {(self.node_bytes or 0) / GIB:.0f} GiB a node ({self.origin})"
        return f"GPU {self.gpu.name} with {self.gpu.memory_gib:.4g} GiB ({self.origin})"
