"""Profile: a site's settings. Its fields are the one table of a profile's keys: type, meaning, which schedulers.

The checks (spec/profile_checks.py), docs/profiles.md and ``profiles show`` are made from it. A value may hold variables
($USER, ${SCRATCH:-/tmp}) where its key says when they are expanded: at submission, or on the node.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from vllm_hpc.spec.bounds import Cores, Gpus, JobGpus, LeadSeconds, Network, Nodes, Requeues
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.keys import key, keys_of
from vllm_hpc.spec.kubernetes import Kubernetes

_CLUSTERS = ("slurm", "pbs")
_PODS = ("kubernetes",)
_ALL_CLUSTERS = (*_CLUSTERS, *_PODS)
_HOSTS = (*_CLUSTERS, "local")
_SLURM, _PBS = ("slurm",), ("pbs",)


# Of keys that say the same, the first is used where both have a value: so setting the other one takes it away.
TAKES_AWAY: dict[str, tuple[str, ...]] = {
    "gpu_memory_gib": ("gpu",),
    "mem_per_gpu": ("mem",),
    "mem_per_node": ("mem", "mem_per_gpu"),
    "cpus_per_node": ("cpus_per_rank",),
}


class Queue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition or queue of a site: what it takes, and what a job in it asks for instead of the profile's values."""

    description: Annotated[str, key("what it is for, in a line")] = ""
    partition: Annotated[str | None, key("its name for the scheduler, if that is not the table's")] = None
    min_nodes: Annotated[Nodes | None, key("the fewest nodes of a job")] = None
    max_nodes: Annotated[Nodes | None, key("the most nodes of a job")] = None
    max_gpus: Annotated[JobGpus | None, key("the most GPUs of a job")] = None
    max_time: Annotated[str | None, key("the longest walltime")] = None
    by_request: Annotated[bool, key("jobs go there only when asked to (--queue): it costs more, or may be cut")] = False
    account: Annotated[str | None, key("as the profile's", _CLUSTERS, "at submission")] = None
    qos: Annotated[str | None, key("as the profile's", _SLURM)] = None
    time: Annotated[str | None, key("as the profile's: the walltime where none is asked for", _CLUSTERS)] = None
    gpu: Annotated[str | None, key("as the profile's", _CLUSTERS)] = None
    gpu_memory_gib: Annotated[float | None, key("as the profile's", _CLUSTERS)] = None
    gpu_type: Annotated[str | None, key("as the profile's", _SLURM)] = None
    gpus_per_node: Annotated[Gpus | None, key("as the profile's")] = None
    cpus_per_node: Annotated[Cores | None, key("as the profile's", _CLUSTERS)] = None
    mem_per_node: Annotated[str | None, key("as the profile's", _CLUSTERS)] = None
    cpus_per_rank: Annotated[Cores | None, key("as the profile's")] = None
    mem_per_gpu: Annotated[str | None, key("as the profile's", _CLUSTERS)] = None
    mem: Annotated[str | None, key("as the profile's", _CLUSTERS)] = None
    exclusive: Annotated[bool | None, key("as the profile's", _CLUSTERS)] = None
    whole_nodes: Annotated[bool | None, key("as the profile's", _CLUSTERS)] = None
    gpu_request: Annotated[Literal["select", "queue", "totals", "nodes"] | None, key("as the profile's", _PBS)] = None
    directives: Annotated[tuple[str, ...], key("added to the profile's", _CLUSTERS, "at submission")] = ()
    chunk: Annotated[tuple[str, ...], key("added to the profile's", _PBS, "at submission")] = ()
    resources: Annotated[tuple[str, ...], key("added to the profile's", _PBS, "at submission")] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site's settings, merged from its layers (spec/profile_layers.py). Each field is a key that a file may have."""

    description: Annotated[str, key("what the profile is for, in a line")] = ""
    extends: Annotated[str | None, key("a profile beneath this one, such as site/polaris")] = None
    replace: Annotated[bool, key("whether the files below with the same profile do not count")] = False
    required: Annotated[tuple[str, ...], key("keys that an option, job.toml or a file above must give")] = ()
    scheduler: Annotated[str | None, key("slurm, pbs, local, or another package's")] = None
    partition: Annotated[str | None, key("the partition or queue", _CLUSTERS)] = None
    account: Annotated[str | None, key("the account that pays", _CLUSTERS, "at submission")] = None
    qos: Annotated[str | None, key("the quality of service", _SLURM)] = None
    time: Annotated[str | None, key("the walltime where none is asked for", _ALL_CLUSTERS)] = None
    gpus_per_node: Annotated[Gpus | None, key("GPUs that a node has")] = None
    network_gbps: Annotated[
        Network | None, key("Gbit/s of a node's network, its adapters together, for estimates over several nodes")
    ] = None
    cpus_per_node: Annotated[Cores | None, key("cores that a node has for jobs", _ALL_CLUSTERS)] = None
    mem_per_node: Annotated[str | None, key("memory that a node has for jobs", _ALL_CLUSTERS)] = None
    cpus_per_rank: Annotated[Cores | None, key("cores of each rank, and so of each GPU")] = None
    mem_per_gpu: Annotated[str | None, key("memory of a node to ask for, for each of a job's GPUs", _ALL_CLUSTERS)] = (
        None
    )
    mem: Annotated[str | None, key("memory of a node to ask for, whatever its GPUs", _ALL_CLUSTERS)] = None
    gpu: Annotated[str | None, key("the GPU, a name for --gpu", _ALL_CLUSTERS)] = None
    gpu_memory_gib: Annotated[float | None, key("its memory in GiB, if it has no such name", _ALL_CLUSTERS)] = None
    gpu_flag: Annotated[
        Literal["gpus-per-node", "gres", "none"], key("how GPUs are asked for; none: not at all", _ALL_CLUSTERS)
    ] = "gpus-per-node"
    gpu_type: Annotated[str | None, key("the type in that request: h100 of gpu:h100:4", _SLURM)] = None
    exclusive: Annotated[
        bool, key("whether nodes are asked for whole (--exclusive, place=scatter:excl)", _CLUSTERS)
    ] = False
    whole_nodes: Annotated[
        bool, key("whether a node is billed whole: all of its GPUs, cores and memory are asked for", _CLUSTERS)
    ] = False
    gpu_request: Annotated[
        Literal["select", "queue", "totals", "nodes"], key("the grammar of the request (docs/pbs.md)", _PBS)
    ] = "select"
    account_flag: Annotated[Literal["-A", "-P", "-W group_list"], key("the flag of the account", _PBS)] = "-A"
    chunk: Annotated[tuple[str, ...], key("added to each chunk of select=", _PBS, "at submission")] = ()
    resources: Annotated[
        tuple[str, ...], key("more -l lines, with {nodes} and {gpus} filled in", _PBS, "at submission")
    ] = ()
    directives: Annotated[
        tuple[str, ...],
        key("more lines as after #SBATCH or #PBS, before those of --directive", _CLUSTERS, "at submission"),
    ] = ()
    queues: Annotated[
        dict[str, Queue],
        key("tables [profiles.NAME.queues.QUEUE], of which a job gets the first that fits", _CLUSTERS),
    ] = {}
    launcher: Annotated[str | None, key("what starts the ranks: a name for --launcher")] = None
    launcher_options: Annotated[tuple[str, ...], key("more words of PBS's launcher", _PBS)] = ()
    srun_options: Annotated[tuple[str, ...], key("more words of srun", _SLURM)] = ()
    cpu_bind: Annotated[str, key("srun's --cpu-bind", _SLURM)] = "none"
    torchrun_options: Annotated[tuple[str, ...], key("more words of torchrun")] = ()
    wrapper: Annotated[tuple[str, ...], key("words before torchrun, or python, on each node")] = ()
    container: Annotated[Container | None, key("the image that the ranks run in, a table (docs/containers.md)")] = None
    kubernetes: Annotated[
        Kubernetes | None, key("the cluster that runs the pods, a table (docs/kubernetes.md)", _PODS)
    ] = None
    head_suffix: Annotated[str, key("added to a host's name for the fast network", _CLUSTERS)] = ""
    head_command: Annotated[str | None, key("prints, on the head, how nodes reach it", _CLUSTERS)] = None
    export_environment: Annotated[bool, key("false is sbatch --export=NONE", _SLURM)] = True
    setup: Annotated[tuple[str, ...], key("lines of shell, run first in the job, on its first node")] = ()
    node_setup: Annotated[tuple[str, ...], key("lines of shell, run on each node before its ranks")] = ()
    env: Annotated[dict[str, str], key("variables of the ranks", (), "on the node")] = {}
    secrets: Annotated[tuple[str, ...], key("variables of the shell that submits, whose values no file shows")] = ()
    offline: Annotated[bool, key("whether nodes have no internet: models must be here (vllm-hpc fetch)")] = False
    scratch: Annotated[str | None, key("a folder of each node for temporary files and caches", (), "on the node")] = (
        None
    )
    python: Annotated[
        str | None,
        key(
            "the Python of the nodes, whose folder has torchrun too, if not the one that submits",
            _HOSTS,
            "at submission",
        ),
    ] = None
    job_dir: Annotated[str | None, key("where job folders are created", (), "at submission")] = None
    cache_dir: Annotated[str | None, key("the shared cache: models, and vLLM's compiled code", (), "at submission")] = (
        None
    )
    template_dir: Annotated[str | None, key("a folder of templates, beside the file", (), "at submission")] = None
    engine: Annotated[dict[str, Any], key("engine arguments of vLLM, as --engine")] = {}
    sampling: Annotated[dict[str, Any], key("sampling parameters, as --sampling")] = {}
    max_requeues: Annotated[Requeues | None, key("as --max-requeues")] = None
    drain_lead: Annotated[LeadSeconds | None, key("as --drain-lead")] = None


def ignored_keys(profile: Profile, scheduler: str, starts_torchrun: bool | None = None) -> list[str]:
    """The keys that have a value which a job does not use, with one of our schedulers; another package's may use any.

    ``starts_torchrun``: whether the job's launcher does; None: as the profile's.
    """
    if scheduler not in (*_ALL_CLUSTERS, "local"):
        return []
    default = Profile()
    is_set = {name for name in keys_of(Profile) if getattr(profile, name) != getattr(default, name)}
    of_others = {name for name, one in keys_of(Profile).items() if one.schedulers and scheduler not in one.schedulers}
    unused = is_set & (of_others | _of_no_use(profile, scheduler, starts_torchrun))
    return [name for name in keys_of(Profile) if name in unused]


def _of_no_use(profile: Profile, scheduler: str, starts_torchrun: bool | None) -> set[str]:
    """Keys that another key makes useless."""
    unused = set()
    if starts_torchrun is False or (starts_torchrun is None and profile.launcher == "srun"):
        unused.add("torchrun_options")
    if profile.gpu_flag == "none":
        unused.add("gpu_type")
    if scheduler == "pbs" and profile.gpu_request == "queue":  # the queue decides
        unused |= {"cpus_per_node", "mem_per_node", "mem_per_gpu"}
    return unused
