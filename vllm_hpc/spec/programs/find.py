"""Finds what --program and --script name. Nothing of it is imported: facts are read from its source.

A file is copied into the job folder, and ranks run the copy; a module is imported by the ranks where it is.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import keyword

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.no_secrets import check_no_secret
from vllm_hpc.spec.program import FoundProgram, Program
from vllm_hpc.spec.programs.definitions import find_definition
from vllm_hpc.spec.programs.facts import Facts, facts_of_class, facts_of_function
from vllm_hpc.spec.programs.modules import find_module, working_directory
from vllm_hpc.spec.programs.read_code import read_named
from vllm_hpc.spec.programs.source import Source, check_syntax, defined, parse, statements

PROGRAM, SCRIPT = "--program", "--script"
_MUST_BE = "must be package.module:NAME or FILE.py:NAME, of a class or a function"


def find_script(text: str, arguments: list[str], is_newer_python: bool = False) -> FoundProgram:
    """The script of --script, as it is. Raises RequestError.

    ``is_newer_python``: an image's Python runs it, which may have more syntax than this one.
    """
    if text.endswith(".ipynb"):
        raise RequestError(f"{SCRIPT} {text!r} is a notebook: write it as a script (jupyter nbconvert --to script)")
    path, content, distrust = read_named(text, SCRIPT)
    _check_content(content, f"{SCRIPT} {text!r}")
    first = content.partition(b"\n")[0]
    if first.startswith(b"#!") and b"python" not in first:
        raise RequestError(f"{SCRIPT} {text!r} is for another program, by its first line: name a Python script")
    if not is_newer_python:
        check_syntax(content, path)
    program = Program(
        kind="script",
        name=path.name,
        source=str(path),
        folder=str(path.parent),
        sha256=hashlib.sha256(content).hexdigest(),
        arguments=tuple(arguments),
        directory=working_directory(),
        drives_engine=True,
    )
    return FoundProgram(program, content, distrust.fact if distrust else None)


def find_program(text: str) -> FoundProgram:
    """The class or function of --program. Raises RequestError."""
    place, sign, name = text.rpartition(":")
    if not sign:
        raise RequestError(f"{PROGRAM} {text!r} {_MUST_BE}{_advice(text)}")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise RequestError(f"{PROGRAM} {text!r} {_MUST_BE}: {name!r} is no name of one")
    if place.endswith(".py"):
        return _in_file(place, name)
    if "/" in place:
        raise RequestError(f"{PROGRAM} {text!r} {_MUST_BE}: {place!r} is no .py file")
    if not all(part.isidentifier() for part in place.split(".")):
        raise RequestError(f"{PROGRAM} {text!r} {_MUST_BE}: {place!r} is no module's name")
    return _in_module(place, name)


def _in_file(place: str, name: str) -> FoundProgram:
    path, content, distrust = read_named(place, PROGRAM)
    _check_content(content, f"{PROGRAM} {place!r}")
    source = Source(path, parse(content, path), "", str(path.parent))
    if relative := _relative_import(source):
        raise RequestError(
            f"{path}:{relative.lineno}: a file that is run by itself has no relative imports: name it as "
            f"package.module:{name}, or import by whole names"
        )
    facts = _facts(source, name)
    check_syntax(content, path)
    program = Program(
        kind="file",
        name=name,
        source=str(path),
        folder=str(path.parent),
        sha256=hashlib.sha256(content).hexdigest(),
        directory=working_directory(),
        drives_engine=facts.drives_engine,
        needs_hooks=facts.needs_hooks,
    )
    return FoundProgram(program, content, distrust.fact if distrust else None)


def _in_module(place: str, name: str) -> FoundProgram:
    try:
        module = find_module(place)
    except RequestError as error:
        raise RequestError(f"{PROGRAM} {place}:{name}: {error}") from None
    path, content, distrust = read_named(str(module.file), PROGRAM)
    facts = _facts(Source(path, parse(content, path), module.package, module.folder), name)
    check_syntax(content, path)
    program = Program(
        kind="module",
        name=name,
        source=place,
        folder=module.folder,
        directory=working_directory(),
        drives_engine=facts.drives_engine,
        needs_hooks=facts.needs_hooks,
    )
    return FoundProgram(program, None, distrust.fact if distrust and module.folder else None)


def _facts(source: Source, name: str) -> Facts:
    found = find_definition(source, name)
    if found is None:
        raise RequestError(f"{PROGRAM}: {source.path} has no class or function {name!r}{_near(source, name)}")
    return facts_of_class(found, name) if isinstance(found.node, ast.ClassDef) else facts_of_function(found, name)


def _near(source: Source, name: str) -> str:
    """What to give instead of a name that is not there, or is no class or function."""
    node = defined(source.tree.body).get(name)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return f": line {node.lineno} imports it from where it is not found: name the module that it is in"
    if node is not None:
        return f": line {node.lineno} assigns that name, so write it with class or def"
    names = _classes_and_functions(source)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": it has {', '.join(names[:5])}" if names else ": write one"


def _classes_and_functions(source: Source) -> list[str]:
    nodes = [node for node in statements(source.tree.body) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return list(dict.fromkeys(node.name for node in nodes if not node.name.startswith("_")))


def _advice(text: str) -> str:
    """What to write in place of a file or a module alone."""
    if not text.endswith(".py"):
        module, dot, name = text.rpartition(".")
        if dot and module.replace(".", "").isidentifier() and name[:1].isupper():
            return f": did you mean {module}:{name}?"
        return f", as {text}:NAME" if text and "/" not in text and text.isprintable() else ""
    return f": add its name, as {text}:NAME, or use {SCRIPT} {text} to run the file as it is"


def _relative_import(source: Source) -> ast.ImportFrom | None:
    nodes = (node for node in statements(source.tree.body) if isinstance(node, ast.ImportFrom))
    return next((node for node in nodes if node.level), None)


def _check_content(content: bytes, origin: str) -> None:
    """Refuse code with a secret in it, which would be copied to where others may read it. Raises RequestError."""
    check_no_secret(content.decode("utf-8", "replace"), origin)
