"""Checks of a profile: each layer's table by itself, then the values of the merged profile against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.bounds import MOST_GPU_GIB
from vllm_hpc.spec.errors import ProfileError, RequestError
from vllm_hpc.spec.expand import check_variables, has_variables
from vllm_hpc.spec.gpus import find_gpu
from vllm_hpc.spec.keys import Key, is_table_of_tables, keys_of, table_of
from vllm_hpc.spec.kubernetes import Kubernetes
from vllm_hpc.spec.kubernetes_checks import check_kubernetes, check_volumes
from vllm_hpc.spec.launch_options import check_srun_options, check_torchrun_options
from vllm_hpc.spec.messages import explain_mismatch
from vllm_hpc.spec.no_secrets import check_option
from vllm_hpc.spec.other_names import instead_of
from vllm_hpc.spec.profile import Profile
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS
from vllm_hpc.spec.values import CHECKS, as_path, check_words, megabytes

# In a list, what stands for the list of the layers below.
BELOW = "+"
Place = Callable[..., str]


def check_table(table: dict[str, Any], place: Place, folder: Path) -> dict[str, Any]:
    """One layer's table, with ``template_dir`` resolved against the folder of its file.

    ``place`` gives FILE:LINE of a key. Raises ProfileError.
    """
    _check_types(table, Profile, place, ())
    checked = dict(table)
    for key in table:
        try:
            _check(keys_of(Profile)[key], table[key], key)
            if key == "template_dir" and table[key]:
                checked[key] = _template_folder(folder, table[key])
        except RequestError as error:
            raise ProfileError(f"{place(key)}: {error}") from None
    for name, queue in table.get("queues", {}).items():
        _check_queue(name, queue, place)
    return checked


def _check_types(table: dict[str, Any], struct: type[msgspec.Struct], place: Place, path: tuple[str, ...]) -> None:
    """Names and types of the keys, in the tables within it first. Raises ProfileError."""
    for key, value in table.items():
        if key not in keys_of(struct):
            raise ProfileError(f"{place(*path, key)}: unknown key '{key}': {_instead_of(key, struct)}")
        for inside, one, names in _tables_in(keys_of(struct)[key], value):
            if not isinstance(one, dict):
                raise ProfileError(f"{place(*path, *names)}: '{'.'.join(names)}' must be a table")
            _check_types(one, inside, place, (*path, *names))
    try:
        msgspec.convert(table, struct)
    except msgspec.ValidationError as error:
        key, words = explain_mismatch(error, struct) or (path[-1] if path else "", str(error))
        raise ProfileError(f"{place(*path, key)}: '{key}' {words}") from None


def _instead_of(key: str, struct: type[msgspec.Struct]) -> str:
    """What to write in place of an unknown key."""
    if (known := instead_of(key)) and struct is Profile:
        return known
    if near := get_close_matches(key, keys_of(struct), n=1):
        return f"did you mean '{near[0]}'?"
    whose = "a profile" if struct is Profile else f"a {struct.__name__.lower()}"
    return f"{whose} takes {', '.join(keys_of(struct))}"


def _tables_in(key: Key, value: Any) -> Iterator[tuple[type[msgspec.Struct], Any, tuple[str, ...]]]:
    """The tables that a key holds, with their structs and their names from there."""
    struct = table_of(key.kind)
    if struct is None:
        return
    if not is_table_of_tables(key.kind):
        yield struct, value, (key.name,)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield struct, one, (key.name, name)


def _check_queue(name: str, queue: dict[str, Any], place: Place) -> None:
    keys = keys_of(table_of(keys_of(Profile)["queues"].kind) or Profile)
    for key, value in queue.items():
        try:
            _check(keys[key], value, key)
        except RequestError as error:
            raise ProfileError(f"{place('queues', name, key)}: {error}") from None


def _check(key: Key, value: Any, origin: str) -> None:
    """Check one value by itself; what a layer takes away or adds to is left out. Raises RequestError."""
    if value == "" and key.is_optional_text:
        return
    value = _check_text(key, value, origin)
    check = CHECKS.get(key.name)
    if check and not (key.expanded == "at submission" and any(map(has_variables, _texts(value)))):
        check(value, origin)
    if own := _CHECKS.get(key.name):
        own(value)


def _check_text(key: Key, value: Any, origin: str) -> Any:
    """Check for secrets and variables, and return what a layer says itself, a table as its struct.

    Raises RequestError.
    """
    if isinstance(value, list):
        if value.count(BELOW) > 1:
            raise RequestError(f"'{origin}' must have \"{BELOW}\", the list of the layers below, once at most")
        value = _own(value)
    value = _as_table(key, value, origin)
    check_option(value, origin)
    if key.expanded:
        for text in _texts(value):
            check_variables(text, f"'{origin}'")
    return value


def _own(value: Any) -> Any:
    """What a layer says itself: a list without that of the layers below."""
    return tuple(one for one in value if one != BELOW) if isinstance(value, list) else value


def _as_table(key: Key, value: Any, origin: str) -> Any:
    """A table within a profile as its struct, whose texts are checked first; any other value as it is."""
    struct = table_of(key.kind)
    if struct is None or is_table_of_tables(key.kind):
        return value
    for name, one in value.items():
        _check_text(keys_of(struct)[name], one, f"{origin}.{name}")
    return msgspec.convert({name: _own(one) for name, one in value.items()}, struct)


def _texts(value: Any) -> list[str]:
    given = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
    return [one for one in given if isinstance(one, str)]


def _scheduler(value: str) -> None:
    if value == "auto" or not SCHEDULERS.has(value):
        raise RequestError(f"'scheduler' {SCHEDULERS.must_be(value, but=['auto'])}")


def _launcher(value: str) -> None:
    if not LAUNCHERS.has(value):
        raise RequestError(f"'launcher' {LAUNCHERS.must_be(value)}")


def _gpu(value: str) -> None:
    find_gpu(value, "'gpu'")


def _gpu_memory(value: float) -> None:
    if not 1 <= value <= MOST_GPU_GIB:
        raise RequestError(f"'gpu_memory_gib' must be a GPU's memory in GiB, from 1 to {MOST_GPU_GIB:g}, not {value}")


def _amount(name: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if not megabytes(value):
            raise RequestError(f"'{name}' must be an amount of memory, such as 480G, not {value!r}")

    return check


def _required(value: tuple[str, ...]) -> None:
    unknown = next((name for name in value if name not in keys_of(Profile)), None)
    if unknown is not None:
        raise RequestError(f"'required' must name keys of a profile, not {unknown!r}")


# Of keys that only profiles have, or that are more than their option is.
_CHECKS: dict[str, Callable[[Any], None]] = {
    "scheduler": _scheduler,
    "launcher": _launcher,
    "wrapper": lambda value: check_words(value, "wrapper"),
    "srun_options": lambda value: check_srun_options(value, "'srun_options'"),
    "torchrun_options": lambda value: check_torchrun_options(value, "'torchrun_options'"),
    "gpu": _gpu,
    "gpu_memory_gib": _gpu_memory,
    "mem_per_node": _amount("mem_per_node"),
    "mem_per_gpu": _amount("mem_per_gpu"),
    "required": _required,
    "kubernetes": lambda value: check_kubernetes(value, "'kubernetes'"),
}


def _template_folder(folder: Path, given: str) -> str:
    """The folder of templates, resolved against the folder of the profile's file. Raises RequestError."""
    if has_variables(given):
        return given
    found = folder / as_path(given, "template_dir")
    if not found.is_dir():
        raise RequestError(f"'template_dir': no such folder: {str(found)!r}: make it, or leave the key out")
    return str(found)


def check_together(profile: Profile, place: Place) -> None:
    """Check the values of a merged profile against each other. Raises ProfileError."""
    for key in ("cpus_per_node", "mem_per_node", "whole_nodes"):
        has_gpus = profile.gpus_per_node or all(queue.gpus_per_node for queue in profile.queues.values())
        if getattr(profile, key) and not (has_gpus if profile.queues else profile.gpus_per_node):
            raise ProfileError(
                f"{place(key)}: '{key}' needs gpus_per_node, for the part of it that belongs to a job's GPUs"
            )
    if profile.wrapper and "=" in profile.wrapper[0]:  # behind env, as with --launcher srun, it would be a variable
        raise ProfileError(
            f"{place('wrapper')}: 'wrapper' must begin with a program, whose path cannot have a '=', not "
            f"{profile.wrapper[0]!r}"
        )
    if profile.head_command and profile.head_suffix:
        raise ProfileError(
            f"{place('head_command')}: 'head_command' and 'head_suffix' are both given, but both name the head node: "
            "choose one"
        )
    for name in profile.secrets:
        if name in profile.env:
            raise ProfileError(f"{place('secrets')}: 'secrets' has {name}, which has a value in 'env': leave out one")
    for name, queue in profile.queues.items():
        if queue.min_nodes and queue.max_nodes and queue.min_nodes > queue.max_nodes:
            raise ProfileError(
                f"{place('queues', name, 'min_nodes')}: 'min_nodes' must be at most max_nodes ({queue.max_nodes}), "
                f"not {queue.min_nodes}"
            )
    _check_kubernetes(profile.kubernetes, place)


def _check_kubernetes(cluster: Kubernetes | None, place: Place) -> None:
    try:
        check_volumes(cluster or Kubernetes(), "'kubernetes'")
    except RequestError as error:
        raise ProfileError(f"{place('kubernetes')}: {error}") from None
