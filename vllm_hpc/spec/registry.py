"""The known schedulers and launchers: the built-in ones, and those that other packages add.

Each is one object. Another package adds one with an entry point; options, profiles and job.toml then accept its name:

    [project.entry-points."vllm_hpc.schedulers"]
    lsf = "my_site.lsf:SCHEDULER"

Nothing is imported before it is needed; entry points are read only for a name that is not built in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_hpc.spec.errors import RequestError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Registry(NamedTuple):
    """Objects of one kind by name. ``built_in`` maps names to MODULE:OBJECT, ``group`` is the entry-point group.

    A built-in name without an object, such as "auto" or "native", is handled by its caller.
    """

    kind: str
    group: str
    built_in: dict[str, str]

    def names(self) -> list[str]:
        """Every valid name, built-in ones first."""
        return [*self.built_in, *sorted({point.name for point in self._added()} - self.built_in.keys())]

    def has(self, name: str) -> bool:
        """Whether the name is valid."""
        return name in self.built_in or any(point.name == name for point in self._added())

    def load(self, name: str) -> Any:
        """The object of that name. Raises RequestError if the name is unknown or its object cannot be imported."""
        where = self.built_in.get(name)
        if where:
            module, _, attribute = where.partition(":")
            return getattr(import_module(module), attribute)
        point = next((point for point in self._added() if point.name == name), None)
        if point is None:
            raise RequestError(f"--{self.kind} {self.must_be(name)}")
        try:
            return point.load()
        except Exception as error:  # noqa: BLE001 - another package's code may raise anything
            raise RequestError(
                f"--{self.kind} {name}: cannot import {point.value!r}, which its entry point names: {error}"
            ) from None

    def must_be(self, name: str, but: Iterable[str] = ()) -> str:
        """Say which names are valid in place of an unknown one; ``but`` lists those not allowed here."""
        names = ", ".join(f'"{one}"' for one in sorted(self.names()) if one not in but)
        return f"must be one of {names}, not {name!r}"

    def _added(self) -> tuple[EntryPoint, ...]:
        return _entry_points(self.group, tuple(sys.path))


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points that packages on ``path`` add. Takes 15 ms; --help and built-in names do not need it."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group))


SCHEDULERS = Registry(
    "scheduler",
    "vllm_hpc.schedulers",
    {"auto": "", **{name: f"vllm_hpc.schedulers.{name}:SCHEDULER" for name in ("slurm", "pbs", "kubernetes", "local")}},
)
# "native" is vLLM's own way to start workers, beside whatever starts the ranks.
LAUNCHERS = Registry(
    "launcher",
    "vllm_hpc.launchers",
    {
        "torchrun": "vllm_hpc.schedulers.slurm.launchers:TORCHRUN",
        "srun": "vllm_hpc.schedulers.slurm.launchers:SRUN",
        "pbsdsh": "vllm_hpc.schedulers.pbs.launchers:PBSDSH",
        "pbs_tmrsh": "vllm_hpc.schedulers.pbs.launchers:PBS_TMRSH",
        "mpiexec": "vllm_hpc.schedulers.pbs.launchers:MPIEXEC",
        "openmpi": "vllm_hpc.schedulers.pbs.launchers:OPENMPI",
        "native": "",
    },
)
