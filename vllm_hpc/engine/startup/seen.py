"""Records what this rank sees as it begins, for ``vllm-hpc env``: variables, network, cores, memory.

It takes a few milliseconds, and imports nothing that a rank does not have by then: the versions of torch and vLLM are
in the rank's own record, once it has them. Of variables, only those that matter
to ranks are written with their value, and none that is or may be a secret: not one that the job takes by name.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from vllm_hpc import __version__
from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.standing import Standing
from vllm_hpc.jobfolder.env_records import RankEnvironment
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.no_secrets import is_secret_variable
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.secret_shapes import is_secret, shown_secret
from vllm_hpc.spec.write_file import replacing

_SHOWN = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|ROLE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_WORLD_SIZE|ROLE_WORLD_SIZE|MASTER_ADDR"
    r"|MASTER_PORT|PATH|LD_LIBRARY_PATH|LD_PRELOAD|PYTHON\w*|VIRTUAL_ENV|CONDA_PREFIX|CUDA_HOME|TMPDIR|HOSTNAME|LANG"
    r"|LC_ALL|XDG_CACHE_HOME|GPU_DEVICE_ORDINAL)"
    r"|(CUDA|NVIDIA|HIP|ROCR|ROCM|HSA|ZE|SYCL|ONEAPI|NCCL|RCCL|CCL|GLOO|TP|VLLM|TORCH\w*|PYTORCH|TRITON|OMP|MKL|KMP"
    r"|OPENBLAS|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|SLURM|SLURMD|PBS|PMI|PMIX|PALS|OMPI|UCX|FI|MPICH|APPTAINER"
    r"|SINGULARITY|KUBERNETES)_\w+"
)
# Keys that schedulers give the processes of a job, whose names do not tell.
_KEYS_OF_JOBS = ("PBS_JOBCOOKIE", "OMPI_MCA_orte_precondition_transports")
_MOST_CHARACTERS = 4096
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_DRIVER = Path("/proc/driver/nvidia/version")
_LIMITS = {"address space": resource.RLIMIT_AS, "locked": resource.RLIMIT_MEMLOCK}


def record_environment(job: JobFolder, record: JobRecord, standing: Standing) -> None:
    """Write what this rank sees. Call it before anything changes the environment. A full disk is not told here."""
    seen = see(standing, os.environ, record.request.env, record.request.pass_env)
    with suppress(OSError), replacing(job.environment(seen.rank), 0o600) as file:
        file.write(msgspec.json.format(msgspec.json.encode(seen), indent=1) + b"\n")


def see(
    standing: Standing, environment: Mapping[str, str], given: Collection[str], passed: Collection[str]
) -> RankEnvironment:
    """What this rank sees. ``given``: variables of --env K=V; ``passed``: those that the job takes by name."""
    shown, hidden = _variables(environment, given, frozenset(passed))
    return RankEnvironment(
        rank=standing.global_rank,
        attempt=standing.attempt,
        host=node_name(),
        pid=os.getpid(),
        cwd=_plain(_working_directory()),
        executable=_plain(sys.executable),
        variables=shown,
        hidden=hidden,
        versions={"python": platform.python_version(), "vllm-hpc": __version__, **_driver()},
        address=environment.get("VLLM_HOST_IP", ""),
        interface=_interface(environment.get("GLOO_SOCKET_IFNAME", "")),
        cores=ranges(os.sched_getaffinity(0)),
        memory=_memory(),
    )


def device_versions(torch: Any) -> dict[str, str]:
    """The versions of CUDA and NCCL, or of ROCm, that torch was built for; none on the CPU."""
    found = {"cuda": torch.version.cuda, "rocm": torch.version.hip}
    if torch.version.cuda and torch.distributed.is_nccl_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return {name: version for name, version in found.items() if version}


def _variables(
    environment: Mapping[str, str], given: Collection[str], passed: frozenset[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Those to write with their value, and the names of those without it."""
    wanted = {name: environment[name] for name in environment if name in given or _SHOWN.fullmatch(name)}
    doubtful = {name for name, value in wanted.items() if "=" in value or is_secret(name) or "proxy" in name.lower()}
    # To look at each value alone takes several milliseconds.
    if shown_secret("\n".join(value for name, value in wanted.items() if name not in doubtful)):
        doubtful = set(wanted)
    secret = {name for name in doubtful if is_secret_variable(name, wanted[name])}
    secret |= wanted.keys() & set(_KEYS_OF_JOBS)
    hidden = {name for name in environment if name in passed} | secret
    shown = {_plain(name): _plain(wanted[name]) for name in sorted(wanted.keys() - hidden)}
    return shown, tuple(map(_plain, sorted(hidden)))


def _plain(text: str) -> str:
    """What JSON can hold: bytes that are not UTF-8 are escaped, and what is very long is cut."""
    return text.encode(errors="backslashreplace").decode()[:_MOST_CHARACTERS]


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - Path.cwd() is the same
    except FileNotFoundError:
        return "(removed)"


def _driver() -> dict[str, str]:
    """NVIDIA's driver, if there is one."""
    with suppress(OSError):
        found = re.search(rb"Kernel Module\D*([\d.]+)", read_regular(_DRIVER, 1 << 12))
        return {"driver": found[1].decode()} if found else {}
    return {}


def _interface(name: str) -> str:
    """A network interface with its speed, where the kernel knows that."""
    speed = psutil.net_if_stats().get(name) if name else None
    return f"{name} ({speed.speed / 1000:g} Gb/s)" if speed and speed.speed > 0 else name


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as the kernel lists cores: "0-3,8"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _memory() -> dict[str, int]:
    """The node's memory, and what this process may have of it, in bytes."""
    found = {"node": psutil.virtual_memory().total}
    if (limit := _cgroup_limit()) is not None:
        found["cgroup"] = limit
    for name, number in _LIMITS.items():
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            found[name] = soft
    return found


def _cgroup_limit() -> int | None:
    """The smallest limit of the control groups (version 2) that this process is in; None without one."""
    limits = []
    with suppress(OSError, UnicodeDecodeError):
        path = read_regular(_CGROUP, 1 << 16).decode().rpartition("0::/")[2].split("\n")[0]
        for folder in (_CGROUPS / path, *(_CGROUPS / path).parents):
            if not folder.is_relative_to(_CGROUPS):
                break
            with suppress(OSError, ValueError):
                limits.append(int(read_regular(folder / "memory.max", 64)))
    return min(limits, default=None)
