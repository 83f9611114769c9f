"""How large the numbers of options, of job.toml, of profiles and of a job's layout may be, in one table.

They are far above what machines have, and keep typos and hostile files out of the arithmetic.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

# Twice the nodes of the largest machines, and the GPUs (or CPU ranks) of one node: some have 72 in one NVLink domain.
MOST_NODES, MOST_GPUS = 100_000, 1024
# Ranks of a job: the largest machine has 127,488 GPU tiles.
MOST_RANKS = 200_000
# Of a node, in MiB: 1024 TiB. Of a GPU, in GiB.
MOST_MEMORY_MB, MOST_GPU_GIB = 1 << 30, 9999.0
# Seconds: the shortest time in which ranks can exit; the longest that Slurm accepts (man sbatch, --signal).
LEAST_LEAD_S, LONGEST_LEAD_S = 30, 65_535
# Rows of a job, for which status and collect take nine bytes each.
MOST_ROWS = 1_000_000_000

Nodes = Annotated[int, Meta(ge=1, le=MOST_NODES)]
Gpus = Annotated[int, Meta(ge=1, le=MOST_GPUS)]
# Gbit/s of a node's network.
Network = Annotated[int, Meta(ge=1, le=100_000)]
# Of all nodes of a job.
JobGpus = Annotated[int, Meta(ge=1, le=MOST_RANKS)]
# TP, PP and DP.
Parts = Annotated[int, Meta(ge=1, le=100_000)]
Cores = Annotated[int, Meta(ge=1, le=100_000)]
# vLLM's longest contexts are a few million tokens.
Tokens = Annotated[int, Meta(ge=1, le=1_000_000_000)]
RowCount = Annotated[int, Meta(ge=0, le=MOST_ROWS)]
# Of an engine, between two of something.
Steps = Annotated[int, Meta(ge=1, le=1_000_000)]
Requeues = Annotated[int, Meta(ge=0, le=10_000)]
LeadSeconds = Annotated[int, Meta(ge=LEAST_LEAD_S, le=LONGEST_LEAD_S)]
