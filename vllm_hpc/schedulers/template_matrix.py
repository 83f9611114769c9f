"""The sample jobs that a template is tried with: every launcher, arrays, one and two nodes, every grammar of requests.

With a profile it is that profile's launcher and grammar, and each job is in the queue that would take it.
``--launcher native`` changes no script.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.containers.choose import choose_image
from vllm_hpc.schedulers.launchers import get_launcher
from vllm_hpc.schedulers.lifecycle import lifecycle_text
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.script import make_context
from vllm_hpc.schedulers.script_context import ScriptContext
from vllm_hpc.spec.container import Container
from vllm_hpc.spec.errors import RefusedError
from vllm_hpc.spec.job_definition import Given
from vllm_hpc.spec.kubernetes import Kubernetes, Volume
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.queues import in_queue, misfit, queues_called
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.resolved_job import Model, ResolvedJob, fill
from vllm_hpc.spec.values import parse_walltime

_NAME, _FOLDERS, _IMAGE = "sample", "/scratch/runs", "vllm/vllm-openai"
# What a template must quote: in a folder's name, and in a variable.
_ODD_NAME, _ODD_VALUE = 'it\'s $(a) "sample"', 'it\'s $(a) `b` "c" & d'
# Of a node of the sample, unless the profile has its own.
_GPUS, _CORES = 4, 32
_TIME = "1:00:00"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One sample job: ``words`` say what is special about it, ``site`` is the profile with that, in the job's queue.

    ``is_in_limits``: whether a queue of the profile takes a job of that size. ``cores``: of each rank, if the
    profile does not say it.
    """

    scheduler: str
    launcher: str
    nodes: int = 1
    is_array: bool = False
    is_odd: bool = False
    words: tuple[str, ...] = ()
    site: Profile = Profile()
    queue: str = ""
    time: str = _TIME
    is_in_limits: bool = True
    cores: int | None = _CORES // _GPUS

    def __str__(self) -> str:
        nodes = "2 nodes" if self.nodes > 1 else "1 node"
        more = [*(["an array"] if self.is_array else []), *self.words, *(["names with quotes"] if self.is_odd else [])]
        queue = [f"queue {self.queue}"] if self.queue else []
        return ", ".join([self.scheduler, self.launcher, nodes, *queue, *more])


class _Place(NamedTuple):
    """The profile in the queue of a job, and the walltime that the job asks for there."""

    site: Profile
    queue: str = ""
    time: str = _TIME
    is_in_limits: bool = True


def sample_cases(scheduler: str, profile: Profile | None = None) -> list[Case]:
    """All cases of a scheduler; with a profile, those of its values. What the scheduler refuses is left out."""
    site = profile or Profile()
    launchers = get_scheduler(scheduler).launchers
    chosen = [site.launcher] if site.launcher in launchers or _is_added(site.launcher, scheduler) else launchers
    runs_here = get_scheduler(scheduler).runs_here
    layouts = [(1, False)] if runs_here else list(product((1, 2), (False, True)))
    # Slurm has a default, and a profile's nodes may not have as many as the sample's.
    cores = None if profile and scheduler == "slurm" else _CORES // _GPUS
    cases = []
    for launcher, (nodes, is_array) in product(chosen, layouts):
        place = _Place(site) if runs_here else _place(site, nodes, is_array)
        for words, variant in [((), site)] if runs_here else _variants(scheduler, place.site, profile is not None):
            cases.append(
                Case(
                    scheduler=scheduler, launcher=str(launcher), nodes=nodes, is_array=is_array, words=words,
                    site=variant, queue=place.queue, time=place.time, is_in_limits=place.is_in_limits,
                    cores=cores,
                )
            )  # fmt: skip
    taken = [case for case in cases if _is_taken(case)] or cases[:1]
    return [*taken, msgspec.structs.replace(taken[-1], is_odd=True)]


def sample_case(scheduler: str, profile: Profile | None, nodes: int) -> Case:
    """One case: of a profile, or of the scheduler's own defaults."""
    cases = sample_cases(scheduler, profile)
    return next((case for case in cases if case.nodes == nodes), cases[0])


def sample_context(case: Case) -> ScriptContext:
    """What a template is given for a case."""
    job = _job(case)
    folder = JobFolder(f"{_FOLDERS}/{_ODD_NAME if case.is_odd else _NAME}")
    return make_context(job, _layout(case.site, case.nodes, case.is_array), folder, lifecycle_text())


def _place(site: Profile, nodes: int, is_array: bool) -> _Place:
    """Where submit sends such a job: to the profile's partition, or the first queue that takes it.

    Those by request are last; if none takes it, it is the first of them all.
    """
    named = queues_called(site, site.partition) if site.partition else []
    others = sorted((name for name in site.queues if name not in named), key=lambda name: site.queues[name].by_request)
    places = [_in_queue(site, name, nodes, is_array) for name in (*named, *others)]
    return next((one for one in places if one.is_in_limits), places[0] if places else _Place(site, time=_time(site)))


def _in_queue(site: Profile, name: str, nodes: int, is_array: bool) -> _Place:
    queue, own = site.queues[name], in_queue(site, name)
    time = _time(own, queue.max_time)
    takes = misfit(queue, _layout(own, nodes, is_array), time, (None, own.gpu)) is None
    return _Place(own, name, time, takes)


def _time(site: Profile, longest: str | None = None) -> str:
    """The walltime of a sample job: the profile's if it has one, never more than the queue's longest."""
    time = site.time or _TIME
    return longest if longest and parse_walltime(longest) < parse_walltime(time) else time


def _is_added(launcher: str | None, scheduler: str) -> bool:
    """Whether a profile's launcher is another package's, for that scheduler."""
    return launcher not in (None, "native") and scheduler in get_launcher(str(launcher)).schedulers


def _is_taken(case: Case) -> bool:
    try:
        get_scheduler(case.scheduler).check_request(_job(case), _layout(case.site, case.nodes, case.is_array))
    except RefusedError:
        return False
    return True


def _variants(scheduler: str, site: Profile, is_given: bool) -> Iterator[tuple[tuple[str, ...], Profile]]:
    """The profile in the grammars that the scheduler has, and with a container."""
    yield (), site
    if get_scheduler(scheduler).describe_pods is not None:
        cluster = site.kubernetes or Kubernetes()
        other = "trainjob" if cluster.api == "pytorchjob" else "pytorchjob"
        if not is_given:
            changed = msgspec.structs.replace(cluster, api=other, priority_class=None, image_pull_policy=None)
            yield from _changed(site, f"api = {other}", kubernetes=changed)
        return
    if site.container is None:
        yield from _changed(site, "a container", container=Container(runtime="apptainer", image="/images/vllm.sif"))
    if is_given:
        return
    yield from _changed(site, "exclusive", exclusive=True)
    key = {"slurm": "gpu_flag", "pbs": "gpu_request"}.get(scheduler)
    for value in get_args(_type_of(key)) if key else ():
        if value != getattr(site, str(key)):
            yield from _changed(site, f"{key} = {value}", **{str(key): value})


def _type_of(key: str) -> Any:
    return get_type_hints(Profile)[key]


def _changed(site: Profile, words: str, **changes: Any) -> Iterator[tuple[tuple[str, ...], Profile]]:
    yield (words,), msgspec.structs.replace(site, **changes)


def _layout(site: Profile, nodes: int, is_array: bool) -> Layout:
    gpus = site.gpus_per_node or _GPUS
    dp = 2 if is_array else 1
    return Layout(nodes, gpus, gpus, nodes * gpus, 1, dp, is_array)


def _in_pods(site: Profile) -> Profile:
    """The profile with an image, and with a volume that has the sample's folder."""
    cluster = site.kubernetes or Kubernetes()
    volumes = {**cluster.volumes, "sample": Volume(claim="sample", mount=_FOLDERS)}
    return msgspec.structs.replace(
        site,
        kubernetes=msgspec.structs.replace(cluster, volumes=volumes),
        container=choose_image(None, site.container or Container(image=_IMAGE), "kubernetes"),
    )


def _job(case: Case) -> ResolvedJob:
    asked = {
        "model": "demo", "scheduler": case.scheduler, "launcher": case.launcher, "time": case.time, "name": _NAME,
        "env": {"SAMPLE": _ODD_VALUE if case.is_odd else "1"},
        **({} if case.site.cpus_per_rank or case.site.cpus_per_node else {"cpus_per_rank": case.cores}),
    }  # fmt: skip
    site = _in_pods(case.site) if get_scheduler(case.scheduler).describe_pods else case.site
    filled = fill(Given(msgspec.convert(asked, Request)), site)
    return ResolvedJob(
        request=filled.request,
        site=site,
        origins=filled.origins,
        from_profile=filled.from_profile,
        site_env=filled.site_env,
        scheduler=case.scheduler,
        scheduler_reason="a sample",
        runs_here=get_scheduler(case.scheduler).runs_here,
        launcher=case.launcher,
        is_native=False,
        device=None,
        model=Model("demo", "demo"),
    )
