"""The schedulers and launchers that there are: ours, by name, and those that other packages add.

Each is one object. Another package adds one by an entry point, and options, profiles and job.toml take its name then:

    [project.entry-points."vllm_hpc.schedulers"]
    lsf = "my_site.lsf:SCHEDULER"

Nothing is imported before it is needed; entry points are only looked at for a name that is none of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_hpc.spec.errors import RequestError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Registry(NamedTuple):
    """Objects of one kind by name: ``built_in`` says where ours are (MODULE:OBJECT), ``group`` is of entry points.

    A built-in name without an object means something by itself: "auto", "native".
    """

    kind: str
    group: str
    built_in: dict[str, str]

    def names(self) -> list[str]:
        """Every name that can be given, ours first."""
        return [*self.built_in, *sorted({point.name for point in self._added()} - self.built_in.keys())]

    def has(self, name: str) -> bool:
        """Whether the name can be given."""
        return name in self.built_in or any(point.name == name for point in self._added())

    def load(self, name: str) -> Any:
        """The object of that name. Raises RequestError where there is none, or what it names cannot be imported."""
        where = self.built_in.get(name)
        if where:
            module, _, attribute = where.partition(":")
            return getattr(import_module(module), attribute)
        point = next((point for point in self._added() if point.name == name), None)
        if point is None:
            raise RequestError(f"--{self.kind} {self.explain(name)}")
        try:
            return point.load()
        except Exception as error:  # noqa: BLE001 - another package's code may raise anything
            raise RequestError(
                f"--{self.kind} {name}: cannot import {point.value!r}, which its entry point names: {error}"
            ) from None

    def explain(self, name: str, but: Iterable[str] = ()) -> str:
        """What a name that is not there must be; ``but`` are those that cannot be meant where it stands."""
        names = ", ".join(f'"{one}"' for one in sorted(self.names()) if one not in but)
        return f"must be one of {names}, not {name!r}"

    def _added(self) -> Iterable[EntryPoint]:
        from importlib.metadata import entry_points  # 15 ms, which --help and a name of ours need not wait for

        return entry_points(group=self.group)


SCHEDULERS = Registry(
    "scheduler",
    "vllm_hpc.schedulers",
    {"auto": "", **{name: f"vllm_hpc.schedulers.{name}:SCHEDULER" for name in ("slurm", "pbs", "local")}},
)
# "native" is vLLM's own way to start workers, beside whatever starts the ranks.
LAUNCHERS = Registry(
    "launcher",
    "vllm_hpc.launchers",
    dict.fromkeys(("torchrun", "srun", "pbsdsh", "pbs_tmrsh", "mpiexec", "openmpi", "native"), ""),
)
