"""A merged profile as TOML, with where each value is from, for `profiles show`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.config_files import gallery_files
from vllm_hpc.spec.keys import is_table_of_tables, keys_of, table_of
from vllm_hpc.spec.profile import Profile, Queue, ignored_keys
from vllm_hpc.spec.profile_layers import FoundProfile
from vllm_hpc.spec.toml_text import toml_comment, toml_key, toml_value

_COLUMN = 48
BUILT_IN = ("slurm", "pbs", "kubernetes", "local")
THE_DEFAULT = "the default"
# They say how the files were put together, which is done.
_OF_A_FILE = ("extends", "replace")


def set_values(table: msgspec.Struct) -> dict[str, Any]:
    """What a profile, or a table in it, has beside the defaults, in the order of its keys."""
    default = type(table)()
    values = {name: getattr(table, name) for name in table.__struct_fields__}
    return {
        name: _plain(value)
        for name, value in values.items()
        if value != getattr(default, name) and name not in _OF_A_FILE
    }


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return set_values(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def origin_of(found: FoundProfile, *path: str) -> str:
    """Where a value is from: FILE:LINE, of the gallery with that word, or the default."""
    for length in range(len(path), 0, -1):
        if path[:length] in found.origins:
            return ", ".join(map(_place, re.split(r", (?=/)", found.origins[path[:length]])))  # files are absolute
    return THE_DEFAULT


def _place(place: str) -> str:
    file, _, line = place.rpartition(":")
    path = Path(file)
    return f"gallery ({path.name}:{line})" if path in gallery_files() else f"{_file(path)}:{line}"


def _file(path: Path) -> str:
    """A file as people know it."""
    if path in gallery_files():
        return f"gallery ({path.name})"
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except ValueError:
        return str(path)


def layer_names(found: FoundProfile) -> list[str]:
    """The layers that count, the highest first: each file, with the profile's name there where it is another."""
    top = found.layers[-1].name if found.layers else ""
    return [f"{_file(layer.file)}{'' if layer.name == top else f' [{layer.name}]'}" for layer in reversed(found.layers)]


def unused_keys(found: FoundProfile) -> list[str]:
    """Keys with a value that the profile's scheduler does not use; none if the scheduler is found when a job is."""
    profile = found.profile
    if not profile.scheduler:
        return []
    inside = [
        f"queues.{name}.{key}"
        for name, queue in profile.queues.items()
        for key in set_values(queue)
        if (used := keys_of(Queue)[key].schedulers) and profile.scheduler in BUILT_IN and profile.scheduler not in used
    ]
    return [*ignored_keys(profile, profile.scheduler), *inside]


def missing_keys(profile: Profile) -> list[str]:
    """What each job must still give: required, and in no file."""
    return [name for name in profile.required if not getattr(profile, name)]


def show_profile(name: str, found: FoundProfile, with_origin: bool) -> str:
    """The table of a merged profile, which gives the same profile as its files together."""
    shown = _Shown(found, with_origin)
    lines = [f"[profiles.{toml_key(name)}]", *shown.keys(found.profile, ())]
    for path, table in shown.tables(found.profile):
        lines += ["", f"[profiles.{toml_key(name)}.{'.'.join(map(toml_key, path))}]", *shown.entries(table, path)]
    return "\n".join([*_head(found), *lines, ""])


def _head(found: FoundProfile) -> Iterator[str]:
    yield toml_comment(f"files, the highest first: {'; '.join(layer_names(found))}")
    if found.news:
        yield toml_comment(found.news)
    if missing := missing_keys(found.profile):
        yield toml_comment(f"each job must give: {', '.join(missing)}")
    if unused := unused_keys(found):
        yield toml_comment(f"not used by {found.profile.scheduler}: {', '.join(unused)}")
    if len(found.template_dirs) > 1:
        yield toml_comment(f"templates are looked for in: {', '.join(found.template_dirs)}")


class _Shown:
    """The lines of a profile."""

    def __init__(self, found: FoundProfile, with_origin: bool) -> None:
        self._found, self._with_origin = found, with_origin

    def keys(self, table: msgspec.Struct, path: tuple[str, ...]) -> Iterator[str]:
        """A line for each value that is no table; asked for origins, for each default that is one, as a comment."""
        values, default = set_values(table), type(table)()
        for name in table.__struct_fields__:
            value = getattr(table, name)
            if isinstance(value, dict | msgspec.Struct) or name in _OF_A_FILE:
                continue
            if name in values:
                yield self._line(f"{name} = {toml_value(values[name])}", (*path, name))
            elif self._with_origin and getattr(default, name) not in (None, "", ()):
                yield self._line(f"# {name} = {toml_value(getattr(default, name))}", ())

    def tables(self, profile: Profile) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The tables in the profile, with their path, that are not empty."""
        for name, key in keys_of(Profile).items():
            value = getattr(profile, name)
            if value and is_table_of_tables(key.kind) and table_of(key.kind):
                yield from (((name, inside), table) for inside, table in value.items())
            elif value and isinstance(value, dict | msgspec.Struct):
                yield (name,), value

    def entries(self, table: Any, path: tuple[str, ...]) -> Iterator[str]:
        """The lines of a table."""
        values: Mapping[str, Any] = set_values(table) if isinstance(table, msgspec.Struct) else table
        for name, value in values.items():
            yield self._line(f"{toml_key(name)} = {toml_value(value)}", (*path, name))

    def _line(self, text: str, path: tuple[str, ...]) -> str:
        if not self._with_origin:
            return text
        place = origin_of(self._found, *path)
        return f"{text:<{_COLUMN - 1}} {toml_comment(place)}"


def origins_table(found: FoundProfile) -> dict[str, Any]:
    """Where each value is from, in the shape of the values."""

    def of(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        return {
            name: of(value, (*path, name)) if isinstance(value, dict) else origin_of(found, *path, name)
            for name, value in values.items()
        }

    return of(set_values(found.profile), ())


def profile_json(name: str, found: FoundProfile) -> dict[str, Any]:
    """The object that ``profiles show --json`` prints."""
    return {
        "name": name,
        "files": layer_names(found),
        "profile": set_values(found.profile),
        "origins": origins_table(found),
        "missing": missing_keys(found.profile),
        "unused": unused_keys(found),
        "template_dirs": list(found.template_dirs),
        "note": found.news,
    }
