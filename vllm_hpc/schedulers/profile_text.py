"""Writes a profile of what a scheduler tells: TOML, with a comment that says where each value is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from vllm_hpc.schedulers.inventory import FoundQueue, Inventory
from vllm_hpc.spec.profile import Profile, Queue
from vllm_hpc.spec.toml_text import toml_comment, toml_key, toml_value

# A comment stands beside its value, or above the table.
_COLUMN = 40
_DEFAULTS = msgspec.structs.asdict(Queue())
# What is said of a table, and not of the profile that it is in, whatever all tables have in common.
_OF_A_TABLE = ("description", "partition", "by_request")


def profile_text(name: str, inventory: Inventory, date: str) -> str:
    """The table of the profile ``name``, with those of its queues. ``date``: when the scheduler was asked."""
    shared = _shared(inventory.queues)
    return "\n".join([*_profile(name, inventory, shared, date), *_queues(name, inventory, shared), ""])


def _profile(name: str, inventory: Inventory, shared: Mapping[str, Any], date: str) -> Iterator[str]:
    yield toml_comment(f"Written by vllm-hpc profiles init on {date}, from what {inventory.said_by} told.")
    yield toml_comment("Go through it, and run: vllm-hpc profiles check " + name)
    yield f"[profiles.{toml_key(name)}]"
    yield _line("scheduler", inventory.scheduler, "")
    for key, value in inventory.keys.items():
        yield _line(key, value, inventory.sources.get(key, ""))
    for key, value in shared.items():
        yield _line(key, value, inventory.queues[0].sources.get(key, ""))
    yield from (
        toml_comment(note) for note in (*inventory.gpu_advice(), *inventory.notes, *_shared_notes(inventory.queues))
    )
    for partition, why in inventory.left_out.items():
        yield toml_comment(f"left out: {partition}: {why}")


def _shared_notes(queues: tuple[FoundQueue, ...]) -> list[str]:
    """What is said of every table."""
    return [note for note in (queues[0].notes if queues else ()) if all(note in found.notes for found in queues)]


def _queues(name: str, inventory: Inventory, shared: Mapping[str, Any]) -> Iterator[str]:
    said = _shared_notes(inventory.queues)
    for found in inventory.queues:
        yield ""
        if found.is_default:
            yield toml_comment(
                "where jobs go that name no partition" if inventory.scheduler == "slurm" else "the default queue"
            )
        yield from (toml_comment(note) for note in found.notes if note not in said)
        yield f"[profiles.{toml_key(name)}.queues.{toml_key(found.name)}]"
        for key, value in _values(found.queue).items():
            if key not in shared:
                yield _line(key, value, found.sources.get(key, ""))


def _values(queue: Queue) -> dict[str, Any]:
    return {key: value for key, value in msgspec.structs.asdict(queue).items() if value != _DEFAULTS[key]}


def _shared(queues: tuple[FoundQueue, ...]) -> dict[str, Any]:
    """What all tables say alike, if the profile has such a key: it is said once."""
    if not queues:
        return {}
    first, *others = (_values(found.queue) for found in queues)
    keys = [key for key in first if key in Profile.__struct_fields__ and key not in _OF_A_TABLE]
    return {key: first[key] for key in keys if all(key in one and one[key] == first[key] for one in others)}


def _line(key: str, value: Any, source: str) -> str:
    line = f"{key} = {toml_value(value)}"
    return f"{line:<{_COLUMN}}{toml_comment(source)}" if source else line
