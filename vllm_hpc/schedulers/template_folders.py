"""The folders that templates are searched in, which templates they hold, and what in them nothing uses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import jinja2
from jinja2 import nodes

from vllm_hpc.schedulers.scheduler import installed_scheduler
from vllm_hpc.spec.errors import TemplateError
from vllm_hpc.spec.registry import SCHEDULERS
from vllm_hpc.spec.trusted_owners import NotTrustedError, read_trusted

# What stands beside templates and is none.
_OTHER_SUFFIXES = frozenset(
    {".md", ".txt", ".rst", ".toml", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".py", ".out", ".log"}
)
_OTHER_NAMES = frozenset({"README", "LICENSE", "Makefile"})


def distinct_folders(folders: Iterable[str]) -> tuple[str, ...]:
    """Template folders, highest first, each once: where it is highest. Else a template of it would extend itself."""
    seen: dict[str, str] = {}
    for folder in folders:
        seen.setdefault(os.path.realpath(folder), folder)
    return tuple(seen.values())


def packaged_names() -> dict[str, str | None]:
    """Our own templates, and each one's scheduler; None for the shared macros."""
    found = sorted(entry.name for entry in (files("vllm_hpc") / "templates").iterdir() if entry.name.endswith(".j2"))
    return {name: None if name.startswith("_") else name.partition(".")[0] for name in found}


def known_names() -> dict[str, str | None]:
    """The names under which a template is found without --template: ours, and those of installed schedulers."""
    added = dict[str, str | None]()
    for name in SCHEDULERS.names():
        if name not in SCHEDULERS.built_in:
            scheduler = installed_scheduler(name)
            added |= {scheduler.template: name} if scheduler else {}
    return packaged_names() | added


def files_in(folder: Path) -> list[str]:
    """The names of what may be a template in a folder, none of its subfolders. Raises TemplateError."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in entries if not _is_folder(entry))
    except OSError as error:
        raise TemplateError(f"template folder {str(folder)!r} cannot be read: {error.strerror}") from None
    return [name for name in found if not name.startswith(".") and not _is_other(name)]


def alternates_in(folder: Path) -> list[str]:
    """Templates in its subfolders, one level down, which --template can name: SUBFOLDER/NAME."""
    found = []
    for below in sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()):
        with suppress(TemplateError):
            found += [f"{below.name}/{name}" for name in files_in(below) if name.endswith(".j2")]
    return found


def unused_files(folders: Sequence[str], template: str | None = None) -> list[str]:
    """What to say of files that no job's script has anything of; ``template`` is that of --template."""
    if not folders:
        return []
    known = known_names()
    own = dict[Path, list[str]]()
    for one in map(Path, folders):
        with suppress(TemplateError):  # one that cannot be listed may still be searched
            own[one] = files_in(one)
    used = _reached({*known, *([template] if template else [])}, own)
    said = []
    for folder, found in own.items():
        unused = [name for name in found if name not in used]
        if unused:
            where = f"in the template folder {str(folder)!r}"
            said.append(f"nothing uses {_listed(unused)} {where}: {_advice(unused, known)}")
    return said


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False


def _is_other(name: str) -> bool:
    return Path(name).suffix in _OTHER_SUFFIXES or name in _OTHER_NAMES


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _advice(unused: list[str], known: Iterable[str]) -> str:
    names = sorted(name for name in known if not name.startswith("_"))
    for name in unused:
        if near := get_close_matches(name, names, n=1):
            return f"is {name!r} meant to be {near[0]!r}? --template takes any name"
    return f"a job's template is {', '.join(names)}, or what --template names, which may be in a subfolder"


def _reached(start: set[str], own: dict[Path, list[str]]) -> set[str]:
    """The names that are used: those to start with, and what these extend, include or import."""
    used, left = set[str](), list(start)
    while left:
        name = left.pop()
        if name in used:
            continue
        used.add(name)
        for folder, found in own.items():
            if name in found or "/" in name:
                left += _names_in(folder / name, found)
    return used


def _names_in(path: Path, beside: list[str]) -> Iterator[str]:
    """What a template extends, includes or imports; all that is beside it, where that is computed."""
    try:
        parsed = jinja2.Environment().parse(read_trusted(path).decode())
    except (OSError, UnicodeDecodeError, jinja2.TemplateSyntaxError, NotTrustedError, RecursionError):
        return  # rendering it says so
    for node in parsed.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        assert isinstance(node, nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport)
        target = node.template
        if isinstance(target, nodes.Const):
            values = target.value if isinstance(target.value, tuple | list) else [target.value]
            yield from (str(value).removeprefix("./") for value in values)
        elif isinstance(target, nodes.List | nodes.Tuple):
            yield from (str(one.value) for one in target.items if isinstance(one, nodes.Const))
        else:
            yield from beside
