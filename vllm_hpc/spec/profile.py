"""Profile: a site's settings. Its fields are the one table of a profile's keys: type, meaning, which schedulers.

The checks (spec/profile_checks.py), docs/profiles.md and ``profiles show`` are made from it. A value may hold variables
($USER, ${SCRATCH:-/tmp}) where its key says when they are expanded: at submission, or on the node.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vllm_hpc.spec.bounds import Cores, Gpus, LeadSeconds, Nodes, Requeues
from vllm_hpc.spec.container import Container

Expanded = Literal["", "at submission", "on the node"]
_CLUSTERS = ("slurm", "pbs")
_SLURM, _PBS = ("slurm",), ("pbs",)


def _key(meaning: str, schedulers: tuple[str, ...] = (), expanded: Expanded = "") -> Meta:
    """A row of the table. ``schedulers``: those that use the key, none for all."""
    return Meta(description=meaning, extra={"schedulers": schedulers, "expanded": expanded})


class Queue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition or queue of a site: what it takes, and what a job in it asks for instead of the profile's values."""

    description: Annotated[str, _key("what it is for, in a line")] = ""
    partition: Annotated[str | None, _key("its name for the scheduler, if that is not the table's")] = None
    min_nodes: Annotated[Nodes | None, _key("the fewest nodes of a job")] = None
    max_nodes: Annotated[Nodes | None, _key("the most nodes of a job")] = None
    max_gpus: Annotated[Gpus | None, _key("the most GPUs of a job")] = None
    max_time: Annotated[str | None, _key("the longest walltime")] = None
    by_request: Annotated[bool, _key("jobs go there only when asked to (--queue): it costs more, or may be cut")] = (
        False
    )
    account: Annotated[str | None, _key("as the profile's", _CLUSTERS, "at submission")] = None
    qos: Annotated[str | None, _key("as the profile's", _SLURM)] = None
    time: Annotated[str | None, _key("as the profile's: the walltime where none is asked for", _CLUSTERS)] = None
    gpu: Annotated[str | None, _key("as the profile's", _CLUSTERS)] = None
    gpu_memory_gib: Annotated[float | None, _key("as the profile's", _CLUSTERS)] = None
    gpu_type: Annotated[str | None, _key("as the profile's", _SLURM)] = None
    gpus_per_node: Annotated[Gpus | None, _key("as the profile's")] = None
    cpus_per_node: Annotated[Cores | None, _key("as the profile's", _CLUSTERS)] = None
    mem_per_node: Annotated[str | None, _key("as the profile's", _CLUSTERS)] = None
    cpus_per_rank: Annotated[Cores | None, _key("as the profile's")] = None
    mem_per_gpu: Annotated[str | None, _key("as the profile's", _CLUSTERS)] = None
    mem: Annotated[str | None, _key("as the profile's", _CLUSTERS)] = None
    exclusive: Annotated[bool | None, _key("as the profile's", _CLUSTERS)] = None
    whole_nodes: Annotated[bool | None, _key("as the profile's", _CLUSTERS)] = None
    gpu_request: Annotated[Literal["select", "queue", "totals", "nodes"] | None, _key("as the profile's", _PBS)] = None
    directives: Annotated[tuple[str, ...], _key("added to the profile's", _CLUSTERS, "at submission")] = ()
    chunk: Annotated[tuple[str, ...], _key("added to the profile's", _PBS, "at submission")] = ()
    resources: Annotated[tuple[str, ...], _key("added to the profile's", _PBS, "at submission")] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site's settings, merged from its layers (spec/profile_layers.py). Each field is a key that a file may have."""

    description: Annotated[str, _key("what the profile is for, in a line")] = ""
    extends: Annotated[str | None, _key("a profile beneath this one, such as site/polaris")] = None
    replace: Annotated[bool, _key("whether the files below with the same profile do not count")] = False
    required: Annotated[tuple[str, ...], _key("keys that an option, job.toml or a file above must give")] = ()
    scheduler: Annotated[str | None, _key("slurm, pbs, local, or another package's")] = None
    partition: Annotated[str | None, _key("the partition or queue", _CLUSTERS)] = None
    account: Annotated[str | None, _key("the account that pays", _CLUSTERS, "at submission")] = None
    qos: Annotated[str | None, _key("the quality of service", _SLURM)] = None
    time: Annotated[str | None, _key("the walltime where none is asked for", _CLUSTERS)] = None
    gpus_per_node: Annotated[Gpus | None, _key("GPUs that a node has")] = None
    cpus_per_node: Annotated[Cores | None, _key("cores that a node has for jobs", _CLUSTERS)] = None
    mem_per_node: Annotated[str | None, _key("memory that a node has for jobs", _CLUSTERS)] = None
    cpus_per_rank: Annotated[Cores | None, _key("cores of each rank, and so of each GPU")] = None
    mem_per_gpu: Annotated[str | None, _key("memory of a node to ask for, for each of a job's GPUs", _CLUSTERS)] = None
    mem: Annotated[str | None, _key("memory of a node to ask for, whatever its GPUs", _CLUSTERS)] = None
    gpu: Annotated[str | None, _key("the GPU, a name for --gpu", _CLUSTERS)] = None
    gpu_memory_gib: Annotated[float | None, _key("its memory in GiB, if it has no such name", _CLUSTERS)] = None
    gpu_flag: Annotated[
        Literal["gpus-per-node", "gres", "none"], _key("how GPUs are asked for; none: not at all", _CLUSTERS)
    ] = "gpus-per-node"
    gpu_type: Annotated[str | None, _key("the type in that request: h100 of gpu:h100:4", _SLURM)] = None
    exclusive: Annotated[
        bool, _key("whether nodes are asked for whole (--exclusive, place=scatter:excl)", _CLUSTERS)
    ] = False
    whole_nodes: Annotated[
        bool, _key("whether a node is billed whole: all of its GPUs, cores and memory are asked for", _CLUSTERS)
    ] = False
    gpu_request: Annotated[
        Literal["select", "queue", "totals", "nodes"], _key("the grammar of the request (docs/pbs.md)", _PBS)
    ] = "select"
    account_flag: Annotated[Literal["-A", "-P", "-W group_list"], _key("the flag of the account", _PBS)] = "-A"
    chunk: Annotated[tuple[str, ...], _key("added to each chunk of select=", _PBS, "at submission")] = ()
    resources: Annotated[
        tuple[str, ...], _key("more -l lines, with {nodes} and {gpus} filled in", _PBS, "at submission")
    ] = ()
    directives: Annotated[
        tuple[str, ...],
        _key("more lines as after #SBATCH or #PBS, before those of --directive", _CLUSTERS, "at submission"),
    ] = ()
    queues: Annotated[
        dict[str, Queue],
        _key("tables [profiles.NAME.queues.QUEUE], of which a job gets the first that fits", _CLUSTERS),
    ] = {}
    launcher: Annotated[str | None, _key("what starts the ranks: a name for --launcher")] = None
    launcher_options: Annotated[tuple[str, ...], _key("more words of PBS's launcher", _PBS)] = ()
    srun_options: Annotated[tuple[str, ...], _key("more words of srun", _SLURM)] = ()
    cpu_bind: Annotated[str, _key("srun's --cpu-bind", _SLURM)] = "none"
    torchrun_options: Annotated[tuple[str, ...], _key("more words of torchrun")] = ()
    wrapper: Annotated[tuple[str, ...], _key("words before torchrun, or python, on each node")] = ()
    container: Annotated[Container | None, _key("the image that the ranks run in, a table (docs/containers.md)")] = None
    head_suffix: Annotated[str, _key("added to a host's name for the fast network", _CLUSTERS)] = ""
    head_command: Annotated[str | None, _key("prints, on the head, how nodes reach it", _CLUSTERS)] = None
    export_environment: Annotated[bool, _key("false is sbatch --export=NONE", _SLURM)] = True
    setup: Annotated[tuple[str, ...], _key("lines of shell, run first in the job, on its first node")] = ()
    node_setup: Annotated[tuple[str, ...], _key("lines of shell, run on each node before its ranks")] = ()
    env: Annotated[dict[str, str], _key("variables of the ranks", (), "on the node")] = {}
    secrets: Annotated[tuple[str, ...], _key("variables of the shell that submits, whose values no file shows")] = ()
    offline: Annotated[bool, _key("whether nodes have no internet: models must be here (vllm-hpc fetch)")] = False
    scratch: Annotated[str | None, _key("a folder of each node for temporary files and caches", (), "on the node")] = (
        None
    )
    python: Annotated[str | None, _key("the Python of the nodes, if not the one that submits", (), "at submission")] = (
        None
    )
    job_dir: Annotated[str | None, _key("where job folders are created", (), "at submission")] = None
    cache_dir: Annotated[
        str | None, _key("the shared cache: models, and vLLM's compiled code", (), "at submission")
    ] = None
    template_dir: Annotated[str | None, _key("a folder of templates, beside the file", (), "at submission")] = None
    engine: Annotated[dict[str, Any], _key("engine arguments of vLLM, as --engine")] = {}
    sampling: Annotated[dict[str, Any], _key("sampling parameters, as --sampling")] = {}
    max_requeues: Annotated[Requeues | None, _key("as --max-requeues")] = None
    drain_lead: Annotated[LeadSeconds | None, _key("as --drain-lead")] = None
