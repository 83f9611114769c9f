"""Rows that a caller in Python has in memory: lists, generators, tables of pandas, polars, Arrow and datasets.

What they are is known by what they can do; no library is imported but pyarrow, where only Arrow's own interface tells
what is in a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

from vllm_hpc.rows.python_values import UnfitValueError, Values, a_type, line_of, name_of
from vllm_hpc.rows.row import CHAT_FIELDS, Row, RowError
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.repeats import first_repeated

# Rows of a table in memory at a time.
_BATCH = 1024
# What rows are, in words for people.
_FIELDS, _TEXT, _CHAT, _TOKENS = "an object", "a text", "a chat", "a list of token ids"
# Columns that are never left out: those with a meaning.
_MEANT = frozenset({"id", "prompt", "messages", "conversations", "sampling", "lora", "task", *CHAT_FIELDS})
_ONE_ROW = "is one row: write a list of rows, input=[{...}]"


class Given(NamedTuple):
    """Rows that were recognised: an iterator over them, their type in words, and how to name one by its index."""

    rows: Iterator[Any]
    kind: str
    place: str = "input[{}]"


def recognise(given: Any, wanted: Collection[str] = ()) -> Given | None:
    """The rows in a value; None for one that is no collection of rows, such as a number or a path.

    ``wanted``: names of columns that may be those of a table's index. Raises InputError for what must be converted.
    """
    if given is None or isinstance(given, str | bytes | os.PathLike | set | frozenset | type):
        return None
    if advice := _advice(given):
        raise InputError(f"input is {a_type(given)}: {advice}")
    kind = a_type(given).split(maxsplit=1)[1]
    for is_one, rows in _TABLES:
        if is_one(given):
            place = "input.iloc[{}]" if is_one is _is_pandas else "input[{}]"
            return Given(rows(given, wanted), kind, place)
    if isinstance(given, Mapping):
        return Given(_of_columns(given), f"{kind} of columns")
    return Given(iter(given), kind) if isinstance(given, Iterable) else None


def lines(given: Given, kept: Collection[str] | None, wanted: Collection[str]) -> Iterator[bytes]:
    """A line of JSON for each row, as in a .jsonl. Raises InputError; whatever the caller's iterator raises.

    Of columns that JSON does not have, only those in ``kept`` and ``wanted`` count, unless ``kept`` is None.
    """
    first: str | None = None
    needed = None if kept is None else {*kept, *wanted, *_MEANT}
    for index, one in enumerate(given.rows):
        place = given.place.format(index)
        try:
            kind, row = _row(one)
            if first is None:
                first = kind
                _check_message(row, wanted)
            elif kind != first:
                raise RowError(f"it is {kind}, but {given.place.format(0)} is {first}: give rows of one kind")
            values = Values()
            yield line_of(_converted(row, values, needed), values.has_infinity)
        except RowError as error:
            raise InputError(f"{place}: {error}") from None
        except RecursionError:
            raise InputError(f"{place}: it is nested too deeply, or contains itself") from None


def _row(one: Any) -> tuple[str, Mapping[Any, Any]]:
    """What a row is, and its fields. Raises RowError."""
    if isinstance(one, Mapping):
        return _FIELDS, one
    if isinstance(one, str):
        return _TEXT, {"prompt": one}
    if callable(dump := getattr(one, "model_dump", None)) and not isinstance(one, type):  # pydantic's
        return _FIELDS, dump()
    items = next((getattr(one, name)() for name in ("tolist", "as_py") if hasattr(one, name)), one)  # numpy's, Arrow's
    if isinstance(items, str):
        return _TEXT, {"prompt": items}
    if isinstance(items, list | tuple) and items:
        if is_chat(items):
            return _CHAT, {"messages" if "role" in items[0] else "conversations": items}
        if all(isinstance(token, Integral) and not isinstance(token, bool) for token in items):
            return _TOKENS, {"prompt": items}
    raise RowError(
        "it must be a text, an object with 'prompt' or 'messages', or a chat (a list of objects with 'role' and "
        f"'content'), not {a_type(one)}"
    )


def is_chat(value: Any) -> bool:
    """Whether a value is the turns of a chat, in OpenAI's or in ShareGPT's form."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value)


def _check_message(row: Mapping[Any, Any], wanted: Collection[str]) -> None:
    """Refuse the messages of one chat as rows. Raises RowError."""
    if {"role", "content"} <= row.keys() and not row.keys() & {"prompt", "messages", *wanted}:
        raise RowError("it is a message of a chat: write a list of chats, input=[[{...}, ...]]")


def _converted(row: Mapping[Any, Any], values: Values, needed: Collection[str] | None) -> Row:
    converted: Row = {}
    for key, value in row.items():
        try:
            name = name_of(key)
            if name in converted:
                raise UnfitValueError("there twice: rename one")
            converted[name] = values.json_value(value)
        except UnfitValueError as error:
            if needed is None or str(key) in needed:
                raise RowError(f"{str(key)!r:.80} is {error}") from None
    return converted


def _is_pandas(given: Any) -> bool:
    return all(hasattr(given, name) for name in ("iloc", "to_dict", "columns", "index"))


def _of_pandas(frame: Any, wanted: Collection[str]) -> Iterator[Any]:
    if getattr(frame.columns, "nlevels", 1) > 1:
        raise InputError("input has columns of several levels: give each one name")
    if twice := first_repeated(map(str, frame.columns)):
        raise InputError(f"input has two columns {twice!r}: rename one")
    levels = [name for name in frame.index.names if name is not None and str(name) in wanted]
    if levels and not {*map(str, levels)} & {*map(str, frame.columns)}:
        frame = frame.reset_index(level=levels)
    for first in range(0, len(frame), _BATCH):
        yield from frame.iloc[first : first + _BATCH].to_dict(orient="records")


def _is_polars(given: Any) -> bool:
    return hasattr(given, "iter_rows") and hasattr(given, "to_dicts")


def _of_polars(frame: Any, wanted: Collection[str]) -> Iterator[Any]:
    yield from frame.iter_rows(named=True)


def _is_arrow(given: Any) -> bool:
    # A column has that interface, too, and values: a Series, an array.
    names = ("column_names", "columns", "schema")
    is_column = hasattr(given, "__len__") and not any(hasattr(given, name) for name in names)
    return hasattr(given, "__arrow_c_stream__") and not is_column


def _of_arrow(table: Any, wanted: Collection[str]) -> Iterator[Any]:
    try:
        import pyarrow
    except ImportError:
        raise InputError(
            f"input is {a_type(table)}, which pyarrow reads, and that is not installed: pip install 'vllm-hpc[tables]'"
        ) from None
    try:
        reader = pyarrow.RecordBatchReader.from_stream(table)
        if twice := first_repeated(reader.schema.names):
            raise InputError(f"input has two columns {twice!r}: rename one")
        for batch in reader:
            for first in range(0, batch.num_rows, _BATCH):
                yield from batch.slice(first, _BATCH).to_pylist(maps_as_pydicts="strict")
    except (pyarrow.ArrowException, KeyError, OverflowError) as error:
        raise InputError(f"input is {a_type(table)} that pyarrow does not read: {error}") from None


def _is_dataset(given: Any) -> bool:
    return hasattr(given, "column_names") and hasattr(given, "features") and isinstance(given, Iterable)


def _of_dataset(dataset: Any, wanted: Collection[str]) -> Iterator[Any]:
    yield from dataset


# In this order: pandas and polars have Arrow's interface, too, but not for columns of objects.
_TABLES: tuple[tuple[Callable[[Any], bool], Callable[[Any, Collection[str]], Iterator[Any]]], ...] = (
    (_is_pandas, _of_pandas), (_is_polars, _of_polars), (_is_dataset, _of_dataset), (_is_arrow, _of_arrow),
)  # fmt: skip


def _of_columns(given: Mapping[Any, Any]) -> Iterator[Any]:
    """The rows of a dict of columns. Raises InputError, also for a dict that is one row."""
    columns = {name: given[name] for name in given}
    if columns and (is_chat(columns.get("messages")) or not all(map(_is_column, columns.values()))):
        raise InputError(f"input {_ONE_ROW}")
    if not columns:
        return iter(())
    sizes = {name: len(column) for name, column in columns.items()}
    first, size = next(iter(sizes.items()))
    if other := next((name for name, length in sizes.items() if length != size), None):
        raise InputError(f"input[{other!r}] has {sizes[other]} values, but input[{first!r}] has {size}")
    names = list(columns)
    return (dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True))


def _is_column(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    return hasattr(value, "__len__") and hasattr(value, "__iter__") and getattr(value, "ndim", 1) != 0


def _advice(given: Any) -> str:
    """What to do about a value that has rows, or is near to it; empty for others."""
    if hasattr(given, "collect_schema") and not _is_polars(given):
        return "collect() it first"
    if isinstance(given, Mapping) and given and all(hasattr(one, "column_names") for one in given.values()):
        name = next(iter(given))
        return f"choose one of its splits, as in input=dataset[{name!r}]"
    if hasattr(given, "read") and hasattr(given, "close"):
        return "give the name of the file"
    if hasattr(given, "__aiter__") and not hasattr(given, "__iter__"):
        return "it must be awaited: collect its rows in a list"
    return "call it: input=rows()" if callable(given) and not isinstance(given, Iterable) else ""
