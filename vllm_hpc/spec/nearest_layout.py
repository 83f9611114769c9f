"""The changes nearest to what was asked that give a layout: for the refusal of one that is impossible."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from vllm_hpc.spec.solve_layout import Asked

OPTIONS = {
    "nodes": "--nodes", "gpus_per_node": "--gpus-per-node", "tp": "--tp", "pp": "--pp",
    "attention_dp": "--attention-dp", "dp": "--dp",
}  # fmt: skip

# Two options are changed only if no change of one is as near as this. They count as this many times as far as the
# product of both; what is farther than the limit, or has many nearer values, helps nobody and takes long to find.
_NEAR = 4.0
_TWO_OPTIONS = 2.0
_FARTHEST, _MOST_VALUES = 32.0, 24
# Layouts that are tried. A hundred thousand, of numbers that no machine has, would take seconds.
_MOST_TRIES = 200_000

Works = Callable[["Asked"], bool]
_Change = tuple[float, str]  # how far, and the options to give


def nearest_changes(asked: Asked, works: Works, node: int | None) -> list[str]:
    """The smallest changes with which a layout ``works``, at most two: of one option, or of two if that is nearer.

    ``node`` is the number of GPUs of a node, None if unknown. If there is none, as few options as possible are dropped
    too: "--tp 4 without --dp".
    """
    works = _until_tried(works)
    given = [name for name in OPTIONS if getattr(asked, name) is not None]
    values = {name: _values(asked, name, node) for name in given}
    found = [change for name in given if (change := _one_change(asked, name, values[name], works))]
    if min(found, default=(_FARTHEST, ""))[0] > _NEAR:
        second = sorted(found)[1][0] if len(found) > 1 else _FARTHEST
        near = {name: those[:_MOST_VALUES] for name, those in values.items()}
        found += _two_changes(asked, near, works, min(second, _FARTHEST))
    for count in range(1, 0 if found else len(given)):
        for dropped in combinations(given, count):
            fewer = msgspec.structs.replace(asked, **dict.fromkeys(dropped))
            without = " and ".join(OPTIONS[name] for name in dropped)
            changes = [_one_change(fewer, name, values[name], works) for name in given if name not in dropped]
            found += [(change[0], f"{change[1]} without {without}") for change in changes if change]
        if found:
            break
    return [text for _, text in sorted(found, key=lambda change: change[0])[:2]]


def _until_tried(works: Works) -> Works:
    """The same, until so many were tried; after that no layout is said to work."""
    left = iter(range(_MOST_TRIES))
    return lambda asked: next(left, None) is not None and works(asked)


def _one_change(asked: Asked, name: str, values: list[tuple[float, int]], works: Works) -> _Change | None:
    """The nearest value of one option that gives a layout with the others unchanged."""
    for distance, value in values:
        if works(msgspec.structs.replace(asked, **{name: value})):
            return distance, f"{OPTIONS[name]} {value}"
    return None


def _two_changes(asked: Asked, values: dict[str, list[tuple[float, int]]], works: Works, most: float) -> list[_Change]:
    """For each two options the nearest values, nearer than ``most``, of which neither would do alone."""
    found = []
    for one, other in combinations(values, 2):
        nearest, best = most, ""
        for distance, value in values[one]:
            changed = msgspec.structs.replace(asked, **{one: value})
            if distance * _TWO_OPTIONS >= nearest:
                break
            if works(changed):
                continue
            for far, second in values[other]:
                if distance * far * _TWO_OPTIONS >= nearest:
                    break
                alone = msgspec.structs.replace(asked, **{other: second})
                if works(msgspec.structs.replace(changed, **{other: second})) and not works(alone):
                    nearest = distance * far * _TWO_OPTIONS
                    best = f"{OPTIONS[one]} {value} {OPTIONS[other]} {second}"
                    break
        found += [(nearest, best)] if best else []
    return found


def _values(asked: Asked, name: str, node: int | None) -> list[tuple[float, int]]:
    """The values to try for an option, nearest first, with their distance."""
    value = getattr(asked, name)
    most = max(64, 2 * value, 2 * (asked.nodes or 1) * (asked.gpus_per_node or node or 1))
    return sorted((_distance(name, value, other), other) for other in range(1, min(most, 4096) + 1) if other != value)


def _distance(name: str, value: int, other: int) -> float:
    """How far a change is, as a ratio: more for GPUs per node, and for TP or PP that is not a power of two."""
    ratio = max(other / value, value / other)
    odd = name in ("tp", "pp") and other & (other - 1)
    return ratio * (4 if name == "gpus_per_node" else 2 if odd else 1)
