"""What of the host is in a job's image, at the same path: the job's folders, and what the profile adds."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vllm_hpc.schedulers.containers.runtime import ContainerRuntime
from vllm_hpc.spec.container import Bind, Container, is_path, parse_bind
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.expand import with_defaults
from vllm_hpc.spec.model_cache import hub_cache
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.user_cache import cache_folder

# The host's /tmp is there in every image; what is below it need not be bound.
_TMP = Path("/tmp")
# Entries of a model's folder that are looked at for links out of it.
_MOST_LINKS = 10_000


def all_binds(
    job: ResolvedJob, container: Container, runtime: ContainerRuntime, folder: Path, needs: Iterable[Path]
) -> tuple[Bind, ...]:
    """The binds of a job, each once. ``needs``: what lies outside of its folder (inputs, adapters).

    Raises RequestError for a path that the runtime cannot bind.
    """
    wanted = own_paths(job, container, folder, needs)
    if runtime.needs_tmp:
        wanted[_TMP] = False
    wanted |= dict.fromkeys((path for path in _own_cache(job) if _is_bindable(path, container, runtime)), False)
    own = [_own_bind(path, read_only, container, runtime) for path, read_only in _widest(wanted, runtime)]
    extra = [parse_bind(text, "container.binds") for text in container.binds]
    binds = tuple(dict.fromkeys([*own, *_scratch(job, runtime), *extra]))
    for bind in binds:
        _check(bind, runtime)
    return binds


def own_paths(job: ResolvedJob, container: Container, folder: Path, needs: Iterable[Path]) -> dict[Path, bool]:
    """What the ranks of a job use, the user's cache aside, and whether they only read it."""
    wanted: dict[Path, bool] = dict.fromkeys((*_of_model(job), *needs, *_of_engine(job.request.engine)), True)
    wanted |= {Path(container.bundle): True} if container.bundle else {}
    return wanted | dict.fromkeys((folder, *_hub_cache(job)), False)


def _widest(wanted: dict[Path, bool], runtime: ContainerRuntime) -> Iterator[tuple[Path, bool]]:
    """The folders without those that another one brings, those above first: a bind hides what was bound below it."""
    kept: list[tuple[Path, bool]] = []
    for path, read_only in sorted(wanted.items(), key=lambda one: (len(one[0].parts), one[0])):
        has_tmp = not runtime.needs_tmp and path.is_relative_to(_TMP)
        is_in = any(path.is_relative_to(above) and (read_only or not ro) for above, ro in kept)
        if not has_tmp and not is_in:
            kept.append((path, read_only))
    yield from kept


def _own_bind(path: Path, read_only: bool, container: Container, runtime: ContainerRuntime) -> Bind:
    where = path
    if runtime.name == "charliecloud":
        where = _mount_point(path, Path(str(container.image)))
    return Bind.same(str(where), read_only and runtime.has_read_only and where == path)


def _is_bindable(path: Path, container: Container, runtime: ContainerRuntime) -> bool:
    """Whether the image can have that path; jobs run without it, too."""
    try:
        _check(_own_bind(path, False, container, runtime), runtime)
    except RequestError:
        return False
    return True


def _mount_point(path: Path, image: Path) -> Path:
    """What Charliecloud can bind to have ``path``: a mount point must be in the image. Raises RequestError.

    That is the path itself, or an empty folder of the image above it. What is not here is seen on the nodes only.
    """
    if not is_path(str(image)) or not image.is_dir():
        return path
    for above in (path, *path.parents[:-1]):
        there = image / above.relative_to("/")
        if there.is_dir() and (above == path or not any(there.iterdir())):
            return above
        if there.exists() and above != path:
            break
    folder = path if path.parent == Path("/") else path.parent
    raise RequestError(
        f"the image has no empty folder for {str(path)!r}, and Charliecloud cannot make one: mkdir -p "
        f"{shlex.quote(f'{image}{folder}')}"
    )


def _check(bind: Bind, runtime: ContainerRuntime) -> None:
    """Refuse what the runtime would misread. Raises RequestError."""
    if bind.read_only and not runtime.has_read_only:
        raise RequestError(f"container.binds: {runtime.name} cannot bind {bind.host!r} read-only: leave out ':ro'")
    for text in (bind.host, bind.inside, bind.holds):
        path = with_defaults(text)
        if runtime.unfit and (found := re.search(runtime.unfit, path)):
            raise RequestError(
                f"{runtime.name} cannot bind {path!r}, because of the {found[0]!r} in it: choose another folder"
            )
    # The node's shell cannot double the quotes of a variable's value, as CSV wants them.
    if '"' in bind.holds and re.search(r"[:,\\]", bind.holds):
        path = with_defaults(bind.holds)
        raise RequestError(f"{runtime.name} cannot bind {path!r}, because of the '\"' in it: choose another folder")


def _of_model(job: ResolvedJob) -> Iterator[Path]:
    """The model's folder, and where links in it lead to, as those of a Hugging Face cache do."""
    folder = Path(job.model.path)
    if not folder.is_dir():
        return
    folder = folder.absolute()
    yield folder
    with os.scandir(folder) as entries:
        links = [entry.name for entry, _ in zip(entries, range(_MOST_LINKS), strict=False) if entry.is_symlink()]
    for parent in sorted({Path(os.path.normpath(folder / (folder / name).readlink())).parent for name in links}):
        if parent.is_dir():
            yield parent


def _of_engine(engine: dict[str, Any]) -> Iterator[Path]:
    """What engine arguments name by an absolute path, such as a tokenizer."""
    for value in engine.values():
        if isinstance(value, dict):
            yield from _of_engine(value)
        elif isinstance(value, str) and value.startswith("/") and os.path.exists(value):  # noqa: PTH110
            path = Path(value)
            yield path if path.is_dir() else path.parent


def _scratch(job: ResolvedJob, runtime: ContainerRuntime) -> Iterator[Bind]:
    """The node's scratch: what lifecycle.sh has made in it, or where a task in the image makes that."""
    if job.site.scratch:
        place = job.site.scratch if runtime.is_of_srun else "$VLLM_HPC_SCRATCH"
        yield Bind(place, place, holds=job.site.scratch)


def _own_cache(job: ResolvedJob) -> Iterator[Path]:
    """The profile's cache, or the user's of vllm-hpc, where nodes see it: not one that is this machine's alone."""
    if job.site.cache_dir is not None:
        yield Path(job.site.cache_dir)
        return
    with suppress(OSError, RuntimeError):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-hpc"
        if cache_folder() == cache:
            yield cache.absolute()


def _hub_cache(job: ResolvedJob) -> Iterator[Path]:
    """The Hugging Face cache, if the model is there."""
    if job.request.rehearse or Path(job.model.path).is_dir():
        return
    hub = hub_cache(job.request, job.site)
    if hub is not None and hub.is_dir():
        yield hub
