"""Whether a job finds its models in the cache, where its nodes have no internet (a profile's ``offline``)."""

from __future__ import annotations

import shlex
from pathlib import Path

from vllm_hpc.planner.models.weight_files import check_files, lacks_weights
from vllm_hpc.planner.models.weights import check_headers
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.model_cache import find_snapshot, hub_cache, is_offline, revision_of
from vllm_hpc.spec.resolved_job import ResolvedJob

# Engine arguments that name another model of the Hub, whose weights are not loaded.
_OTHERS = ("tokenizer", "hf_config_path")


def why_not_cached(job: ResolvedJob) -> str | None:
    """What an offline job lacks in the cache, and how to get it; None if nothing, or where that cannot be known."""
    engine = job.request.engine
    if not is_offline(job.request, job.site) or engine.get("download_dir"):
        return None
    cache = hub_cache(job.request, job.site)
    if cache is None:
        return None
    if not Path(job.model.path).is_absolute() and (lacks := _lacks(job, cache)):
        return lacks
    for name in (engine.get(key) for key in _OTHERS):
        if isinstance(name, str) and _is_hub_id(name) and find_snapshot(cache, name) is None:
            return _said(name, f"is not in the cache {str(cache)!r}", job)
    return None


def _lacks(job: ResolvedJob, cache: Path) -> str | None:
    model, engine = job.model.path, job.request.engine
    snapshot = find_snapshot(cache, model, revision_of(engine))
    if snapshot is None:
        return _said(model, f"is not in the cache {str(cache)!r}", job)
    try:
        is_whole = lacks_weights(snapshot, engine) is None
        check_files(snapshot, engine)
        check_headers(snapshot, engine.get("load_format"))
    except (ModelError, OSError):
        is_whole = False
    return None if is_whole else _said(model, f"is not whole in the cache {str(cache)!r}", job)


def _said(model: str, what: str, job: ResolvedJob) -> str:
    options = {"--revision": job.request.engine.get("revision"), "--profile": job.request.profile}
    words = [f"{key} {shlex.quote(value)}" for key, value in options.items() if isinstance(value, str) and value]
    return f"{model!r} {what}, and the nodes are offline: run '{' '.join(['vllm-hpc fetch', model, *words])}' first"


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()
