"""Layout: pure arithmetic on the numbers that were requested, no I/O.

The torchrun world is ``nodes × procs_per_node`` ranks. It is split into ``dp`` replicas of ``attention_dp × tp × pp``
consecutive ranks; inside a replica the TP rank varies fastest, then the PP stage, as in vLLM
(vllm/distributed/parallel_state.py, initialize_model_parallel: ranks are laid out as DP × PP × TP).

A replica with attention in data parallel has ``attention_dp`` lanes: each runs rows of its own, all share the experts.
Without, a replica is one lane.
"""

from __future__ import annotations

import msgspec

from vllm_hpc.spec.bounds import MOST_RANKS, Gpus, Nodes, Parts


class Place(msgspec.Struct, frozen=True):
    """The position of a global rank: its replica, its rank in the replica, and its PP and TP rank.

    ``lane``: which of the job's lanes it runs, counted through all replicas; ``lane_rank``: its rank in that.
    """

    replica: int
    rank: int
    pp: int
    tp: int
    lane: int
    lane_rank: int


class Layout(msgspec.Struct, frozen=True):
    """Nodes, ranks per node, and how they are divided into TP × PP × attention DP × DP.

    In a job array each task is one replica, and every number except ``dp`` is per task.
    """

    nodes: Nodes
    gpus_per_node: Gpus
    procs_per_node: Gpus
    tp: Parts
    pp: Parts
    dp: Parts
    is_array: bool = False
    attention_dp: Parts = 1

    def __post_init__(self) -> None:
        """Raises ValueError for a layout of too many ranks: a job.json may say anything."""
        if self.all_ranks > MOST_RANKS:
            raise ValueError(f"{self.all_ranks} ranks, of at most {MOST_RANKS}")

    @property
    def cut(self) -> str:
        """What its ranks are divided into: "TP 2 × PP 1 × DP 4"."""
        lanes = f" × attention DP {self.attention_dp}" if self.attention_dp > 1 else ""
        return f"TP {self.tp} × PP {self.pp}{lanes} × DP {self.dp}"

    @property
    def unit(self) -> str:
        """What runs rows of its own: a replica, or a lane of one."""
        return "lane" if self.attention_dp > 1 else "replica"

    @property
    def world_size(self) -> int:
        """Ranks in the torchrun world; in a job array, per task."""
        return self.nodes * self.procs_per_node

    @property
    def has_tp_inside_nodes(self) -> bool:
        """Whether no TP group spans nodes."""
        return self.nodes == 1 or self.procs_per_node % self.tp == 0

    @property
    def tasks(self) -> int:
        """Tasks of the job array, each with its own torchrun world; 1 if the job is not an array."""
        return self.dp if self.is_array else 1

    @property
    def all_ranks(self) -> int:
        """Ranks of the whole job: global ranks are numbered across the tasks of an array."""
        return self.world_size * self.tasks

    @property
    def replica_size(self) -> int:
        """Ranks that hold one copy of the model: TP × PP × attention DP."""
        return self.lane_size * self.attention_dp

    @property
    def lane_size(self) -> int:
        """Ranks that run the same rows: TP × PP."""
        return self.tp * self.pp

    @property
    def lanes(self) -> int:
        """Lanes of the whole job, each of which claims, runs and writes rows of its own."""
        return self.dp * self.attention_dp

    def lanes_of(self, task: int) -> range:
        """The lanes of a task of an array, or of the whole job."""
        return range(task * self.attention_dp, (task + 1) * self.attention_dp) if self.is_array else range(self.lanes)

    @property
    def is_even(self) -> bool:
        """Whether a replica has the same number of ranks on each of its nodes."""
        size, procs = self.replica_size, self.procs_per_node
        return max(size, procs) % min(size, procs) == 0

    def place(self, rank: int) -> Place:
        """The position of global ``rank`` (0-based)."""
        replica, inside = divmod(rank, self.replica_size)
        lane, in_lane = divmod(rank, self.lane_size)
        pp, tp = divmod(in_lane, self.tp)
        return Place(replica, inside, pp, tp, lane, in_lane)
