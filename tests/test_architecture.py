"""The house rules: who may import whom, and how big a file may be."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vllm_hpc"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each room may import those above it in this list, never those beside or below it. A new one must be placed.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("spec",),
    ("rows",),
    ("jobfolder",),
    ("engine", "schedulers"),
    ("planner",),
    ("jobs",),
    ("tuning", "doctor", "report"),
    ("api",),
    ("cli",),
    ("__main__", "in_job"),
)
# 0.1's names, which scripts, pickles and metadata of waiting jobs hold; each only passes on what has moved.
SHIMS = {"chain", "environment", "executor", "handover", "rendezvous", "requeue", "supervisor", "engine/worker"}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
PLUGIN = PACKAGE / "schedulers" / "submitit_environment.py"
WRITER = PACKAGE / "spec" / "write_file.py"
WRITES = re.compile(
    r"""\.(touch|write_text|write_bytes)\(|\bos\.truncate\(|\bO_(CREAT|WRONLY|RDWR)\b|\bshutil\.(copy|copy2|copyfile|move)\("""
    r"""|\bopen\((?!fileobj)[^()]*"[rbt]*[wax+][bt+]*\""""
)
HEAVY = {"vllm", "torch", "transformers", "ray"}
# The compute side stands beside the login side, and may use only this of it.
ENGINE_MAY_USE = {"engine", "spec", "rows", "jobfolder"}
# What opens a file to read it, and those that may: for /proc and /sys, installed packages, and /etc/pbs.conf.
_READS = re.compile(r"""\.read_text\(|\.read_bytes\(|open\([^)]*["']r|\.open\(\)\.read""")
READ_DIRECTLY = {
    "spec/read_file", "spec/vllm_arguments", "schedulers/lifecycle", "schedulers/memory_limit",
    "schedulers/in_script/master_port", "schedulers/local/__init__", "schedulers/pbs/attach",
    "engine/startup/compile_cache", "engine/startup/weights_readahead",
    "schedulers/containers/bundle",  # its own metadata
    "spec/user_namespace",  # /proc
    "schedulers/local/machine",  # the limit of its container, of /sys
    "schedulers/local/supervisor",  # its own log, which it has opened to write
}  # fmt: skip


def room(path: Path) -> str:
    """The sub-package of vllm_hpc that a file belongs to, or the module beside them."""
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


def shim(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def is_own(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).startswith("vllm_hpc.")


def names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_module_has_its_place() -> None:
    rooms = {room(path) for path in FILES if shim(path) not in SHIMS} - {"__init__"}
    assert rooms == set(RANK), "place a new room in LAYERS, or take an old one out"


@pytest.mark.parametrize("name", sorted(SHIMS))
def test_a_shim_only_passes_on_what_has_moved(name: str) -> None:
    (module,) = [one for one in ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")).body if is_own(one)]
    assert isinstance(module, ast.ImportFrom)
    said = importlib.import_module(f"vllm_hpc.{name.replace('/', '.')}").__doc__
    assert said is not None and said.startswith("0.1's name of ``vllm_hpc.")


@pytest.mark.parametrize(
    "path", [path for path in FILES if room(path) not in ("__init__", "engine") and shim(path) not in SHIMS], ids=names
)
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
    allowed = {"__future__", "importlib", "os", "typing", "submitit", "vllm_hpc"}
    found = list(imports(PLUGIN))
    assert {name.split(".")[0] for name, _ in found} <= allowed
    assert {name for name, _ in own_imports(PLUGIN)} <= {"errors", "spec"}


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_stays_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
    assert not path.stem.endswith(("_utils", "_util", "_helper", "_helpers"))
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")


@pytest.mark.parametrize("path", [path for path in FILES if shim(path) not in READ_DIRECTLY], ids=names)
def test_files_are_read_by_one_reader(path: Path) -> None:
    """spec/read_file.py, which neither waits for a pipe nor reads without end."""
    assert _READS.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=names)
def test_only_one_module_writes_files_by_name(path: Path) -> None:
    """It follows no link that somebody else may have put there."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    found = [f"{names(path)}:{number}: {line.strip()}" for number, line in lines if WRITES.search(line)]
    assert path == WRITER or found == [], f"use {names(WRITER)}"
