"""A program that is an object in a notebook: pickled by value (cloudpickle), as far as it is of the notebook itself."""

from __future__ import annotations

import hashlib
import inspect
import sys

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.program import FoundProgram, Program
from vllm_hpc.spec.programs.facts import METHODS, Facts, facts_of_object
from vllm_hpc.spec.programs.modules import find_module, working_directory

MOST_BYTES = 64 << 20
_ADVICE = "keep models, locks and open files out of it, and make them in setup or run"


def find_object(thing: object) -> FoundProgram:
    """A class, an instance or a function that was given from Python. Raises RequestError.

    What it refers to in other modules is imported by the ranks, from where it is here.
    """
    name, facts = _look_at(thing)
    content = _pickle(thing, name)
    program = Program(
        kind="pickle",
        name=name,
        source=f"{_module_of(thing)}:{name} (pickled)",
        folder=_folder_of(_module_of(thing)),
        sha256=hashlib.sha256(content).hexdigest(),
        directory=working_directory(),
        drives_engine=facts.drives_engine,
        needs_hooks=facts.needs_hooks,
    )
    return FoundProgram(program, content)


def _look_at(thing: object) -> tuple[str, Facts]:
    """Its name and facts. Raises RequestError."""
    name = type(thing).__name__
    try:
        name = _name_of(thing)
        facts = facts_of_object(thing)
        _check_call(thing, facts.drives_engine)
        for method, words in METHODS.items():
            _check_method(thing, method, words)
    except RequestError as error:
        raise RequestError(f"program {name}: {error}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - its properties may raise anything
        raise RequestError(f"program {name} cannot be looked at: {_said(error)}: correct its properties") from None
    return name, facts


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _pickle(thing: object, name: str) -> bytes:
    import cloudpickle  # type: ignore[import-untyped]

    try:
        content: bytes = cloudpickle.dumps(thing)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - what it holds may raise anything as it is pickled
        said = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"program {name} cannot be pickled: {said}: {_ADVICE}") from None
    if len(content) > MOST_BYTES:
        raise RequestError(
            f"program {name} is {len(content) >> 20} MiB pickled, and must be at most {MOST_BYTES >> 20} MiB: "
            "load what is large from a file, in setup or run"
        )
    return content


def _check_call(thing: object, drives_engine: bool) -> None:
    """Refuse a class that needs arguments, and a function that does not take just one. Raises RequestError."""
    is_class = isinstance(thing, type)
    is_function = not is_class and drives_engine and not callable(getattr(thing, "run", None))
    if not is_class and not is_function:
        return
    try:
        signature = inspect.signature(thing)  # type: ignore[arg-type]
        signature.bind(*([] if is_class else [None]))
    except TypeError:
        words = "ranks call it without arguments: give those of __init__ defaults, or give an instance"
        raise RequestError(words if is_class else "it must be a function of one argument, ctx") from None
    except ValueError:  # of C, which tells no signature
        return
    if is_function and _is_lazy(thing):
        raise RequestError("it must be a plain function, neither async nor a generator")


def _check_method(thing: object, name: str, words: tuple[str, ...]) -> None:
    """Refuse a method of which a call would run nothing, or fail. Raises RequestError."""
    method = getattr(thing, name, None)
    if not callable(method):
        return
    if _is_lazy(method):
        raise RequestError(f"{name} must be a plain method, neither async nor a generator")
    is_static = isinstance(inspect.getattr_static(thing, name, None), staticmethod)
    given = ("self", *words) if isinstance(thing, type) and inspect.isfunction(method) and not is_static else words
    try:
        inspect.signature(method).bind(*given)
    except TypeError:
        raise RequestError(f"{name} must take {', '.join(('self', *words))}") from None
    except ValueError:  # of C, which tells no signature
        return


def _is_lazy(function: object) -> bool:
    """Whether a call only makes a coroutine or a generator."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    called = (function, getattr(function, "__call__", None))  # noqa: B004 - of an object, its method
    return any(is_kind(one) for is_kind in kinds for one in called)


def _name_of(thing: object) -> str:
    named = thing if isinstance(thing, type) or hasattr(thing, "__qualname__") else type(thing)
    name = str(getattr(named, "__qualname__", type(thing).__name__))
    return "".join(one if one.isprintable() else "?" for one in name)[:200]


def _module_of(thing: object) -> str:
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(getattr(named, "__module__", None) or "__main__")


def _folder_of(module: str) -> str:
    """The folder of sys.path that ranks need to import what the object is of; empty for the notebook itself."""
    if module in ("__main__", "builtins") or module not in sys.modules:
        return ""
    try:
        return find_module(module).folder
    except RequestError:
        return ""
