"""Which templates there are: their files, layer by layer, and the scheduler that each is for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

import jinja2
import msgspec

from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.script import FILTERS
from vllm_hpc.schedulers.template_checks import parent_of
from vllm_hpc.schedulers.template_environment import Environment, make_environment
from vllm_hpc.schedulers.template_folders import alternates_in, files_in, known_names
from vllm_hpc.schedulers.template_layers import plain_name
from vllm_hpc.spec.errors import TemplateError
from vllm_hpc.spec.registry import SCHEDULERS

_HEADER = re.compile(r"^#(SBATCH|PBS)\b", re.M)


class TemplateFile(msgspec.Struct, frozen=True):
    """A template: the files that it is made of, that which is used first, and the scheduler that it is for.

    ``scheduler`` is None for shared macros. ``is_own``: the first file is in one of the folders. ``fault`` says why its
    files cannot be told.
    """

    name: str
    scheduler: str | None
    files: tuple[str, ...]
    is_own: bool
    fault: str = ""


def find_templates(folders: Sequence[str]) -> list[TemplateFile]:
    """All templates: those known by name, then those of the folders that have other names. Raises TemplateError."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise TemplateError(f"no such template folder: {folder!r}")
    known = known_names()
    places = [Path(folder) for folder in folders]
    own = {name for place in places for name in (*files_in(place), *alternates_in(place)) if _is_utf8(name)}
    return [_find(name, folders, name in own) for name in [*known, *sorted(own - known.keys())]]


def template_files(name: str, folders: Sequence[str]) -> list[tuple[str, str]]:
    """Each file that a template is made of, and its text: that which is used first, then what it extends.

    Raises TemplateError.
    """
    with as_file(files("vllm_hpc") / "templates") as packaged:
        environment = make_environment(packaged, folders, _installed(name), FILTERS)
        return [(file, text) for file, text, _ in _chain(environment, name)]


def _chain(environment: Environment, name: str) -> list[tuple[str, str, str]]:
    """File, text and name of a template and of all that it extends. Raises TemplateError."""
    found: list[tuple[str, str, str]] = []
    left: str | None = name
    while left is not None:
        try:
            text, file, _ = environment.layers.get_source(environment, left)
            if file in (one[0] for one in found):
                raise TemplateError(f"template {name!r} extends itself by way of another")
            found.append((file, text, plain_name(left)))
            left = parent_of(environment, environment.parse(text, left, file), left)
        except jinja2.TemplateNotFound:
            raise TemplateError(environment.layers.why_missing(left or name)) from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{error.filename or error.name}:{error.lineno}: {error.message}") from None
        except RecursionError:
            raise TemplateError(f"template {name!r} is nested too deeply") from None
    return found


def _is_utf8(name: str) -> bool:
    """Whether it can be named: --template takes no other."""
    return os.fsencode(name).decode(errors="ignore") == name


def _find(name: str, folders: Sequence[str], is_own: bool) -> TemplateFile:
    known = known_names()
    with as_file(files("vllm_hpc") / "templates") as packaged:
        environment = make_environment(packaged, folders, _installed(name), FILTERS)
        try:
            chain = _chain(environment, name)
        except TemplateError as error:
            return TemplateFile(name, known.get(name) or _by_name(name), (), is_own, str(error))
    scheduler = known[name] if name in known else _scheduler_of(chain)
    return TemplateFile(name, scheduler, tuple(file for file, _, _ in chain), is_own)


def _installed(name: str) -> Path | None:
    """The folder of the package whose scheduler has that template."""
    scheduler = known_names().get(name)
    return get_scheduler(scheduler).templates if scheduler else None


def _scheduler_of(chain: list[tuple[str, str, str]]) -> str | None:
    """The scheduler of a template with a name of its own: that of what it extends, or of its lines for one."""
    names = [name.removeprefix("packaged/") for _, _, name in chain]
    known = known_names()
    by_parent = next((known[name] for name in names if known.get(name)), None)
    if by_parent or names[0].startswith("_"):
        return by_parent
    header = _HEADER.search(chain[-1][1])
    if header:
        return {"SBATCH": "slurm", "PBS": "pbs"}[header[1]]
    return "local" if chain[-1][1].startswith("#!") else _by_name(names[0])


def _by_name(name: str) -> str | None:
    first = name.split(".")[0]
    return first if first in SCHEDULERS.built_in and first != "auto" else None
