"""What ``qstat -Q``, ``qstat -B`` and ``pbsnodes`` print, in JSON or plain, as queues' fields and as hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vllm_hpc.schedulers.client import Ask
from vllm_hpc.schedulers.inventory import NodeKind
from vllm_hpc.schedulers.pbs.nodes import OUT_OF_SERVICE, count, mebibytes
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.values import parse_walltime

Fields = dict[str, Any]
_AS_JSON = ["-F", "json"]
_HEADER = re.compile(r"(?:Queue|Server): (\S+)|(\S+)")
_VALUE = re.compile(r"\s+([\w.]+) = (.*)")
# Names that sites give to the resource that says which GPU a node has.
_GPU_TYPE = re.compile(r"(n?gpu_?(type|model|name|card)|accel\w*(type|model))s?", re.IGNORECASE)
# An amount, as opposed to a site's word: 487gb, 64, 01:00:00.
AMOUNT = re.compile(r"\d+[kmgtp]?[bw]?|\d+(:\d+)+", re.IGNORECASE)
_IS_WHOLE = re.compile(r"(default|force)_excl(host)?")


class Host(NamedTuple):
    """What the vnodes of a host have together; ``has``: resources that are texts, as Qlist, and what each may be."""

    kind: NodeKind
    queues: frozenset[str]
    has: Mapping[str, frozenset[str]]
    is_whole: bool


def ask_queues(ask: Ask) -> dict[str, Fields]:
    """The queues, by name. Raises ClientError."""
    return ask_table(ask, ["qstat", "-Q", "-f"], "Queue")


def ask_servers(ask: Ask) -> dict[str, Fields]:
    """The server, by its name. Raises ClientError."""
    return ask_table(ask, ["qstat", "-B", "-f"], "Server")


def ask_hosts(ask: Ask) -> list[Host]:
    """The hosts. Raises ClientError."""
    return parse_hosts(ask_table(ask, ["pbsnodes", "-a", "-v"], "nodes"))


def ask_table(ask: Ask, argv: list[str], table: str) -> dict[str, Fields]:
    """What a client tells, by name. PBS before 20.0 prints JSON that is none (pbs/qstat.py): then, its plain form."""
    try:
        answer = json.loads(ask([*argv, *_AS_JSON]), strict=False)
        found = answer.get(table, {})
        return {str(name): fields for name, fields in found.items() if isinstance(fields, dict)}
    except (ValueError, RecursionError, AttributeError):
        return parse_plain(ask(argv))


def parse_plain(text: str) -> dict[str, Fields]:
    """The plain form: a name at the start of a line, its values below; a long one goes on after a tab."""
    found: dict[str, Fields] = {}
    fields: Fields = {}
    place: Fields = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("\t") and last:
            place[last] += line.strip()
        elif match := _VALUE.fullmatch(line):
            group, _, last = match[1].rpartition(".")
            place = fields.setdefault(group, {}) if group else fields
            place[last] = match[2]
        elif match := _HEADER.fullmatch(line):
            fields = found.setdefault(match[1] or match[2], {})
            last = ""
    return found


def parse_hosts(nodes: Mapping[str, Fields]) -> list[Host]:
    """The hosts of pbsnodes' vnodes, in its order."""
    hosts: dict[str, Host] = {}
    for name, vnode in nodes.items():
        has = vnode.get("resources_available")
        if not isinstance(has, dict):
            continue
        one = _host(vnode, has)
        key = str(has.get("host", name))
        hosts[key] = _together(hosts[key], one) if key in hosts else one
    return [host for host in hosts.values() if host.kind.cores]


def _host(vnode: Fields, has: Fields) -> Host:
    texts = {
        name: frozenset(part.strip() for part in value.split(","))
        for name, value in has.items()
        if isinstance(value, str) and name not in ("host", "vnode", "arch") and not AMOUNT.fullmatch(value)
    }
    types = sorted(one for name, values in texts.items() if _GPU_TYPE.fullmatch(name) for one in values if one)
    gpus = count(has, "ngpus")
    kind = NodeKind(
        nodes=1,
        gpus=gpus,
        gpu_type=types[0].lower() if types and gpus else "",
        cores=count(has, "ncpus"),
        memory_mb=mebibytes(has),
        unavailable=int(bool(OUT_OF_SERVICE.search(str(vnode.get("state", ""))))),
    )
    queues = frozenset([str(vnode["queue"])]) if "queue" in vnode else frozenset[str]()
    return Host(kind, queues, texts, bool(_IS_WHOLE.fullmatch(str(vnode.get("sharing", "")))))


def _together(one: Host, other: Host) -> Host:
    a, b = one.kind, other.kind
    kind = NodeKind(
        nodes=1,
        gpus=a.gpus + b.gpus,
        gpu_type=a.gpu_type or b.gpu_type,
        cores=a.cores + b.cores,
        memory_mb=a.memory_mb + b.memory_mb,
        unavailable=max(a.unavailable, b.unavailable),
    )
    has = {name: one.has.get(name, frozenset()) | other.has.get(name, frozenset()) for name in {*one.has, *other.has}}
    return Host(kind, one.queues | other.queues, has, one.is_whole and other.is_whole)


def clock(value: Any) -> str:
    """A walltime of PBS, HH:MM:SS or seconds, as --time takes it; empty for anything else."""
    text = str(value or "")
    if text.isascii() and text.isdigit():
        seconds = int(text)
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}" if len(text) < 9 else ""
    try:
        parse_walltime(text)
    except RequestError:
        return ""
    return text


def table_of(fields: Fields, name: str) -> Fields:
    """A table of the fields, as resources_max; empty where there is none."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def destinations(fields: Fields) -> list[str]:
    """The queues that a routing queue passes jobs on to, in its order."""
    named = str(fields.get("route_destinations", "")).split(",")
    return [one.strip().partition("@")[0] for one in named if one.strip()]
