"""The names of vLLM's arguments, read from its source where it is installed, without importing it (that takes 10 s)."""

from __future__ import annotations

import ast
import difflib
from importlib.util import find_spec
from pathlib import Path

from vllm_hpc.errors import RequestError

_HOMES = {
    "engine": ("engine/arg_utils.py", "EngineArgs"),
    "sampling": ("sampling_params.py", "SamplingParams"),
}


def argument_names(kind: str) -> frozenset[str] | None:
    """Fields of vLLM's EngineArgs (kind ``engine``) or SamplingParams (``sampling``); None where vLLM is not here."""
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    file, class_name = _HOMES[kind]
    source = Path(spec.submodule_search_locations[0]) / file
    if not source.is_file():
        return None
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            fields = (
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
            return frozenset(name for name in fields if not name.startswith("_"))
    return None


def check_arguments(kind: str, given: dict[str, object]) -> None:
    """Refuse a name that the installed vLLM does not know; without one, the ranks will. Raises RequestError."""
    known = argument_names(kind) if given else None
    for name in given:
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see vLLM's {_HOMES[kind][1]}"
            raise RequestError(f"--{kind} {name!r} is no argument of the vLLM that is installed here: {hint}")
