"""Whether the installed vLLM has the names that a patch needs."""

from __future__ import annotations

import dis
import importlib
import inspect
from collections.abc import Iterable
from types import CodeType
from typing import Any

from vllm_hpc.engine.vllm_patches.table import Patch


def why_off(patch: Patch) -> str:
    """Why a patch is off in the installed vLLM; "" if it may be turned on."""
    version = installed_version()
    if lacking := first_missing(patch.names):
        return f"vLLM {version} has no {lacking.replace(':', '.')}"
    return patch.off_in(version)


def installed_version() -> str:
    """The version that vLLM reports."""
    import vllm

    return str(vllm.__version__)


def first_missing(names: Iterable[str]) -> str:
    """The first of these names that vLLM does not have; "" if it has all."""
    return next((name for name in names if not _exists(name)), "")


def _exists(name: str) -> bool:
    module, _, path = name.partition(":")
    try:
        owner: Any = importlib.import_module(module)
    except Exception:  # noqa: BLE001 - a module that cannot be imported here has no names, whatever the reason
        return False
    first, *rest = path.split(".")
    if not hasattr(owner, first):
        return False
    owner = getattr(owner, first)
    return all(_has(owner, attribute) for attribute in rest)


def _has(owner: Any, attribute: str) -> bool:
    """Whether the class has it, as a field or method, or its ``__init__`` sets it."""
    if hasattr(owner, attribute):
        return True
    return any(_declares(base, attribute) for base in getattr(owner, "__mro__", ()))


def _declares(cls: type, attribute: str) -> bool:
    if attribute in vars(cls).get("__annotations__", {}):
        return True
    code = getattr(inspect.unwrap(vars(cls).get("__init__", _nothing)), "__code__", None)
    return isinstance(code, CodeType) and attribute in code.co_names and attribute in _stored(code)


def _stored(code: CodeType) -> set[str]:
    """The attributes that a function sets."""
    return {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}


def _nothing() -> None: ...
