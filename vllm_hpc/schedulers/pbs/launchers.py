"""PBS's launchers: its own two, called once for each node, and MPIs, called once. All start torchrun on each node."""

from __future__ import annotations

import shlex

from vllm_hpc.schedulers.launchers import Launcher
from vllm_hpc.schedulers.script_context import ScriptContext

# How a task of an MPI knows its node: by MPICH's, Cray PALS's or Open MPI's number, of one task a node.
_NUMBERED = "${PMI_RANK:-${PALS_RANKID:-${OMPI_COMM_WORLD_RANK:?no MPI has numbered this task}}}"
_HOSTS = '"$(hosts_file)"'


def _options(job: ScriptContext) -> tuple[str, ...]:
    return tuple(shlex.quote(option) for option in job.launcher_options)


def pbsdsh_words(job: ScriptContext) -> tuple[str, ...]:
    """pbsdsh counts slots: a node is reached by its first one."""
    return ("pbsdsh", *_options(job), "-n", '"${places[$node]}"', "--")


def tmrsh_words(job: ScriptContext) -> tuple[str, ...]:
    """pbs_tmrsh takes a node's name."""
    return ("pbs_tmrsh", '"${nodes[$node]}"', *_options(job))


def mpiexec_words(job: ScriptContext) -> tuple[str, ...]:
    """The mpiexec of MPICH and of Cray PALS."""
    return ("mpiexec", "-n", str(job.nodes), "-ppn", "1", "--hostfile", _HOSTS, *_options(job))


def openmpi_words(job: ScriptContext) -> tuple[str, ...]:
    """Open MPI's mpirun, which would bind a task to a core or two."""
    where = ("-np", str(job.nodes), "--map-by", "ppr:1:node", "--hostfile", _HOSTS)
    return ("mpirun", "--bind-to", "none", *where, *_options(job))


PBSDSH = Launcher(
    name="pbsdsh", schedulers=("pbs",), program="pbsdsh", words=pbsdsh_words, node="$1", is_line_per_node=True
)
PBS_TMRSH = Launcher(
    name="pbs_tmrsh", schedulers=("pbs",), program="pbs_tmrsh", words=tmrsh_words, node="$1", is_line_per_node=True
)
MPIEXEC = Launcher(name="mpiexec", schedulers=("pbs",), program="mpiexec", words=mpiexec_words, node=_NUMBERED)
OPENMPI = Launcher(name="openmpi", schedulers=("pbs",), program="mpirun", words=openmpi_words, node=_NUMBERED)
