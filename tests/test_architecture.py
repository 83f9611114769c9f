"""The house rules: who may import whom, and how big a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vllm_hpc"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each layer may import those above it in this list, never those beside or below it. A new module must be placed.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("variables", "wording", "rehearsal"),
    ("directives",),
    ("checks", "cache", "signals"),
    ("request", "adapters", "gpus", "demo", "rendezvous", "environment"),
    ("layout", "profiles", "vllm_arguments"),
    ("plan", "models"),
    ("records", "rows"),
    ("jobfolder",),
    ("formats",),
    ("shards", "inputs"),
    ("intake", "lines"),
    ("memory", "parallel", "survey", "schedulers"),
    ("hardware", "history", "launchers", "tuned", "render", "supervisor", "requeue", "handover", "chain"),
    ("settings", "sweep", "pace"),
    ("needs",),
    ("choose",),
    ("cost",),
    ("planning",),
    ("executor",),
    ("failure", "counts"),
    ("state",),
    ("summary",),
    ("collect", "resumption"),
    ("job",),
    ("submission",),
    ("trials",),
    ("tuning",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"vllm", "torch", "transformers", "ray"}
# The compute side stands beside the login side, and may use only this of it.
ENGINE_MAY_USE = {"engine", "errors", "request", "layout", "plan", "adapters", "records", "jobfolder", "rows"} | {
    "formats", "shards", "inputs", "cache", "rehearsal", "vllm_arguments",
}  # fmt: skip


def room(path: Path) -> str:
    """The module or sub-package of vllm_hpc that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, at the top or in a function, as a dotted name with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative imports hide the direction"
            assert node.module is not None
            if node.module == "vllm_hpc":
                yield from ((f"vllm_hpc.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """The rooms of vllm_hpc that a file imports; the version, of the package itself, is everybody's."""
    for name, line in imports(path):
        root, _, rest = name.partition(".")
        if root == "vllm_hpc" and rest != "__version__":
            yield rest.split(".")[0], line


def names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_module_has_its_place() -> None:
    rooms = {room(path) for path in FILES} - {"__init__", "engine"}
    assert rooms == set(RANK), "place a new module in LAYERS, or take an old one out"


@pytest.mark.parametrize("path", [path for path in FILES if room(path) not in ("__init__", "engine")], ids=names)
def test_imports_point_one_way(path: Path) -> None:
    own = room(path)
    wrong = [
        f"{names(path)}:{line} imports {name}"
        for name, line in own_imports(path)
        if name != own and (name not in RANK or RANK[name] >= RANK[own])
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in FILES if room(path) == "engine"], ids=names)
def test_the_engine_uses_little_of_the_login_side(path: Path) -> None:
    assert {name for name, _ in own_imports(path)} <= ENGINE_MAY_USE


@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "engine"], ids=names)
def test_only_the_engine_imports_vllm_or_torch(path: Path) -> None:
    heavy = [f"{names(path)}:{line} imports {name}" for name, line in imports(path) if name.split(".")[0] in HEAVY]
    assert heavy == []


def test_the_submitit_plugin_for_the_ranks_imports_next_to_nothing() -> None:
    allowed = {"__future__", "contextlib", "os", "typing", "submitit", "vllm_hpc"}
    found = list(imports(PACKAGE / "environment.py"))
    assert {name.split(".")[0] for name, _ in found} <= allowed
    assert {name for name, _ in own_imports(PACKAGE / "environment.py")} <= {"errors"}


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_stays_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
    assert not path.stem.endswith(("_utils", "_util", "_helper", "_helpers"))
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")
