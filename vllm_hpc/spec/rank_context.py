"""RankContext: what a rank program gets as ``ctx``. A protocol for annotations, which needs neither torch nor vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

Operation = Literal["sum", "mean", "min", "max"]


class ParameterShard(NamedTuple):
    """A parameter of the model on one rank, and which part of the whole it is.

    ``dim``: the dimension that is divided among the ranks; None if this rank has all of it. ``parts``: the ranges of
    the whole dimension that are here, in their order here: several if vLLM keeps matrices as one, such as those of
    queries, keys and values. ``whole``: the size of that dimension without the division. A parameter without elements
    has its weights elsewhere, in the form of a kernel, as vLLM's CPU back-end keeps them.
    """

    name: str
    parameter: Any
    dim: int | None = None
    parts: tuple[tuple[int, int], ...] = ()
    whole: int = 0

    def __str__(self) -> str:
        shape = "x".join(map(str, self.parameter.shape))
        if self.dim is None:
            return f"{self.name}: {shape}, whole"
        parts = ", ".join(f"{begin}:{end}" for begin, end in self.parts)
        return f"{self.name}: {shape}, {parts} of {self.whole} in dimension {self.dim}"


class RankContext(Protocol):
    """One rank of a replica, with its engine. ``engine/programs/context.py`` implements it."""

    @property
    def rank(self) -> int:
        """The rank in this replica, from 0: torch.distributed's."""

    @property
    def world_size(self) -> int:
        """The ranks of this replica: TP × PP."""

    @property
    def global_rank(self) -> int:
        """The rank in the job, as in ranks/rank-<r>.json."""

    @property
    def local_rank(self) -> int:
        """The rank on its node."""

    @property
    def replica(self) -> int:
        """The number of this replica, from 0."""

    @property
    def replicas(self) -> int:
        """How many replicas the job has (DP)."""

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""

    @property
    def host(self) -> str:
        """The node's name."""

    @property
    def is_leader(self) -> bool:
        """Whether this is the replica's first rank, which writes rows."""

    @property
    def llm(self) -> Any:
        """The rank's vllm.LLM; None in a rehearsal, as is ``model``."""

    @property
    def model(self) -> Any:
        """This rank's shard of the model, a torch.nn.Module: ``named_modules()``, ``named_parameters()``."""

    @property
    def layers(self) -> list[Any]:
        """The decoder layers that this rank holds, whatever the model's class calls them."""

    def parameters(self) -> Iterator[ParameterShard]:
        """The parameters of the model on this rank, each with the part of the whole that it is."""

    @property
    def cpu_group(self) -> Any:
        """The replica's process group for CPU tensors (gloo)."""

    @property
    def device_group(self) -> Any:
        """The replica's process group for tensors on the device (NCCL on GPUs, gloo on the CPU)."""

    @property
    def device(self) -> str:
        """The torch device of this rank: "cuda:0", "cpu"."""

    @property
    def sampling(self) -> dict[str, Any]:
        """What the job's options say of sampling, for ``vllm.SamplingParams(**ctx.sampling)``."""

    @property
    def artefacts(self) -> Path:
        """The rank's own folder in the job folder, artefacts/rank-<global_rank>."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The job's input rows, in order, each a dict with "index" and "id"."""

    def all_reduce(self, value: Any, op: Operation = "sum") -> Any:
        """The value reduced over the replica's ranks: numbers, lists, tuples and dicts of them, or a tensor.

        Tensors keep their dtype, and are reduced where they are: on the CPU or on the device. All ranks call this, with
        values of the same form. Raises TypeError, ValueError, OverflowError.
        """

    def barrier(self, timeout: float = 300.0) -> None:
        """Wait for all ranks of the replica, ``timeout`` seconds.

        Raises TimeoutError, which names the ranks that did not come in time, and their nodes.
        """

    def log(self, *words: object) -> None:
        """Print into the rank's log, logs/rank-<r>.log, with the rank before it."""
