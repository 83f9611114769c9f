"""What a script's template is given as ``job``. docs/templates.md is checked against it: each field says what it is."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vllm_hpc.schedulers.containers.runtime import ContainerRuntime
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES
from vllm_hpc.schedulers.lifecycle import lifecycle_sha256
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.drain import DEFAULT_LEAD_S, DEFAULT_MAX_REQUEUES
from vllm_hpc.spec.profile import Profile

# Defaults are said once: in the profile.
_SITE = Profile()


class ScriptContext(msgspec.Struct, frozen=True, kw_only=True):
    """All that a template can use, as ``job``. Paths are absolute; ``mem`` and ``time`` are as the user wrote them."""

    title: Annotated[str, Meta(description="one line of ASCII: which vllm-hpc rendered the script, for which job")]
    name: Annotated[str, Meta(description="the job's name, which is its folder's")]
    folder: Annotated[str, Meta(description="the job folder")]
    scheduler_log: Annotated[str, Meta(description="the file for what the script prints")]
    bin: Annotated[str, Meta(description="the folder of the Python that submits, with torchrun; empty in pods")]
    nodes: Annotated[int, Meta(description="nodes, of each task of an array")]
    gpus_per_node: Annotated[int, Meta(description="GPUs of a node to ask for")]
    procs_per_node: Annotated[int, Meta(description="ranks on each node")]
    world_size: Annotated[int, Meta(description="ranks on all nodes")]
    tp: Annotated[int, Meta(description="tensor parallel size")]
    pp: Annotated[int, Meta(description="pipeline parallel size")]
    dp: Annotated[int, Meta(description="replicas, of the whole array if it is one")]
    attention_dp: Annotated[int, Meta(description="lanes of each replica (docs/experts.md)")] = 1
    cpus_per_rank: Annotated[int | None, Meta(description="cores of a rank; none: the scheduler's default")] = None
    cpus_per_task: Annotated[int | None, Meta(description="cores of what the launcher starts; none as above")] = None
    mem: Annotated[str | None, Meta(description="memory of a node")] = None
    partition: Annotated[str | None, Meta(description="Slurm's partition, PBS's queue")] = None
    account: Annotated[str | None, Meta(description="the account that pays")] = None
    qos: Annotated[str | None, Meta(description="Slurm's quality of service")] = None
    time: Annotated[str | None, Meta(description="the walltime")] = None
    gpu_flag: Annotated[str, Meta(description="how GPUs are asked for: gpus-per-node, gres or none")] = _SITE.gpu_flag
    gpu_type: Annotated[str | None, Meta(description="their type for Slurm, as in gpu:h100:4")] = None
    exclusive: Annotated[bool, Meta(description="whether nodes are asked for whole")] = False
    directives: Annotated[
        tuple[str, ...], Meta(description="lines of the profile's directives and --directive, without #SBATCH or #PBS")
    ] = ()
    setup: Annotated[tuple[str, ...], Meta(description="the profile's lines of shell, run before all else")] = ()
    node_setup: Annotated[tuple[str, ...], Meta(description="the profile's lines of shell for each node")] = ()
    env: Annotated[dict[str, str], Meta(description="variables of --env and the profile's env, taken as they are")] = {}
    site_env: Annotated[
        dict[str, str], Meta(description="variables of the profile's env with $NAMES that the node sets in: |on_node")
    ] = {}
    pass_env: Annotated[list[str], Meta(description="names of --env NAME, which the job inherits")] = []
    scratch: Annotated[str | None, Meta(description="a node's folder for temporary files, for |on_node")] = None
    launcher: Annotated[str, Meta(description="the launcher's name")] = "torchrun"
    is_array: Annotated[bool, Meta(description="whether the job is an array of replicas")] = False
    tasks_per_node: Annotated[int, Meta(description="what the launcher starts on each node: 1 with torchrun")] = 1
    time_limit_s: Annotated[int | None, Meta(description="the walltime in seconds")] = None
    tasks: Annotated[int, Meta(description="tasks of the array; 1 for any other job")] = 1
    head_suffix: Annotated[str, Meta(description="added to a host's name for the fast network")] = ""
    head_command: Annotated[str | None, Meta(description="prints how nodes reach the head")] = None
    export_environment: Annotated[bool, Meta(description="false is sbatch --export=NONE")] = True
    max_requeues: Annotated[int, Meta(description="how often the script has the job run again")] = DEFAULT_MAX_REQUEUES
    lead_s: Annotated[int, Meta(description="seconds ahead of the walltime at which a drain begins")] = DEFAULT_LEAD_S
    gpu_request: Annotated[str, Meta(description="PBS's grammar: select, queue, totals or nodes")] = _SITE.gpu_request
    account_flag: Annotated[str, Meta(description="PBS's flag of the account")] = _SITE.account_flag
    chunk: Annotated[tuple[str, ...], Meta(description="more of each chunk of PBS's select")] = ()
    resources: Annotated[tuple[str, ...], Meta(description="more of PBS's -l lines, numbers filled in")] = ()
    launcher_options: Annotated[tuple[str, ...], Meta(description="more words of PBS's launcher")] = ()
    srun_options: Annotated[tuple[str, ...], Meta(description="more words of srun")] = ()
    cpu_bind: Annotated[str, Meta(description="srun's --cpu-bind; empty: srun's default")] = _SITE.cpu_bind
    torchrun_options: Annotated[tuple[str, ...], Meta(description="more words of torchrun")] = ()
    wrapper: Annotated[tuple[str, ...], Meta(description="words before torchrun, or python, on each node")] = ()
    container: Annotated[Container | None, Meta(description="the image of the ranks (docs/containers.md)")] = None
    container_words: Annotated[tuple[str, ...], Meta(description="words, quoted, that run what follows in it")] = ()
    pods: Annotated[Any, Meta(description="what a manifest has of its pods (docs/kubernetes.md); none elsewhere")] = (
        None
    )
    umask: Annotated[str, Meta(description="the submitter's umask, in octal digits; 077 with --private")] = "022"
    private: Annotated[bool, Meta(description="whether nobody else may read the job's files")] = False
    lifecycle_sha256: Annotated[str, Meta(description="the digest of lifecycle.sh")] = msgspec.field(
        default_factory=lifecycle_sha256
    )

    @property
    def gpus(self) -> str:
        """The GPUs of a node as Slurm is asked for them: 4, or h100:4."""
        return f"{self.gpu_type}:{self.gpus_per_node}" if self.gpu_type else str(self.gpus_per_node)

    @property
    def cores(self) -> int | None:
        """Cores to ask for on each node, of PBS: one a rank at least; None where the queue decides."""
        return None if self.gpu_request == "queue" else self.cpus_per_task or self.procs_per_node

    @property
    def runs_task_in_image(self) -> bool:
        """Whether srun runs its whole task in the image, as Pyxis has it: container_words are its options then."""
        runtime = _runtime(self.container)
        return runtime is not None and runtime.is_of_srun

    @property
    def container_program(self) -> str:
        """What runs the image on a node; empty without a container."""
        runtime = _runtime(self.container)
        return runtime.program if runtime else ""

    @property
    def asks_for_gpus(self) -> bool:
        """Whether PBS is asked for GPUs by number; else the queue gives them, or there are none."""
        return self.gpu_request != "queue" and self.gpu_flag != "none"


def _runtime(container: Container | None) -> ContainerRuntime | None:
    """What runs the image; None also in pods, which are of the image themselves."""
    return CONTAINER_RUNTIMES[container.runtime] if container and container.runtime else None
