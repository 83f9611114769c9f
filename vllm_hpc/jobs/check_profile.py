"""Checks a profile before jobs use it: its files, its queues, its cluster, and the script of a job in each queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.jobs.check_cluster import Clusters, check_cluster
from vllm_hpc.jobs.submit import Prepared, prepare
from vllm_hpc.planner.resolve import find_site
from vllm_hpc.schedulers.check_templates import check_templates
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.containers.choose import check_is_there, choose_container, choose_image
from vllm_hpc.schedulers.scheduler import installed_scheduler
from vllm_hpc.schedulers.slurm.try_script import try_script
from vllm_hpc.spec.errors import ProfileError, RefusedError
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.profile import Profile, Queue
from vllm_hpc.spec.profile_layers import FoundProfile, find_profile
from vllm_hpc.spec.queues import in_queue, partition_of
from vllm_hpc.spec.show_profile import layer_names, missing_keys, unused_keys
from vllm_hpc.spec.words import counted

# What stands in for a value that each job must give.
_STAND_INS = {"account": "ACCOUNT", "qos": "QOS", "time": "00:10:00", "mem": "1G"}
# Of these, what sbatch must know to try a script: a stand-in is nobody's.
_NAMES = ("account", "qos")


class _Subject(NamedTuple):
    """The profile that is checked: as its files say, and with the variables of this shell."""

    name: str
    found: FoundProfile
    site: Profile


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
    yield from check_cluster(site, clusters)
    yield from _here(site)
    yield from _templates(subject)
    yield from _scripts(subject, clusters)


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
    scheduler = installed_scheduler(site.scheduler) if site.scheduler else None
    try:
        if scheduler is not None and scheduler.describe_pods is not None:
            yield Finding("container", "ok", f"{choose_image(None, site.container, scheduler.name).image}, for pods")
            return
        container = choose_container(None, site.container)
        if container is not None:
            check_is_there(container)
            yield Finding("container", "ok", f"{container.image}, for {container.runtime}")
    except RefusedError as error:
        yield Finding("container", "fail", str(error))


def _templates(subject: _Subject) -> Iterator[Finding]:
    """What is wrong with the profile's templates, tried with all kinds of jobs in the queue that takes each."""
    try:
        folders = list(subject.found.template_dirs)
        if not folders:
            return
        checked = check_templates(folders, subject.site)
    except RefusedError as error:
        yield Finding("templates", "fail", str(error))
        return
    for one in checked.findings:
        template = f"{one.where}: " if one.where else ""
        yield Finding("templates", one.status, f"{template}{one.found}", one.advice)
    if checked.is_good:
        yield Finding("templates", "ok", f"{counted(checked.scripts, 'script')} of {', '.join(folders)}")


def _scripts(subject: _Subject, clusters: Clusters) -> Iterator[Finding]:
    """Whether the script of a rehearsal in each queue can be made, and what sbatch says of it."""
    site = subject.site
    unknown = [name for name in missing_keys(site) if name not in _STAND_INS]
    if unknown:
        yield Finding("script", "skip", f"only jobs give: {', '.join(unknown)}", "vllm-hpc render shows a job's script")
        return
    given = {name: _STAND_INS[name] for name in missing_keys(site)}
    made: dict[str, Prepared] = {}
    for name in site.queues or [None]:
        queue = site.queues[name] if name else Queue()
        try:
            made[name or ""] = prepare(**_rehearsal(subject, name, queue), **given)
        except RefusedError as error:
            yield Finding("script", "fail", f"{_where(name)}{error}")
    if made:
        why = _why_untried(site, next(iter(made.values())).scheduler, clusters)
        yield from _rendered(len(made), why) if why else _tried(site, made)


def _where(queue: str | None) -> str:
    return f"queue {queue}: " if queue else ""


def _why_untried(site: Profile, scheduler: str, clusters: Clusters) -> str:
    """Why sbatch cannot be asked whether it would take a script; empty if it can."""
    if scheduler != "slurm":
        return f"{scheduler} cannot try a script"
    if names := [name for name in missing_keys(site) if name in _NAMES]:
        return f"only jobs give: {', '.join(names)}"
    return told if isinstance(told := clusters.told_by(scheduler), str) else ""


def _rendered(scripts: int, why: str) -> Iterator[Finding]:
    made = f"{counted(scripts, 'script')} {'renders' if scripts == 1 else 'render'}"
    yield Finding("script", "ok", f"{made}, none was tried with the scheduler: {why}")


def _tried(site: Profile, made: dict[str, Prepared]) -> Iterator[Finding]:
    """What sbatch says of each script; of a queue by request, which may be others', a refusal is a warning."""
    taken = 0
    for name, prepared in made.items():
        try:
            refusal = try_script(prepared.script)
        except ClientError as error:
            yield from _rendered(len(made) - taken, str(error))
            return
        if refusal is None:
            taken += 1
            continue
        is_for_some = bool(name) and site.queues[name].by_request
        words = f"{_where(name)}sbatch --test-only refuses the script: {refusal.words}"
        yield Finding("script", "warn" if is_for_some else "fail", words, refusal.advice)
    if taken:
        yield Finding("script", "ok", f"{counted(taken, 'rehearsal')} can be submitted, says sbatch --test-only")


def _rehearsal(subject: _Subject, queue_name: str | None, queue: Queue) -> dict[str, Any]:
    site = in_queue(subject.site, queue_name) if queue_name else subject.site
    layout = {"nodes": queue.min_nodes or 1}
    if site.gpus_per_node is None:
        layout["gpus_per_node"] = 1
    return {"rehearse": True, "profile": subject.name, "partition": queue_name, **layout}
