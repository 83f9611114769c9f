"""The words that a job's script has for its container."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vllm_hpc.schedulers.containers.binds import all_binds
from vllm_hpc.schedulers.containers.runtime import ImageRun
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.expand import on_node
from vllm_hpc.spec.resolved_job import ResolvedJob

# Where Charliecloud keeps what an image's recipe sets.
_ENVIRONMENT = "ch/environment"
# Of gpus.py's names, those of AMD; Intel's have none, and need no word of a runtime.
_AMD = ("mi",)
_NEITHER = ("max", "pvc", "cpu")


def container_words(job: ResolvedJob, container: Container, folder: Path, needs: Iterable[Path]) -> tuple[str, ...]:
    """The words, quoted, that run what follows in the image; of pyxis, srun's options. Raises RequestError."""
    runtime = CONTAINER_RUNTIMES[str(container.runtime)]
    run = ImageRun(
        image=str(container.image).replace("$", "$$"),
        binds=all_binds(job, container, runtime, folder, needs),
        options=container.options,
        gpu=_gpu_of(job),
        workdir=str(folder).replace("$", "$$"),
        has_environment=Path(str(container.image), _ENVIRONMENT).is_file(),
    )
    return tuple(on_node(word) for word in runtime.words(run))


def _gpu_of(job: ResolvedJob) -> str:
    """Whose GPUs a job's nodes have: nvidia where a cluster's profile does not say, empty on the CPU."""
    if job.device is not None and job.device.gpu is None:
        return ""
    name = (job.device.gpu.name if job.device and job.device.gpu else "").lower()
    if job.device is None and job.site.gpu_flag == "none" and job.site.gpus_per_node is None:
        return ""
    if any(part.startswith(_AMD) for part in name.replace(" ", "-").split("-")) or "amd" in name:
        return "amd"
    return "" if name.startswith(_NEITHER) or "intel" in name else "nvidia"
