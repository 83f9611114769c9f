"""Checks a profile before jobs use it: its files, its queues, its cluster, and the script of a job in each queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.jobs.submit import prepare
from vllm_hpc.planner.resolve import find_site
from vllm_hpc.schedulers.ask_cluster import ask_cluster
from vllm_hpc.schedulers.check_templates import check_templates
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.containers.choose import check_is_there, choose_container
from vllm_hpc.schedulers.inventory import Inventory
from vllm_hpc.spec.errors import ProfileError, RefusedError, RequestError
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.profile import Profile, Queue
from vllm_hpc.spec.profile_layers import FoundProfile, find_profile
from vllm_hpc.spec.queues import in_queue, partition_of
from vllm_hpc.spec.show_profile import layer_names, missing_keys, unused_keys
from vllm_hpc.spec.values import parse_walltime
from vllm_hpc.spec.words import counted

# What stands in for a value that each job must give.
_STAND_INS = {"account": "ACCOUNT", "qos": "QOS", "time": "00:10:00", "mem": "1G"}
_MOST_NAMES = 20


class _Subject(NamedTuple):
    """The profile that is checked: as its files say, and with the variables of this shell."""

    name: str
    found: FoundProfile
    site: Profile


class Clusters:
    """What schedulers tell of this cluster, each asked once; a text where one cannot be asked."""

    def __init__(self) -> None:
        self._known: dict[str, Inventory | str] = {}

    def told_by(self, scheduler: str) -> Inventory | str:
        """The inventory, or why there is none."""
        if scheduler not in self._known:
            try:
                self._known[scheduler] = ask_cluster(scheduler)
            except (RequestError, ClientError) as error:
                self._known[scheduler] = str(error)
        return self._known[scheduler]


def check_profile(name: str, clusters: Clusters) -> list[Finding]:
    """All that can be found out here about that profile. Submits and writes nothing."""
    return [msgspec.structs.replace(one, where=name) for one in _findings(name, clusters)]


def _findings(name: str, clusters: Clusters) -> Iterator[Finding]:
    try:
        found = find_profile(name)
    except ProfileError as error:
        yield Finding("files", "fail", str(error))
        return
    yield Finding("files", "ok", "; ".join(layer_names(found)))
    try:
        found = find_site(name)
    except RefusedError as error:
        yield Finding("variables", "fail", str(error))
        return
    site = found.profile
    subject = _Subject(name, found, site)
    yield from _keys(subject)
    yield from _queues(site)
    yield from _cluster(site, clusters)
    yield from _here(site)
    yield from _templates(subject)
    yield from _scripts(subject)


def _keys(subject: _Subject) -> Iterator[Finding]:
    if missing := missing_keys(subject.site):
        yield Finding("required", "ok", f"each job must give: {', '.join(missing)}")
    if unused := unused_keys(subject.found):
        yield Finding(
            "keys",
            "warn",
            f"{subject.site.scheduler} does not use: {', '.join(unused)}",
            "take them out of the profile",
        )


def _queues(site: Profile) -> Iterator[Finding]:
    if not site.queues:
        return
    asked = [name for name, queue in site.queues.items() if queue.by_request]
    if len(asked) == len(site.queues) and not site.partition:
        yield Finding(
            "queues", "warn", "all have by_request: no job gets in without --queue", "take it from one of them"
        )
    names = [partition_of(site, name) for name in site.queues]
    if site.partition and site.partition not in (*site.queues, *names):
        yield Finding(
            "queues",
            "warn",
            f"partition {site.partition!r} has no table, and so no limits",
            "add its table, or take it out",
        )
    yield Finding("queues", "ok", f"{counted(len(names), 'table')}, {len(asked)} only by request")


def _cluster(site: Profile, clusters: Clusters) -> Iterator[Finding]:
    """What the cluster says of the profile's partitions, where it can be asked."""
    if site.scheduler in (None, "local"):
        return
    told = clusters.told_by(site.scheduler)
    if isinstance(told, str):
        yield Finding("cluster", "skip", told)
        return
    faults = list(_against(site, told))
    yield from faults
    if not faults:
        yield Finding("cluster", "ok", f"{told.said_by} of {told.name} has the partitions, with these limits and GPUs")


def _against(site: Profile, told: Inventory) -> Iterator[Finding]:
    tables = {name: partition_of(site, name) for name in site.queues}
    if site.partition and site.partition not in (*tables, *tables.values()):
        tables[site.partition] = site.partition
    for name, partition in tables.items():
        if partition and partition not in told.partitions:
            has = ", ".join(told.partitions[:_MOST_NAMES])
            advice = f"the cluster has {has}{' ...' if len(told.partitions) > _MOST_NAMES else ''}"
            yield Finding("cluster", "fail", f"queue {name}: there is no partition {partition!r}", advice)
        elif partition in told.left_out:
            yield Finding("cluster", "warn", f"queue {name}: {told.left_out[partition]}")
        elif name in site.queues:
            there = [one.queue for one in told.queues if (one.queue.partition or one.name) == partition]
            yield from _limits(name, site.queues[name], in_queue(site, name), there)


def _limits(name: str, queue: Queue, site: Profile, there: list[Queue]) -> Iterator[Finding]:
    """Where the table promises more than the cluster's partition takes, or other GPUs."""
    most = max((one.max_nodes for one in there if one.max_nodes), default=None)
    if most and queue.max_nodes and queue.max_nodes > most:
        yield _more(name, "max_nodes", queue.max_nodes, most)
    longest = [one.max_time for one in there if one.max_time]
    limit = max(longest, key=parse_walltime, default=None) if len(longest) == len(there) else None
    if limit and queue.max_time and parse_walltime(queue.max_time) > parse_walltime(limit):
        yield _more(name, "max_time", queue.max_time, limit)
    gpus = {one.gpus_per_node for one in there if one.gpus_per_node}
    if gpus and site.gpus_per_node and site.gpus_per_node > max(gpus):
        yield _more(name, "gpus_per_node", site.gpus_per_node, max(gpus))
    types = {one.gpu_type for one in there if one.gpu_type}
    if there and site.gpu_type and site.gpu_type not in types:
        has = " or ".join(sorted(types)) or "none"
        yield Finding("cluster", "fail", f"queue {name}: gpu_type is {site.gpu_type}, and the cluster has {has}")


def _more(name: str, key: str, says: object, has: object) -> Finding:
    found = f"queue {name}: {key} is {says}, and the cluster's is {has}"
    return Finding("cluster", "warn", found, f"set {key} to {has}")


def _here(site: Profile) -> Iterator[Finding]:
    """What the profile names that must be on this machine."""
    yield from _container(site)
    if site.python and not Path(site.python).expanduser().exists():
        yield Finding("python", "warn", f"there is no {site.python!r} here", "it must be there on the nodes")
    if site.template_dir:
        yield Finding(
            "templates", "ok", site.template_dir, "vllm-hpc templates check tries them with all kinds of jobs"
        )


def _container(site: Profile) -> Iterator[Finding]:
    """Whether its image and its bundle are here, as submit asks."""
    try:
        container = choose_container(None, site.container)
        if container is not None:
            check_is_there(container)
            yield Finding("container", "ok", f"{container.image}, for {container.runtime}")
    except RefusedError as error:
        yield Finding("container", "fail", str(error))


def _templates(subject: _Subject) -> Iterator[Finding]:
    """What is wrong with the profile's templates, tried with all kinds of jobs in its first queue."""
    site, name = subject.site, next(iter(subject.site.queues), None)
    try:
        folders = list(subject.found.template_dirs)
        if not folders:
            return
        checked = check_templates(folders, in_queue(site, name) if name else site)
    except RefusedError as error:
        yield Finding("templates", "fail", str(error))
        return
    for one in checked.findings:
        template = f"{one.where}: " if one.where else ""
        yield Finding("templates", one.status, f"{template}{one.found}", one.advice)
    if checked.is_good:
        yield Finding("templates", "ok", f"{counted(checked.scripts, 'script')} of {', '.join(folders)}")


def _scripts(subject: _Subject) -> Iterator[Finding]:
    """Whether the script of a rehearsal in each queue can be made."""
    site = subject.site
    unknown = [name for name in missing_keys(site) if name not in _STAND_INS]
    if unknown:
        yield Finding("script", "skip", f"only jobs give: {', '.join(unknown)}", "vllm-hpc render shows a job's script")
        return
    given = {name: _STAND_INS[name] for name in missing_keys(site)}
    made = 0
    for name in site.queues or [None]:
        queue = site.queues[name] if name else Queue()
        try:
            prepare(**_rehearsal(subject, name, queue), **given)
            made += 1
        except RefusedError as error:
            where = f"queue {name}: " if name else ""
            yield Finding("script", "fail", f"{where}{error}")
    if made:
        yield Finding("script", "ok", f"{counted(made, 'rehearsal')} can be submitted")


def _rehearsal(subject: _Subject, queue_name: str | None, queue: Queue) -> dict[str, Any]:
    site = in_queue(subject.site, queue_name) if queue_name else subject.site
    layout = {"nodes": queue.min_nodes or 1}
    if site.gpus_per_node is None:
        layout["gpus_per_node"] = 1
    return {"rehearse": True, "profile": subject.name, "partition": queue_name, **layout}
