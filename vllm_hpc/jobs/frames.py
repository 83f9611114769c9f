"""Columns of output rows as tables of pandas, polars, Arrow and datasets, each imported when it is asked for."""

from __future__ import annotations

import json
import warnings
from importlib import import_module
from typing import Any

from vllm_hpc.jobs.tables import COUNTS, OF_ANSWERS, TEXTS, Columns, places
from vllm_hpc.rows.missing_prompt import some_names
from vllm_hpc.spec.errors import RequestError

# What installs a library.
_INSTALL = {
    "pandas": "pip install 'vllm-hpc[notebook]'",
    "pyarrow": "pip install 'vllm-hpc[tables]'",
    "polars": "pip install polars",
    "datasets": "pip install datasets",
}


def to_pandas(columns: Columns) -> Any:
    """A pandas.DataFrame: whole numbers that may be missing are Int64. Raises RequestError without pandas."""
    pandas = _library("pandas", "dataframe()")
    return pandas.DataFrame({name: _series(pandas, name, values) for name, values in columns.all().items()})


def to_polars(columns: Columns) -> Any:
    """A polars.DataFrame. Raises RequestError without polars."""
    polars = _library("polars", "to_polars()")
    return polars.DataFrame([_polars_series(polars, name, values) for name, values in columns.all().items()])


def to_arrow(columns: Columns, method: str = "to_arrow()") -> Any:
    """A pyarrow.Table. Raises RequestError without pyarrow."""
    arrow = _library("pyarrow", method)
    return arrow.table({name: _array(arrow, name, values) for name, values in columns.all().items()})


def to_dataset(columns: Columns) -> Any:
    """A datasets.Dataset, in memory. Raises RequestError without datasets."""
    datasets = _library("datasets", "to_dataset()")
    return datasets.Dataset(to_arrow(columns, "to_dataset()"))


def join(columns: Columns, table: Any, on: str | None) -> Any:
    """The table with the answers as new columns; a DataFrame of pandas or polars. Raises RequestError."""
    if hasattr(table, "iter_rows") and hasattr(table, "hstack"):
        return _join_polars(columns, table, on)
    if not all(hasattr(table, name) for name in ("iloc", "columns", "index")):
        raise RequestError(f"join() takes a DataFrame of pandas or polars, not {type(table).__name__}")
    pandas = _library("pandas", "join()")
    found = places(columns, None if on is None else _ids_of_pandas(table, on), len(table))
    joined = table.iloc[[row for row, _ in found]].copy()
    for name, values in _answers(columns, found, [str(one) for one in table.columns]).items():
        joined[name] = _series(pandas, name, values).array
    return joined


def _join_polars(columns: Columns, table: Any, on: str | None) -> Any:
    polars = _library("polars", "join()")
    if on is not None and on not in table.columns:
        raise _no_column(on, table.columns)
    found = places(columns, None if on is None else table[on].to_list(), table.height)
    answers = _answers(columns, found, table.columns)
    added = [_polars_series(polars, name, values) for name, values in answers.items()]
    return table[[row for row, _ in found]].hstack(added)


def _ids_of_pandas(table: Any, on: str) -> list[Any]:
    if on in table.columns:
        return list(table[on])
    if on in table.index.names:
        return list(table.index.get_level_values(on))
    raise _no_column(on, [str(one) for one in table.columns])


def _no_column(on: str, names: list[str]) -> RequestError:
    return RequestError(f"on={on!r}: the table has no such column, only {some_names(names)}")


def _answers(columns: Columns, found: list[tuple[int, int | None]], taken: list[str]) -> dict[str, list[Any]]:
    """The columns that a table has not, at those places; under another name where it has one of that name."""
    answers, renamed = {}, {}
    for name, values in columns.all().items():
        if name in OF_ANSWERS:
            free = name
            while free in taken:
                free = f"out_{free}"
            if free != name:
                renamed[name] = free
            answers[free] = [None if place is None else values[place] for _, place in found]
    if renamed:
        said = ", ".join(f"{old!r} as {new!r}" for old, new in renamed.items())
        warnings.warn(
            f"join(): the table has columns of these names, so the job's are added as others: {said}", stacklevel=5
        )
    return answers


def _library(name: str, method: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise RequestError(f"{method} needs {name}, which is not installed: {_INSTALL[name]}") from None


def _types(values: list[Any]) -> set[type]:
    return set(map(type, values)) - {type(None)}


def _series(pandas: Any, name: str, values: list[Any]) -> Any:
    types = _types(values)
    if types == {int} or (not types and name in COUNTS):
        try:
            has_gap = None in values or name in COUNTS - {"index"}
            return pandas.Series(values, dtype="Int64" if has_gap else "int64")
        except OverflowError:  # of more than 64 bits
            return pandas.Series(values, dtype=object)
    if types & {list, dict} or (not types and name not in TEXTS):
        return pandas.Series(values, dtype=object)
    return pandas.Series(values, dtype="str" if types <= {str} and name in TEXTS else None)


def _uniform(name: str, values: list[Any]) -> list[Any]:
    """Values of one type: whole numbers beside others are made such; other mixtures JSON texts, which is told."""
    types = _types(values)
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    if name == "id" and len(types) > 1:
        return [str(value) for value in values]
    return values if len(types) <= 1 else _as_json(name, values)


def _as_json(name: str, values: list[Any]) -> list[Any]:
    warnings.warn(f"column {name!r} has values of several forms, and is made of JSON texts", stacklevel=6)
    return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]


def _array(arrow: Any, name: str, values: list[Any]) -> Any:
    kind = arrow.int64() if name in COUNTS else arrow.string() if name in TEXTS else None
    values = _uniform(name, values)
    try:
        return arrow.array(values, type=kind)
    except (arrow.ArrowException, OverflowError):
        return arrow.array(_as_json(name, values), type=arrow.string())


def _polars_series(polars: Any, name: str, values: list[Any]) -> Any:
    kind = polars.Int64 if name in COUNTS else polars.String if name in TEXTS else None
    values = _uniform(name, values)
    if dict in _types(values) or any(isinstance(one, list) and dict in _types(one) for one in values):
        # polars takes the fields of the first objects, and leaves out what others have more.
        return polars.Series(name, _as_json(name, values), dtype=polars.String)
    try:
        return polars.Series(name, values, dtype=kind, strict=True)
    except (polars.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return polars.Series(name, _as_json(name, values), dtype=polars.String)
