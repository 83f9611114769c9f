"""Merges the layers of a profile, key by key, and remembers where each value is from.

From the lowest: what it ``extends``, the gallery, the site's files, the user's, the project's. Tables are merged key by
key too; in a list, "+" stands for the list below; an empty text takes an optional text below away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.spec.errors import ProfileError
from vllm_hpc.spec.keys import is_table_of_tables, keys_of, table_of
from vllm_hpc.spec.ownership import is_fixed
from vllm_hpc.spec.profile import TAKES_AWAY, Profile
from vllm_hpc.spec.profile_checks import BELOW, check_together
from vllm_hpc.spec.profile_files import Layer, layers_of
from vllm_hpc.spec.trusted_owners import owner_of

# They say how a profile is put together, and so belong to a layer, not to the merged profile.
_OF_A_LAYER = ("extends", "replace")


class FoundProfile(NamedTuple):
    """A merged profile. ``origins``: FILE:LINE of each value, by its key and those of the tables that it is in.

    ``layers`` are those that count, the lowest first; ``template_dirs``, the highest first. ``news`` says which keys of
    lower files count beside those of the highest, which replaced them until vllm-hpc 0.2.
    """

    profile: Profile = Profile()
    layers: tuple[Layer, ...] = ()
    origins: dict[tuple[str, ...], str] = {}  # noqa: RUF012 - a default of a NamedTuple
    template_dirs: tuple[str, ...] = ()
    news: str | None = None

    @property
    def file(self) -> Path | None:
        """The highest file; None without a profile."""
        return self.layers[-1].file if self.layers else None

    def where(self, name: str | None) -> str | None:
        """Which profile it is, of which files, whose, and whether others can replace them; None without a profile."""
        if not self.layers:
            return None
        files = dict.fromkeys(_described(layer.file) for layer in reversed(self.layers))
        return f"profile {name!r} is of {', over '.join(files)}"


def load_profile(name: str | None) -> Profile:
    """The merged profile of that name; None gives an empty one. Raises ProfileError with file and line."""
    return find_profile(name).profile


def find_profile(name: str | None) -> FoundProfile:
    """Read and merge that profile; None gives an empty one. Raises ProfileError with file and line."""
    if name is None:
        return FoundProfile()
    layers = _with_extended(name, ())
    merged = _Merged({}, {})
    for layer in layers:
        merged.add(layer)
    for key in _OF_A_LAYER:
        merged.values.pop(key, None)

    def place(*keys: str) -> str:
        found = [keys[:length] for length in range(len(keys), 0, -1) if keys[:length] in merged.origins]
        return merged.origins[found[0]] if found else layers[-1].place(*keys)

    profile = _convert(merged, place)
    check_together(profile, place)
    dirs = [
        str(layer.file.parent / str(given)) for layer in reversed(layers) if (given := layer.table.get("template_dir"))
    ]
    own = [layer for layer in layers if layer.name == name]
    return FoundProfile(profile, tuple(layers), merged.origins, tuple(dict.fromkeys(dirs)), _news(own))


def _convert(merged: _Merged, place: Any) -> Profile:
    """The values as a profile: two valid layers may still not go together. Raises ProfileError."""
    try:
        return msgspec.convert(merged.values, Profile)
    except msgspec.ValidationError as error:
        raise ProfileError(f"{place('extends')}: {error}") from None


def _described(file: Path) -> str:
    """A file of a profile, with its owner if that is another, and whether others can put another in its place."""
    owner = owner_of(file)
    belongs = f", which belongs to {owner}" if owner else ""
    return f"{file}{belongs}{'' if is_fixed(file.resolve().parent) else ', in a folder that others can write to'}"


def _with_extended(name: str, above: tuple[str, ...]) -> list[Layer]:
    """The layers of a profile that count, and below them those of the one that it extends. Raises ProfileError."""
    layers = layers_of(name)
    replacing = [number for number, layer in enumerate(layers) if layer.table.get("replace")]
    layers = layers[replacing[-1] if replacing else 0 :]
    saying = next((layer for layer in reversed(layers) if "extends" in layer.table), None)
    if saying is None or not saying.table["extends"]:
        return layers
    base, place = str(saying.table["extends"]), saying.place("extends")
    if base in (*above, name):
        raise ProfileError(f"{place}: 'extends' leads back to {base!r}: a profile cannot extend itself")
    try:
        return [*_with_extended(base, (*above, name)), *layers]
    except ProfileError as error:
        raise error if ": 'extends' " in str(error) else ProfileError(f"{place}: 'extends': {error}") from None


class _Merged(NamedTuple):
    """The values so far, and where each is from."""

    values: dict[str, Any]
    origins: dict[tuple[str, ...], str]

    def add(self, layer: Layer) -> None:
        """Put a layer on top."""
        self._merge(self.values, layer.table, layer, ())

    def _merge(self, below: dict[str, Any], above: dict[str, Any], layer: Layer, path: tuple[str, ...]) -> None:
        is_of_keys = not path or (path[0] == "queues" and len(path) > 1)
        taking = [key for key in TAKES_AWAY if key in above and is_of_keys]
        for gone in [gone for key in taking for gone in TAKES_AWAY[key] if gone not in above]:
            below.pop(gone, None)
            self.origins.pop((*path, gone), None)
        for name, value in above.items():
            where = (*path, name)
            place = layer.place(*where)
            if isinstance(value, dict):
                self._merge(below.setdefault(name, {}), value, layer, where)
            elif value == "" and _is_removal(where):
                below.pop(name, None)
                self.origins.pop(where, None)
                continue
            elif isinstance(value, list) and BELOW in value:
                at = value.index(BELOW)
                below[name] = [*value[:at], *below.get(name, []), *value[at + 1 :]]
                place = ", ".join(filter(None, (self.origins.get(where), place)))
            else:
                below[name] = value
            self.origins[where] = place


def _is_removal(path: tuple[str, ...]) -> bool:
    """Whether an empty text of that key takes the one below away; of a queue without a partition, it says that."""
    key = keys_of(Profile)[path[0]]
    struct, within = table_of(key.kind), path[2 if is_table_of_tables(key.kind) else 1 :]
    if within:
        key_within = keys_of(struct).get(within[0]) if struct else None
        return key_within is not None and key_within.is_optional_text and key_within.name != "partition"
    return key.is_optional_text


def _news(layers: list[Layer]) -> str | None:
    """Which keys of lower files count since layers are merged; None if there are none."""
    *lower, top = layers
    new = {key: layer for layer in lower for key in layer.table if key not in top.table and key not in _OF_A_LAYER}
    if not new:
        return None
    by_file: dict[Path, list[str]] = {}
    for key, layer in new.items():
        by_file.setdefault(layer.file, []).append(key)
    taken = "; ".join(f"{', '.join(keys)} of {file}" for file, keys in by_file.items())
    return f"the profile in {top.file} takes from lower files: {taken} (replace = true there keeps them out)"
