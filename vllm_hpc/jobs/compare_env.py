"""What the ranks of a job saw as they began, side by side: what is alike, what differs, and what must."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from vllm_hpc.jobfolder.env_records import RankEnvironment, read_environments
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import RankRecord

HIDDEN, NOT_SET = "(set, not shown)", "(not set)"
# What every rank, node, step or attempt has of its own.
_OWN = re.compile(
    r"host|pid|address|cores|RANK|LOCAL_RANK|GROUP_RANK|ROLE_RANK|HOSTNAME|TMPDIR|VLLM_HOST_IP|TORCHELASTIC_(ERROR_FILE|RUN_ID)"
    r"|VLLM_HPC_(RANK|TASK|SCRATCH|NODE|ATTEMPT|JOB_ID)|CUDA_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES"
    r"|ZE_AFFINITY_MASK|NVIDIA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|OMP_PLACES|VLLM_CPU_OMP_THREADS_BIND"
    r"|SLURM_(PROCID|LOCALID|NODEID|TASK_PID|GTIDS|CPU_BIND\w*|GPUS_ON_NODE|JOB_GPUS|STEP_GPUS|TOPOLOGY_ADDR|ARRAY_TASK_ID"
    r"|JOB_ID|JOBID|SRUN_COMM_PORT|MEM_BIND\w*)|SLURMD_\w+|PBS_(TASKNUM|NODENUM|VNODENUM|MOMPORT|ARRAY_INDEX|ARRAYID)"
    r"|PMI_\w+|PMIX_\w+|PALS_\w+|OMPI_COMM_WORLD_\w+|OMPI_MCA_\w+"
)
# Printed without --all only if it differs.
_SELDOM = re.compile(
    r"attempt|executable|memory locked|memory address space|(SLURM|SLURMD|PBS|PMI|PMIX|PALS|OMPI|ROLE|TORCHELASTIC"
    r"|APPTAINER|SINGULARITY|KUBERNETES|VLLM_HPC|GROUP_WORLD)_?\w*|PATH|LD_LIBRARY_PATH|PYTHON\w+|VIRTUAL_ENV|CONDA_PREFIX|CUDA_HOME"
    r"|TMPDIR|HOSTNAME|LANG|LC_ALL|XDG_CACHE_HOME"
)


class Value(msgspec.Struct, frozen=True):
    """A value, and the ranks that saw it."""

    value: str
    ranks: tuple[int, ...]


class Compared(msgspec.Struct, frozen=True):
    """One thing that ranks saw. ``differs``: not all saw the same, and nothing says that they should not."""

    name: str
    values: tuple[Value, ...]
    is_own: bool = False
    is_seldom: bool = False

    @property
    def differs(self) -> bool:
        """Whether the ranks differ where they should not."""
        return len(self.values) > 1 and not self.is_own


class JobEnvironment(msgspec.Struct, frozen=True):
    """What the ranks of a job saw. ``missing``: ranks that have not told."""

    ranks: tuple[RankEnvironment, ...]
    compared: tuple[Compared, ...]
    missing: tuple[int, ...] = ()

    @property
    def differences(self) -> tuple[Compared, ...]:
        """What differs where it should not."""
        return tuple(one for one in self.compared if one.differs)


def read_job_environment(folder: JobFolder) -> JobEnvironment:
    """Read what the ranks of a job saw in their last attempt. Raises JobNotFoundError."""
    every = range(folder.job().plan.layout.all_ranks)
    found = [_with_versions(one, folder.records_of([one.rank])) for one in read_environments(folder, every)]
    told = {one.rank for one in found}
    missing = tuple(rank for rank in every if rank not in told)
    return JobEnvironment(tuple(found), compare(found), missing)


def _with_versions(seen: RankEnvironment, records: Iterable[RankRecord]) -> RankEnvironment:
    """With the versions of what the rank has imported since."""
    later = next((one.versions for one in records if one.attempt == seen.attempt), {})
    return msgspec.structs.replace(seen, versions=seen.versions | later)


def compare(ranks: Sequence[RankEnvironment]) -> tuple[Compared, ...]:
    """Everything that any rank saw, in the order in which it is shown."""
    flat = {one.rank: _flat(one) for one in ranks}
    names = dict.fromkeys(name for seen in flat.values() for name in seen)
    first = [name for name in names if not name.isupper()]
    return tuple(_compared(name, flat) for name in [*first, *sorted(names.keys() - set(first), key=_place)])


# The order of variables: how ranks meet, then what they see of the machine, then the rest by name.
_FIRST = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "VLLM_HOST_IP",
    "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
)  # fmt: skip


def _place(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _compared(name: str, flat: dict[int, dict[str, str]]) -> Compared:
    ranks: dict[str, list[int]] = {}
    for rank, seen in flat.items():
        ranks.setdefault(seen.get(name, NOT_SET), []).append(rank)
    values = tuple(Value(value, tuple(of)) for value, of in ranks.items())
    return Compared(name, values, bool(_OWN.fullmatch(name)), bool(_SELDOM.fullmatch(name)) and name not in _FIRST)


def _flat(seen: RankEnvironment) -> dict[str, str]:
    """All of it as texts by name: variables in capitals, the rest in small letters."""
    of_rank = {
        "host": seen.host, "attempt": str(seen.attempt), "pid": str(seen.pid), "cwd": seen.cwd,
        "executable": seen.executable, "address": seen.address, "interface": seen.interface, "cores": seen.cores,
    }  # fmt: skip
    memory = {f"memory {name}": f"{size / 2**30:.1f} GiB" for name, size in seen.memory.items()}
    hidden = dict.fromkeys(seen.hidden, HIDDEN)
    return {name: value for name, value in {**of_rank, **memory, **seen.versions}.items() if value} | {
        **{name if name.isupper() else f"variable {name}": value for name, value in (seen.variables | hidden).items()}
    }
