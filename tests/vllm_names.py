"""Look up the names that patches need in the source of any vLLM release, without importing it.

    python -m tests.vllm_names vllm-0.33.0-cp38-abi3-manylinux1_x86_64.whl FOLDER ...

takes wheels, or folders that contain vllm/ and its .dist-info, writes the missing names to tests/vllm_names.json, and
makes docs/vllm-versions.md from that and the table of patches. Without an argument it only makes the page.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import msgspec

from vllm_hpc.engine.vllm_patches.table import PATCHES, REQUIRED, Patch, every_name

ROOT = Path(__file__).parents[1]
FOUND = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "vllm-versions.md"
_DIST_INFO = re.compile(r"vllm(?:_cpu)?-(\d[^-/]*)\.dist-info(?:/METADATA)?")

Read = Callable[[str], str | None]


class Found(msgspec.Struct):
    """What was looked up, and by version what is missing."""

    names: list[str]
    missing: dict[str, list[str]]


class Source:
    """The source of one release. ``read`` gives the text of a file, by its path; None where there is none."""

    def __init__(self, version: str, read: Read) -> None:
        self.version = version
        self._read = read
        self._module = cache(self._parse)

    @classmethod
    def open(cls, path: Path) -> Source:
        """A wheel, or a folder with vllm/ and its .dist-info in it."""
        if path.is_dir():
            names = [one.name for one in path.glob("*.dist-info")]
            return cls(_version(names, path), lambda name: _text(path / name))
        wheel = zipfile.ZipFile(path)
        files = set(wheel.namelist())
        return cls(_version(files, path), lambda name: wheel.read(name).decode() if name in files else None)

    def has(self, name: str) -> bool:
        """Whether "module:attribute" or "module:class.attribute" is there."""
        module, _, path = name.partition(":")
        first, *rest = path.split(".")
        found = self._find(module, first)
        if found is None or not rest:
            return found is not None
        (attribute,) = rest
        module, node = found
        return isinstance(node, ast.ClassDef) and self._class_has(module, node, attribute)

    def _parse(self, module: str) -> ast.Module | None:
        path = module.replace(".", "/")
        text = self._read(f"{path}.py") or self._read(f"{path}/__init__.py")
        return ast.parse(text) if text is not None else None

    def _find(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        """Where a module has a name from: the module that defines it, and how. None where it has none."""
        tree = self._module(module)
        for node in _statements(tree.body) if tree else ():
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self._find(self._from(module, node), alias.name) or (module, node)
            elif name in _bound(node):
                return module, node
        return None

    def _from(self, module: str, node: ast.ImportFrom) -> str:
        """The module that an import takes names from."""
        if not node.level:
            return node.module or ""
        is_package = self._read(f"{module.replace('.', '/')}.py") is None
        parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
        return ".".join([*parents, *([node.module] if node.module else [])])

    def _class_has(self, module: str, cls: ast.ClassDef, attribute: str) -> bool:
        if any(attribute in _bound(node) or attribute in _set_in_init(node) for node in cls.body):
            return True
        for base in cls.bases:
            named = base.value if isinstance(base, ast.Subscript) else base
            found = self._find(module, named.id) if isinstance(named, ast.Name) else None
            if found and isinstance(found[1], ast.ClassDef) and self._class_has(found[0], found[1], attribute):
                return True
        return False


def _version(names: list[str] | set[str], path: Path) -> str:
    for name in names:
        if match := _DIST_INFO.fullmatch(name):
            return match[1].partition("+")[0]
    raise SystemExit(f"{path} has no vllm-VERSION.dist-info: name a wheel, or the folder that one was unpacked into")


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """A module's own statements, those of its conditions too."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            for part in (node.body, node.orelse, getattr(node, "finalbody", []), *handlers):
                yield from _statements(part)


def _bound(node: ast.AST) -> set[str]:
    """The names that a statement binds in its own scope."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _set_in_init(node: ast.AST) -> set[str]:
    """The attributes of self that an ``__init__`` sets, or what an executor has in its place."""
    if not isinstance(node, ast.FunctionDef) or node.name not in ("__init__", "_init_executor"):
        return set()
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and _is_self(one.value)
    }


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def look_up(sources: list[Source], before: Found) -> Found:
    """What is missing in these releases, and what was found of others for the same names."""
    names = every_name()
    missing = before.missing if before.names == names else {}
    for source in sources:
        missing[source.version] = [name for name in names if not source.has(name)]
    return Found(names, dict(sorted(missing.items(), key=lambda item: _number(item[0]))))


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def read_found() -> Found:
    """What is kept of earlier look-ups."""
    return msgspec.json.decode(FOUND.read_bytes(), type=Found) if FOUND.exists() else Found([], {})


def verdict(patch: Patch, version: str, missing: list[str]) -> str:
    """Whether a patch is on in a release, and else why not: as a rank would say."""
    lacking = [name for name in patch.names if name in missing]
    return f"vLLM {version} has no `{lacking[0].replace(':', '.')}`" if lacking else patch.off_in(version)


def page(found: Found) -> str:
    """docs/vllm-versions.md."""
    versions = list(found.missing)
    reasons: list[str] = []
    rows = [_row(patch, found, reasons) for patch in PATCHES.values()]
    required = {where: [name for name in names if _lack(name, found)] for where, names in REQUIRED.items()}
    lines = [
        *_HEAD,
        _cells("patch", *versions),
        _cells(*["---"] * (len(versions) + 1)),
        *rows,
        "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)),
        "",
        *_SEEN,
        "",
        *_PATCHES_HEAD,
        *(_cells(f"`{patch.name}`", patch.does, patch.without) for patch in PATCHES.values()),
        "",
        *_REQUIRED_HEAD,
        *(_cells(f"`{where}`", _names(names), _names(required[where]) or "none") for where, names in REQUIRED.items()),
        "",
        *_FOOT,
    ]
    return "\n".join(lines) + "\n"


def _row(patch: Patch, found: Found, reasons: list[str]) -> str:
    cells = []
    for version, missing in found.missing.items():
        why = verdict(patch, version, missing).replace(f"vLLM {version}", "this version")
        if why and why not in reasons:
            reasons.append(why)
        cells.append(f"off ({reasons.index(why) + 1})" if why else "on")
    return _cells(f"`{patch.name}`", *cells)


def _lack(name: str, found: Found) -> list[str]:
    return [version for version, missing in found.missing.items() if name in missing]


def _names(names: list[str] | tuple[str, ...]) -> str:
    """As code; a class of which attributes are named goes without saying."""
    said = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    return ", ".join(f"`{name.replace(':', '.')}`" for name in said)


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


_HEAD = """\
# vLLM's versions, and the patches

vllm-hpc runs the installed vLLM. To save time it changes vLLM's internals in a few places. Each such change is a patch
with a name, in `vllm_hpc/engine/vllm_patches/`. A patch is on if vLLM has every name that it needs. A patch that
depends on more than names is on only for versions whose code was compared with it line by line. If a patch is off, the
job runs without it. Each rank's log says which patches are on and why the others are off; so does `patches` in
`ranks/rank-<r>.json`.

A patch that is on for a version may still be off for a job. The log says why, for example because one rank samples all
rows.

`python -m tests.vllm_names` makes this page from the table of patches and the source of each release.

## By version

""".splitlines()
_SEEN = """\
## What was run

- 0.26: on H100 and H200 (docs/performance.md); its CPU build passes the engine's tests (`make test-vllm-oldest`).
- 0.27 to 0.31: nothing; only the names were looked up.
- 0.32: its CPU build, in all tests.
- 0.33: it has no CPU build yet. Its source was compared with that of 0.32. Its Python files were run with the compiled
  parts of 0.32's CPU build: in the comparison of `tests/engine/test_fast_schedule.py` every step was the same with and
  without `fast-schedule`, for both schedulers, with and without prefix cache, chunked prompts and preemption.
""".splitlines()
_PATCHES_HEAD = """\
## What each patch does

| patch | what it does | without it |
| --- | --- | --- |""".splitlines()
_REQUIRED_HEAD = """\
## Names that every job needs

These names are documented by vLLM, or other projects also use them. If one is missing, a job fails when it starts.

| used in `vllm_hpc/engine/` | names | missing in any of these versions |
| --- | --- | --- |""".splitlines()
_FOOT = """\
## A new release of vLLM

1. Run `pip download --no-deps vllm==VERSION`, then `python -m tests.vllm_names vllm-VERSION-*.whl`: the new column
   shows which names are missing.
2. For the patches with `read` in `vllm_hpc/engine/vllm_patches/table.py`, compare the code that they replace with that
   of the version before: `vllm/v1/core/sched/`, `vllm/v1/core/*kv_cache*.py`, `vllm/v1/request.py`, and
   `vllm/v1/worker/gpu/sample/`. Add the version to those that are still correct. A patch that is wrongly on gives wrong
   tokens; one that is off only costs time.
3. Run `make test-full`.""".splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description="Look up the names that patches need in releases of vLLM.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="WHEEL_OR_FOLDER")
    found = look_up([Source.open(path) for path in parser.parse_args().paths], read_found())
    FOUND.write_text(json.dumps(msgspec.to_builtins(found), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    for version, missing in found.missing.items():
        print(f"vLLM {version}: {len(found.names) - len(missing)} names there, missing: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
