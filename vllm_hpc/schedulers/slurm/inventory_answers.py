"""What sinfo and scontrol print of partitions, nodes and the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from vllm_hpc.schedulers.client import Ask
from vllm_hpc.schedulers.inventory import NodeKind
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import parse_walltime

Fields = Mapping[str, str]
_FIELD = re.compile(r"(?:^|\s)([A-Za-z]\w*)=(\S*)")
_SETTING = re.compile(r"^(\w[\w\[\]]*)\s*=\s*(.*?)\s*$", re.MULTILINE)
_GPU = re.compile(r"(?:^|,)gpu(?::(?P<type>[^:,(]+))??(?::no_consume)?:(?P<count>\d{1,4})(?=[,(\s]|$)")
# A slice of a GPU: a100_3g.20gb, nvidia_h100_80gb_hbm3_1g.10gb. Ranks on slices cannot reach one another (NCCL).
_MIG = re.compile(r"(?<!\d)\d+g\.\d+gb", re.IGNORECASE)
_OUT_OF_SERVICE = re.compile(r"down|drain|fail|maint|inval", re.IGNORECASE)
_UNLIMITED = ("", "UNLIMITED", "INFINITE", "NONE", "N/A", "(null)")
_BOUNDS = re.compile(r"\[(\w+)[^\]]*\]")


class NodeGroup(NamedTuple):
    """A line of sinfo: like nodes of a partition, in one state. ``sample`` is the name of one."""

    partition: str
    kind: NodeKind
    kinds: tuple[NodeKind, ...]
    has_slices: bool
    sample: str


def first_host(hosts: str) -> str:
    """The first name of a list in Slurm's short form: ``nid[001000,001004-001007]`` begins with nid001000."""
    depth, end = 0, len(hosts)
    for place, character in enumerate(hosts):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            end = place
            break
    return _BOUNDS.sub(lambda found: found[1].partition("-")[0], hosts[:end])


def parse_config(text: str) -> dict[str, str]:
    """``scontrol show config``."""
    return dict(_SETTING.findall(text))


def ask_partitions(ask: Ask) -> list[Fields]:
    """The partitions, hidden ones too, in Slurm's order. Raises ClientError."""
    return parse_partitions(ask(["scontrol", "--all", "--oneliner", "show", "partition"]))


def parse_partitions(text: str) -> list[Fields]:
    """Lines of ``scontrol --oneliner show partition``, in its order."""
    found = [_fields(line) for line in text.splitlines()]
    return [fields for fields in found if fields.get("PartitionName")]


def parse_nodes(text: str) -> dict[str, Fields]:
    """Lines of ``scontrol --oneliner show node``, by name."""
    found = [_fields(line) for line in text.splitlines()]
    return {fields["NodeName"]: fields for fields in found if "NodeName" in fields}


def _fields(line: str) -> dict[str, str]:
    """The fields of a line. The first of a name counts: a node's Reason, at the end, may be any text."""
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(line):
        fields.setdefault(name, value)
    return fields


def parse_sinfo(text: str, nodes: Mapping[str, Fields]) -> list[NodeGroup]:
    """Lines of sinfo, with what is known of a node of each kind."""
    samples = {_kind_key(fields): fields for fields in nodes.values()}
    return [group for line in text.splitlines() if (group := _group(line.strip(), samples))]


def _kind_key(node: Fields) -> tuple[str, str, str]:
    return node.get("CPUTot", ""), node.get("RealMemory", ""), node.get("Gres", "")


def _group(line: str, samples: Mapping[tuple[str, str, str], Fields]) -> NodeGroup | None:
    parts = line.split("|")
    if len(parts) != 8 or not parts[1].isdigit() or not int(parts[1]):
        return None
    partition, count, cpus, memory, gres, state, features, hosts = parts
    node = samples.get((cpus, memory, gres), {})
    cores = number(node.get("CPUEfctv", "")) or number(cpus)
    kind = NodeKind(
        nodes=int(count),
        cores=cores,
        memory_mb=max(0, number(memory) - number(node.get("MemSpecLimit", ""))),
        unavailable=int(count) if _OUT_OF_SERVICE.search(state) else 0,
        words=frozenset(word for word in re.split(r"[,&|]", features) if word and word != "(null)"),
    )
    found = [(match["type"] or "", int(match["count"])) for match in _GPU.finditer(gres)]
    whole = [(name, number) for name, number in found if number and not _MIG.search(name)]
    kinds = tuple(_with_gpus(kind, name, number) for name, number in whole)
    return NodeGroup(partition, kind, kinds, len(whole) < len(found), first_host(hosts))


def _with_gpus(kind: NodeKind, gpu_type: str, gpus: int) -> NodeKind:
    return msgspec.structs.replace(kind, gpus=gpus, gpu_type=gpu_type)


def number(text: str) -> int:
    """A number as sinfo prints it (515000, 515000+); 0 for anything else."""
    match = re.fullmatch(r"(\d{1,12})\+?", text)
    return int(match[1]) if match else 0


def seconds_of(text: str) -> int:
    """A walltime in seconds; 0 where there is no limit."""
    try:
        return 0 if text in _UNLIMITED else parse_walltime(text)
    except RequestError:
        return 0
