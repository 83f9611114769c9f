"""Keys of a TOML table as data: fields of a struct, each with its meaning and the schedulers that use it."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

Expanded = Literal["", "at submission", "on the node"]


class Key(NamedTuple):
    """A key of a profile. ``schedulers``: those that use it, none for all. ``kind`` is its Python type."""

    name: str
    kind: Any
    meaning: str
    schedulers: tuple[str, ...]
    expanded: Expanded

    @property
    def is_optional_text(self) -> bool:
        """Whether it is a text that may be missing: an empty one takes that of a layer below away."""
        return bool(self.kind == str | None)


def key(meaning: str, schedulers: tuple[str, ...] = (), expanded: Expanded = "") -> Meta:
    """What a field's Annotated says of its key."""
    return Meta(description=meaning, extra={"schedulers": schedulers, "expanded": expanded})


@cache
def keys_of(struct: type[msgspec.Struct]) -> dict[str, Key]:
    """The keys of a table by name, in the order of the struct."""
    hints = get_type_hints(struct, include_extras=True)
    return {name: _key(name, hints[name]) for name in struct.__struct_fields__}


def _key(name: str, hint: Any) -> Key:
    kind, *metas = get_args(hint)
    meta: Meta = metas[-1]
    extra: dict[str, Any] = meta.extra or {}
    return Key(name, kind, meta.description or "", extra.get("schedulers", ()), extra.get("expanded", ""))


def table_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct of a key that is a table, or a table of such tables; None for any other key."""
    inside = get_args(kind) or (kind,)
    return next((one for one in inside if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def is_table_of_tables(kind: Any) -> bool:
    """Whether such a key holds tables by name."""
    return get_origin(kind) is dict
