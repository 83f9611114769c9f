"""What people have in Python, as the plain values of options: NumPy's numbers, paths, timedeltas, classes of pydantic.

What is plain already, and what no option takes, stays as it is: the Request says what it must be.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

import msgspec

from vllm_hpc.spec.errors import RequestError

# Taken as they are: rows, whose forms rows/from_memory.py knows, and code.
_AS_IT_IS = ("input", "program")
# A single one of them is a list of one.
_LISTS = ("lora", "directive", "pass_env", "keep", "allow")
_TABLES = ("sampling", "engine", "env", "rename", "rehearse_set")
# vLLM computes it from the others.
_COMPUTED = ("output_text_buffer_length",)
_MOST_DEPTH = 50
_SINGLE = str | bool | int | float


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, as plain values. Raises RequestError, which names the option."""
    return {name: _option(name, value) for name, value in options.items() if value is not None}


def plain_model(model: object) -> str | None:
    """MODEL as text. Raises RequestError for what is neither text nor a path, such as rows."""
    value = _plain(model, "model=", 0)
    if value is None or isinstance(value, str):
        return value
    raise RequestError(
        f"model must be a model's folder or Hub id, such as 'demo', not {_kind(model)}: what the rows are goes into "
        "input="
    )


def _option(name: str, value: Any) -> Any:
    if name in _AS_IT_IS:
        return os.fspath(value) if name == "program" and isinstance(value, os.PathLike) else value
    if name in _CONVERTED:
        value = _CONVERTED[name](value)
    if name in _LISTS and isinstance(value, str | os.PathLike):
        value = [value]
    plain = _plain(value, f"{name}=", 0)
    if name in _TABLES and (isinstance(value, type) or not isinstance(plain, dict)):
        raise RequestError(f"{name}= must be a dict, not {_kind(value)}")
    return plain


def _plain(value: Any, origin: str, depth: int) -> Any:
    """The value without types of others. Raises RequestError."""
    if depth > _MOST_DEPTH:
        raise RequestError(f"{origin} is nested too deeply")
    single = _single(value)
    if single is not value or value is None or isinstance(value, _SINGLE):
        return single
    if isinstance(value, Mapping):
        return {_key(key, origin): _plain(one, _place(origin, key), depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, origin, depth + 1) for one in value]
    if (inside := _inside(value)) is not None:
        return _plain(inside, origin, depth + 1)
    if depth == 0:
        return value  # the Request refuses it, and says what it must be
    raise RequestError(f"{origin} must be text, numbers, lists or dicts of them, not {_kind(value)}")


def _place(origin: str, key: object) -> str:
    """Where a value is, for a message: engine['a'], and the same for all that is deeper."""
    return f"{origin[:-1]}[{key!r}]" if origin.endswith("=") else origin


def _single(value: Any) -> Any:
    """A single value as a str, bool, int or float; what is none of them as it is."""
    if isinstance(value, Enum):
        return _single(value.value)
    if hasattr(value, "dtype") and callable(getattr(value, "item", None)) and not getattr(value, "ndim", 0):
        return value.item()  # of NumPy, or a tensor of one number
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, str) and type(value) is not str:
        return str.__str__(value)
    if isinstance(value, bool | str | int | float):
        return value if type(value) in (bool, str, int, float) else _number(value)
    return _number(value)


def _number(value: Any) -> Any:
    """A number of any kind (Decimal, Fraction, a subclass) as Python's own."""
    if isinstance(value, int | numbers.Integral):
        return operator.index(value)
    return float(value) if isinstance(value, float | numbers.Real) or hasattr(value, "as_integer_ratio") else value


def _key(key: Any, origin: str) -> str:
    plain = _single(key)
    if not isinstance(plain, str):
        raise RequestError(f"{origin} must have texts as keys, not {_kind(key)}")
    return plain


def _inside(value: Any) -> Any:
    """The dict or list that an object stands for: a JSON schema, or the fields that are set; None for any other."""
    if isinstance(value, type):
        schema = getattr(value, "model_json_schema", None)
        return schema() if callable(schema) else None
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json", exclude_none=True)
    if dataclasses.is_dataclass(value):
        return _fields((one.name for one in dataclasses.fields(value)), value)
    if isinstance(value, msgspec.Struct):
        return _fields(value.__struct_fields__, value)
    if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
        return value.tolist()
    return None


def _fields(names: Iterable[str], value: Any) -> dict[str, Any]:
    given = {name: getattr(value, name) for name in names if not name.startswith("_")}
    return {name: one for name, one in given.items() if one is not None}


def _sampling(given: Any) -> Any:
    """A table of sampling; of a SamplingParams the fields that are not its defaults, of a schema vLLM's constraint."""
    if not isinstance(given, Mapping):
        given = _not_defaults(given)
    if not isinstance(given, Mapping):
        return given
    table = dict(given)
    model = table.get("response_format")
    if isinstance(model, type):
        del table["response_format"]
        if "structured_outputs" in table:
            raise RequestError("sampling= has both response_format and structured_outputs: keep one")
        table["structured_outputs"] = {"json": model}
    return table


def _not_defaults(given: Any) -> Any:
    """The fields of a SamplingParams that one without arguments has not; any other value as it is."""
    if isinstance(given, type) or not (hasattr(given, "temperature") and hasattr(given, "top_p")):
        return given
    try:
        default = type(given)()
        names = getattr(given, "__struct_fields__", None) or list(vars(given))
    except TypeError:
        return given
    fields = {name: getattr(given, name) for name in names if not name.startswith("_") and name not in _COMPUTED}
    return {name: value for name, value in fields.items() if value != getattr(default, name, None)}


def _time(value: Any) -> Any:
    """A walltime as Slurm's text: of a timedelta D-HH:MM:SS, of a whole number minutes."""
    value = _single(value)
    if isinstance(value, timedelta):
        seconds = _seconds(value, "time=")
        return f"{seconds // 86_400}-{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _lead(value: Any) -> Any:
    return _seconds(value, "drain_lead=") if isinstance(value, timedelta) else value


def _seconds(value: timedelta, origin: str) -> int:
    seconds = math.ceil(value.total_seconds())
    if seconds <= 0:
        raise RequestError(f"{origin} must be more than 0 seconds, not {value!r}")
    return seconds


def _env(value: Any) -> Any:
    """Variables with numbers and paths as text; None stays, which is a variable passed by its name."""
    if not isinstance(value, Mapping):
        return value
    plain = {key: _single(one) for key, one in value.items()}
    return {key: str(one) if type(one) in (int, float) else one for key, one in plain.items()}


def _words(value: Any) -> Any:
    """A script's arguments, numbers as text."""
    if not isinstance(value, list | tuple):
        return value
    return [str(one) if type(one) in (int, float) else one for one in map(_single, value)]


_CONVERTED: dict[str, Callable[[Any], Any]] = {
    "sampling": _sampling, "time": _time, "drain_lead": _lead, "env": _env, "script_args": _words,
}  # fmt: skip


def _kind(value: Any) -> str:
    """What a value is, for a message: 'a list', 'the class Foo', 'an int'."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
