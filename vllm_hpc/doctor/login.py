"""What this machine, from which jobs are submitted, can tell before a job is: nothing is submitted, nothing stays."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vllm_hpc.doctor.accounts import judge_accounts
from vllm_hpc.doctor.expected import own_versions
from vllm_hpc.doctor.judge_nodes import judge_writes
from vllm_hpc.doctor.queues import ASKED, judge_queue
from vllm_hpc.doctor.runtimes import program_of
from vllm_hpc.jobfolder.file_system import check_file_system
from vllm_hpc.jobfolder.timed_writes import free_gib, time_writes
from vllm_hpc.jobs.submit import Prepared, prepare_untuned
from vllm_hpc.planner.models import demo
from vllm_hpc.planner.models.cached import why_not_cached
from vllm_hpc.planner.models.find import find_model
from vllm_hpc.planner.models.hub import find_config
from vllm_hpc.planner.models.weight_files import lacks_weights
from vllm_hpc.planner.resolve import check_is_here
from vllm_hpc.schedulers.client import ClientError, call_client
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.submitit_executor import check_installed, check_torch
from vllm_hpc.spec.errors import LayoutError, ModelError, RequestError, TemplateError
from vllm_hpc.spec.finding import Finding, refused
from vllm_hpc.spec.host_path import HostPath, path_of_image, path_of_model
from vllm_hpc.spec.model_cache import find_snapshot, hub_cache, revision_of
from vllm_hpc.spec.resolved_job import Model, ResolvedJob
from vllm_hpc.spec.values import as_path, parse_walltime
from vllm_hpc.spec.write_file import open_new

# Seconds that the file system's clock may differ from this machine's.
_SKEW_S = 2.0
# What clients say of a server that is down, or that they do not reach.
_DOWN = re.compile(r"contact|connect|not respond|unknown host", re.IGNORECASE)
# What a job cannot be submitted without.
NEEDED = frozenset({"environment", "scheduler", "partition", "account", "qos", "job-dir", "script", "test-only"})


class Looked(msgspec.Struct, frozen=True):
    """What was found here. ``prepared``: the job of the check, None if it cannot be rendered; ``model``: MODEL here."""

    findings: tuple[Finding, ...]
    prepared: Prepared | None
    model: HostPath | None


def look_here(job: ResolvedJob, model: str | None) -> Looked:
    """Check what can be checked here. ``job`` is the rehearsal that stands for the user's job, ``model`` their MODEL.

    Raises RefusedError for options that contradict each other.
    """
    findings = [*_environment(), *_profile(job), *_job_dir(job)]
    prepared, said = _prepare(job)
    findings += [said, *_scheduler(job, prepared)]
    seen: HostPath | None = None
    if model is not None:
        seen, said = _model(job, model)
        findings.append(said)
    return Looked((*findings, *_container(job)), prepared, seen)


def look_without_job(error: LayoutError) -> Looked:
    """What is left to check where no queue of the profile takes the job."""
    return Looked((*_environment(), refused("queue", error)), None, None)


def _environment() -> Iterator[Finding]:
    yield Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in own_versions().items()))
    try:
        check_installed()
        check_torch()
    except RequestError as error:
        # What it says of --rehearse is what doctor's job is.
        yield Finding("environment", "fail", str(error).partition(": ")[0], str(error).partition(": ")[2])


def _profile(job: ResolvedJob) -> Iterator[Finding]:
    if job.request.profile is not None:
        said = "; ".join(filter(None, (job.source, job.news, job.queue_reason)))
        yield Finding("profile", "ok", said or repr(job.request.profile))


def _job_dir(job: ResolvedJob) -> Iterator[Finding]:
    """The file system of the job folder: owners, modes, speed and clock, in a folder that is removed."""
    parent = as_path(job.request.job_dir, "--job-dir").absolute()
    there = next(one for one in (parent, *parent.parents) if one.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".vllm-hpc-doctor-", dir=there) as name:
            folder = Path(name)
            check_file_system(folder)
            writes, free = time_writes(folder), free_gib(folder)
            skew = _skew(folder)
    except RequestError as error:
        yield Finding("job-dir", "fail", str(error).partition(": ")[0], "choose another --job-dir")
        return
    except OSError as error:
        words = f"{str(there)!r} cannot be written to: {error.strerror or error}"
        yield Finding("job-dir", "fail", words, "choose another --job-dir")
        return
    yield judge_writes(writes.median_s, writes.worst_s, free)
    words = f"files of {str(there)!r} are dated {abs(skew):.2f} s {'ahead of' if skew > 0 else 'behind'} this clock"
    if abs(skew) > _SKEW_S:
        yield Finding("clock", "warn", words, "tell the site: ages of files are wrong")
    else:
        yield Finding("clock", "ok", words)


def _skew(folder: Path) -> float:
    """How far the file system's clock is ahead of this one's, in seconds."""
    before = time.time()
    (folder / "now").mkdir()
    return (folder / "now").stat().st_mtime - (before + time.time()) / 2


def _prepare(job: ResolvedJob) -> tuple[Prepared | None, Finding]:
    """Render the script, as submit does."""
    try:
        prepared = prepare_untuned(job)
    except TemplateError as error:
        return None, Finding("script", "fail", str(error), "correct the template, or leave --template-dir out")
    where = f"with the templates of {', '.join(job.template_dirs)}" if job.template_dirs else "as packaged"
    return prepared, Finding("script", "ok", f"renders, {where}")


def _scheduler(job: ResolvedJob, prepared: Prepared | None) -> Iterator[Finding]:
    """Whether the scheduler answers, and takes such a job."""
    try:
        check_is_here(job)
        get_scheduler(job.scheduler).check_client()
        queue = _queue(job, prepared)
    except RequestError as error:
        yield Finding("scheduler", "fail", str(error), "run this on a login node of the cluster")
        return
    except ClientError as error:
        yield Finding("scheduler", "fail", str(error), "run this on a login node, while the scheduler is up")
        return
    yield Finding("scheduler", "ok", f"{job.scheduler} ({job.scheduler_reason})")
    yield from queue
    if job.scheduler == "slurm":
        yield from judge_accounts(call_client, job.request.account, job.request.qos)
        if prepared is not None:
            yield _test_only(prepared)


def _queue(job: ResolvedJob, prepared: Prepared | None) -> list[Finding]:
    """Whether the partition or queue takes the job. Raises ClientError if the scheduler does not answer."""
    if job.scheduler not in ASKED:
        return []
    try:
        queues = ASKED[job.scheduler](call_client)
    except ClientError as error:
        if error.code is None or _DOWN.search(str(error)):
            raise
        return [Finding("partition", "skip", f"not looked up: {error}")]
    nodes = prepared.plan.layout.nodes if prepared else job.request.nodes or 1
    time_s = parse_walltime(job.request.time) if job.request.time else None
    return [judge_queue(queues, job.request.partition, nodes, time_s)]


def _test_only(prepared: Prepared) -> Finding:
    """Have Slurm say whether it would take the script; it is not submitted."""
    scheduler = get_scheduler(prepared.scheduler)
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-doctor-") as name:
        script = Path(name) / scheduler.script
        with open_new(script, 0o600) as out:
            out.write(prepared.script.encode())
        argv = scheduler.submit_argv(script)
        try:
            said = call_client([argv[0], "--test-only", *argv[1:]], environment=scheduler.environment(script))
        except ClientError as error:
            hint = scheduler.explain(str(error), script)
            return Finding("test-only", "fail", " ".join(str(error).split()), hint or "see sbatch's words")
    words = " ".join((said.err or said).split()).removeprefix("sbatch: ")
    return Finding("test-only", "ok", words or "Slurm would take it")


def _model(job: ResolvedJob, model: str) -> tuple[HostPath | None, Finding]:
    """Whether MODEL is here: a folder with its weights, or a Hub id in the cache or on the Hub."""
    advice = "name a folder that all nodes can read, or a Hub id"
    try:
        found = find_model(model, False, job.request.engine)
        if found.path == str(demo.model_folder()):
            return None, Finding("model", "ok", "the built-in model, which submit makes where it is missing")
        if not Path(found.path).is_absolute():
            return _of_hub(job, found)
    except ModelError as error:
        return HostPath(str(Path(model).absolute()), error="missing"), Finding("model", "fail", str(error), advice)
    seen = path_of_model(found.path, os.environ)
    if seen.error:
        return seen, Finding("model", "fail", f"{seen.path}: {seen.error}", advice)
    return seen, Finding("model", "ok", f"{seen.path}, {seen.size / (1 << 30):.3g} GiB")


def _of_hub(job: ResolvedJob, model: Model) -> tuple[HostPath, Finding]:
    """Whether ranks find a model of the Hub where they look. Raises ModelError if this user does not get it."""
    name, engine = model.path, job.request.engine
    cache = hub_cache(job.request, job.site)
    if cache is None or engine.get("download_dir"):
        words = f"{name}: the node, or download_dir, says where ranks look for it"
        return HostPath(name), Finding("model", "skip", words, "see doctor --on-nodes")
    lacks = why_not_cached(msgspec.structs.replace(job, model=model))
    snapshot = find_snapshot(cache, name, revision_of(engine))
    if lacks is None and snapshot is not None and lacks_weights(snapshot, engine) is None:
        seen = path_of_model(str(snapshot), os.environ)
        return msgspec.structs.replace(seen, path=name), Finding("model", "ok", f"{name}: in the cache, {snapshot}")
    find_config(name, cache)  # asks the Hub, which may refuse it
    if lacks is not None:
        return HostPath(name), refused("model", ModelError(lacks))
    words = f"{name}: it is not whole in the cache {str(cache)!r}"
    return HostPath(name), Finding("model", "warn", words, "each rank would download it: fetch it here first")


def _container(job: ResolvedJob) -> Iterator[Finding]:
    container = job.site.container
    if container is None:
        return
    seen = path_of_image(str(container.image))  # a job's container has an image
    if seen is not None and seen.error:
        words = f"{seen.path}: {seen.error}"
        yield Finding("container", "fail", words, "correct container.image in the profile, or pull the image")
    elif (program := program_of(container)) and not shutil.which(program):
        words = f"{program} is not in PATH here"
        yield Finding("container", "warn", words, "it must be on the nodes: see doctor --on-nodes")
    else:
        kind = "a name in a registry, which is not looked up" if seen is None else "there"
        yield Finding("container", "ok", f"{container.image}: {kind}")
