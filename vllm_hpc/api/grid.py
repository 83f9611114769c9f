"""The points of a sweep: each combination of the values that were given for options, with a name for its job."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from math import prod
from types import NoneType
from typing import Any

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.request import Request

MOST_POINTS = 1000
# Tables of a request, of which a key may be swept: "engine.max_num_seqs".
_TABLES = ("engine", "sampling", "env", "rehearse_set")
# What a sweep sets itself, or what a job has to share with its sweep.
_NOT_SWEPT = ("name", "job_dir", "private", "rehearse")
_MOST_NAME = 60

Parameters = dict[str, Any]


def grid(model: Any, options: Mapping[str, Any], over: Mapping[str, Any]) -> list[Parameters]:
    """The parameters of each point, in order: the last one changes fastest. Raises RequestError."""
    swept = {
        name: _values(name, value) for name, value in {"model": model, **options}.items() if _is_swept(name, value)
    }
    for name, values in over.items():
        _check_key(name)
        if name in swept:
            raise RequestError(f"{name} is swept twice: leave it out of over=")
        if _listed(values) is None:
            raise RequestError(f"over= must have a list of values for {name!r}, not {values!r:.100}")
        swept[name] = _values(name, values)
    if not swept:
        raise RequestError("nothing is swept: give a list of values, as in temperature=[0.0, 0.7], or over={...}")
    points = prod(len(values) for values in swept.values())
    if points > MOST_POINTS:
        raise RequestError(f"a sweep must have at most {MOST_POINTS} jobs, not {points}: give fewer values")
    return [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]


def options_of(point: Parameters, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one point's job, with its model."""
    merged = dict(options)
    for name, value in point.items():
        table, dot, key = name.partition(".")
        if not dot:
            merged[name] = value
            continue
        given = merged.get(table) or {}
        if not isinstance(given, Mapping):
            raise RequestError(f"{table}= must be a table, as {table}.{key} is swept")
        merged[table] = {**given, key: value}
    return merged


def label(point: Parameters) -> str:
    """A point in words: "model=demo, temperature=0.5"."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def job_name(sweep: str, number: int, point: Parameters) -> str:
    """The name of a point's job, such as "sweep-001-temperature=0.5"; ``number`` from 1."""
    parts = [f"{name.rpartition('.')[2]}={str(value).rstrip('/').rpartition('/')[2]}" for name, value in point.items()]
    words = re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts))[:_MOST_NAME].rstrip("._-")
    return f"{sweep}-{number:03}-{words}"


def plain(value: Any) -> Any:
    """A value as it is recorded: of NumPy's numbers Python's, of a path its text."""
    if hasattr(value, "item") and not hasattr(value, "__len__"):
        value = value.item()
    return value if isinstance(value, str | int | float | bool | NoneType) else str(value)


def _is_swept(name: str, value: Any) -> bool:
    if _listed(value) is None:
        return False
    if name in _NOT_SWEPT:
        raise RequestError(f"{name} must be one value for all jobs of a sweep")
    return name in ("model", "queue") or name in _scalars()


def _scalars() -> set[str]:
    """The options whose own values are no lists and no tables."""
    inside = msgspec.inspect
    many = (inside.ListType, inside.TupleType, inside.VarTupleType, inside.DictType, inside.StructType, inside.AnyType)
    fields = inside.type_info(Request)
    assert isinstance(fields, inside.StructType)
    types = {
        one.name: one.type.types if isinstance(one.type, inside.UnionType) else (one.type,) for one in fields.fields
    }
    return {name for name, kinds in types.items() if not any(isinstance(kind, many) for kind in kinds)}


def _check_key(name: str) -> None:
    table, dot, key = name.partition(".")
    known = table in _TABLES and key if dot else name in Request.__struct_fields__ or name in ("queue", "prompt", "id")
    if not known or name in (*_NOT_SWEPT, *_TABLES):
        raise RequestError(
            f"over= has {name!r}, which must be an option, or a key of {', '.join(_TABLES[:-1])} or {_TABLES[-1]}, "
            "as in 'engine.max_num_seqs'"
        )


def _listed(value: Any) -> Sequence[Any] | None:
    """The values of a list, tuple, range, array or column; None for anything else."""
    if isinstance(value, list | tuple | range):
        return list(value)
    if hasattr(value, "tolist") and hasattr(value, "__len__"):
        found = value.tolist()
        return found if isinstance(found, list) else None
    return None


def _values(name: str, value: Any) -> list[Any]:
    values = list(_listed(value) or ())
    if not values:
        raise RequestError(f"{name} has an empty list of values: give at least one")
    if name in _scalars() | {"model"} and any(_listed(one) is not None or isinstance(one, Mapping) for one in values):
        raise RequestError(f"{name} must be a list of single values, not {values!r:.100}")
    texts = [str(one) for one in values]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise RequestError(f"{name} has the value {twice:.100} twice: give each once")
    return values
