"""Expected: what a job's nodes should have, from its profile, its plan and the machine that submits."""

from __future__ import annotations

import platform
from importlib import metadata

import msgspec

from vllm_hpc import __version__
from vllm_hpc.doctor.runtimes import program_of
from vllm_hpc.spec.host_path import HostPath
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.model_cache import is_offline
from vllm_hpc.spec.resolved_job import ResolvedJob


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a node should have. ``gpus`` None: none is asked for; ``gpu_gib``: the memory of each, None if unknown.

    ``model`` is what this machine sees of it, None without MODEL; ``is_on_hub``: it is a Hub id, which a rank may
    download. ``has_image``: ranks run in a container, which has a Python and packages of its own; ``has_program``: a
    program of the node runs it.
    """

    nodes: int
    procs_per_node: int
    gpus: int | None = None
    gpu_gib: float | None = None
    versions: dict[str, str] = {}
    model: HostPath | None = None
    is_on_hub: bool = False
    offline: bool = False
    has_image: bool = False
    has_program: bool = False


def expect(job: ResolvedJob, layout: Layout, model: HostPath | None) -> Expected:
    """What the nodes of that job should have."""
    device, container = job.device, job.site.container
    has_gpus = device is not None and device.gpu is not None if job.runs_here else job.site.gpu_flag != "none"
    return Expected(
        nodes=layout.nodes,
        procs_per_node=layout.procs_per_node,
        gpus=layout.gpus_per_node if has_gpus else None,
        gpu_gib=device.gpu.memory_gib if device and device.gpu else None,
        versions=own_versions(),
        model=model,
        is_on_hub=model is not None and not model.path.startswith("/"),
        offline=is_offline(job.request, job.site),
        has_image=container is not None,
        has_program=container is not None and bool(program_of(container)),
    )


def own_versions() -> dict[str, str]:
    """The versions that submit: those that the nodes must have, too."""
    return {
        "vllm-hpc": __version__,
        "python": platform.python_version(),
        "submitit": metadata.version("submitit"),
    }
