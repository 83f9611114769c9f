"""RankContext on a rank: what a user's program gets as ``ctx`` (spec/rank_context.py says what each name means)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.programs.artefacts import make_artefacts
from vllm_hpc.engine.programs.barrier import Barrier
from vllm_hpc.engine.programs.model import find_layers, find_model, shards_of
from vllm_hpc.engine.programs.reduce import Reduction
from vllm_hpc.engine.programs.started import Started
from vllm_hpc.engine.rank_part import RankPart
from vllm_hpc.engine.rows.checks import in_vllm_names
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.spec.rank_context import Operation, ParameterShard

# Rows that are read at once.
_ROWS = 256


class Context:
    """One rank of a replica, with its engine; implements RankContext."""

    def __init__(self, part: RankPart, started: Started) -> None:
        standing, place, layout = part.standing, part.place, part.record.plan.layout
        self._part, self._llm = part, started.llm
        self.rank, self.world_size = place.rank, layout.replica_size
        self.global_rank, self.local_rank = standing.global_rank, standing.local_rank
        self.replica, self.replicas = place.replica, layout.dp
        self.attempt, self.host = standing.attempt, node_name()
        self.is_leader = place.rank == 0
        self.device = "cpu" if started.llm is None else started.replica.device
        self.cpu_group, self.device_group = _groups(started.llm)
        self.artefacts: Path = make_artefacts(part.job, standing.global_rank)
        self.sampling: dict[str, Any] = in_vllm_names(part.record.sampling)
        lockstep = started.replica.lockstep()
        self._reduction = Reduction(lockstep, self.cpu_group, self.device_group, self.world_size)
        first = standing.rank - place.rank
        ranks = range(first, first + self.world_size)
        self._barrier = Barrier(started.world.store, place.replica, place.rank, ranks)

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.world_size}, replica {self.replica} of {self.replicas}, on {self.host}>"

    @property
    def llm(self) -> Any:
        """The rank's vllm.LLM."""
        return self._llm

    @cached_property
    def model(self) -> Any:
        """This rank's shard of the model."""
        return None if self._llm is None else find_model(self._llm)

    @property
    def layers(self) -> list[Any]:
        """The decoder layers that this rank holds."""
        if self._llm is None:
            return []
        config = self._llm.llm_engine.model_config.hf_text_config
        return find_layers(self.model, getattr(config, "num_hidden_layers", None))

    def parameters(self) -> Iterator[ParameterShard]:
        """The parameters on this rank."""
        return iter(()) if self._llm is None else shards_of(self.model, self._part.place.tp)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The job's input rows."""
        count = self._part.record.rows
        if not count:  # of a program that drives the engine, and was given no input
            return
        reader = InputReader(self._part.job)
        for first in range(0, count, _ROWS):
            yield from map(dict, reader.rows(first, _ROWS))

    def all_reduce(self, value: Any, op: Operation = "sum") -> Any:
        """The value reduced over the replica's ranks."""
        return self._reduction.reduce(value, op)

    def barrier(self, timeout: float = 300.0) -> None:
        """Wait for all ranks of the replica."""
        self._barrier.wait(timeout)

    def log(self, *words: object) -> None:
        """Print into the rank's log."""
        said = " ".join(map(str, words)).encode("utf-8", "backslashreplace").decode()  # a log takes any text
        print(f"[rank {self.rank}/{self.world_size} {self.host}] {said}", flush=True)


def _groups(llm: Any) -> tuple[Any, Any]:
    """The replica's groups for CPU tensors and for the device's: vLLM's own, over which it runs nothing itself."""
    if llm is None:
        import torch.distributed as dist

        return dist.group.WORLD, dist.group.WORLD
    from vllm.distributed.parallel_state import get_world_group

    return get_world_group().cpu_group, get_world_group().device_group
