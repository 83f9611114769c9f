"""Slurm's launchers: srun, which starts torchrun on each node, or every rank itself."""

from __future__ import annotations

import shlex

from vllm_hpc.schedulers.launchers import Launcher
from vllm_hpc.schedulers.script_context import ScriptContext


def srun_words(job: ScriptContext) -> tuple[str, ...]:
    """srun's line for the job.

    srun does not take --cpus-per-task from sbatch (since Slurm 22.05). Tasks are dealt out block by block, whatever
    SLURM_DISTRIBUTION says: rank = node x ranks a node + local rank. --export=ALL hands on what the script exported,
    also where the site's or the job's default is to export nothing.
    """
    cores = [f"--cpus-per-task={job.cpus_per_task}"] if job.cpus_per_task else []
    binding = [f"--cpu-bind={shlex.quote(job.cpu_bind)}"] if job.cpu_bind else []
    return (
        "srun", f"--nodes={job.nodes}", f"--ntasks={job.nodes * job.tasks_per_node}",
        f"--ntasks-per-node={job.tasks_per_node}", *cores,
        "--kill-on-bad-exit=1", *binding, "--distribution=block", "--export=ALL",
        *(job.container_words if job.runs_task_in_image else ()), *map(shlex.quote, job.srun_options),
    )  # fmt: skip


TORCHRUN = Launcher(
    name="torchrun", schedulers=("slurm", "local", "kubernetes"), program="srun", words=srun_words, node="$SLURM_NODEID"
)
SRUN = Launcher(
    name="srun", schedulers=("slurm",), program="srun", words=srun_words, node="$SLURM_NODEID", is_task_per_rank=True
)
