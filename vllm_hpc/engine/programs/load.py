"""A user's program on a rank: found in the job folder's copy, a module or a pickle, and made without arguments."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.programs.call import call_part
from vllm_hpc.engine.programs.source import compile_copy, line_of, read_copy
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.program import Program

_PARTS = ("setup", "on_output", "run", "teardown")
# The module of a file whose own name is another module's.
_MODULE = "vllm_hpc_program"


class UserProgram:
    """A program's object, or function; what it does not have is None."""

    def __init__(self, target: Any, sources: set[str]) -> None:
        is_function = callable(target) and not any(hasattr(target, name) for name in _PARTS)
        found: dict[str, Callable[..., Any] | None] = dict.fromkeys(_PARTS)
        found |= {"run": target} if is_function else {name: _method(target, name) for name in _PARTS}
        self.setup, self.on_output, self.run, self.teardown = (found[name] for name in _PARTS)
        self.needs_hooks = bool(getattr(target, "needs_hooks", False))
        codes = (getattr(method, "__code__", None) for method in found.values())
        self._sources = sources | {code.co_filename for code in codes if code is not None}

    def call(self, name: Literal["setup", "run", "teardown"], context: Any, report: RankReport) -> None:
        """Call that part, if there is one. ``sys.exit()`` in it ends it alone, unless with an error's code.

        Raises whatever it raises.
        """
        part: Callable[[Any], object] | None = getattr(self, name)
        if part is None:
            return
        with report.timed(name):
            try:
                call_part(name, part, context)
            except SystemExit as error:
                if error.code:  # None and 0 mean success
                    raise

    def locate(self, error: BaseException) -> str:
        """Where in the program an error came from, as "file.py:12"; "" if it did not."""
        return next(filter(None, (line_of(error, source) for source in self._sources)), "")


def load_program(job: JobFolder, program: Program) -> UserProgram:
    """Find the program and make its object. Raises whatever its code raises, and RequestError.

    An error of the code is raised with where it came from as a note, because nothing else knows the code yet.
    """
    if program.folder and program.folder not in sys.path:
        sys.path.append(program.folder)
    sources = {program.source}
    try:
        target = _FIND[program.kind](job, program)
        if isinstance(target, type):
            sources.add(getattr(sys.modules.get(target.__module__), "__file__", None) or program.source)
            target = target()
        found = UserProgram(target, sources)  # which may run code of it, too: properties
    except RequestError:
        raise
    except BaseException as error:
        raise _unloadable(program, error, sources) from error
    _check(program, found)
    return found


def _unloadable(program: Program, error: BaseException, sources: set[str]) -> RequestError:
    where = next(filter(None, (line_of(error, source) for source in sources)), "")
    said = f"{type(error).__name__}{f': {error}' if str(error) else ''}{f' ({where})' if where else ''}"
    return RequestError(f"--program {program.name} cannot be loaded: {said}: correct it, and submit a new job")


def _from_file(job: JobFolder, program: Program) -> Any:
    """The class or function, of the copy in the job folder, under the name of the file that it was made of."""
    code = compile_copy(read_copy(job.program, program.sha256), program.source)
    name = _module_name(program.source)
    module = ModuleType(name)
    module.__file__ = program.source
    sys.modules[name] = module  # dataclasses and pickles look it up
    exec(code, module.__dict__)
    return _attribute(module, program)


def _module_name(source: str) -> str:
    """The name under which the program's neighbours would import it, unless that is another module's."""
    name = Path(source).stem
    if not name.isidentifier() or name in sys.modules:
        return _MODULE
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        return _MODULE
    return name if spec is None or spec.origin == source else _MODULE


def _from_module(job: JobFolder, program: Program) -> Any:
    return _attribute(importlib.import_module(program.source), program)


def _from_pickle(job: JobFolder, program: Program) -> Any:
    content = read_copy(job.program_pickle, program.sha256)
    pickled_by = job.job().versions.get("python", "")
    here = platform.python_version()
    if pickled_by and _minor(pickled_by) != _minor(here):
        raise RequestError(
            f"--program was pickled by Python {pickled_by}, and ranks have {here}: use the same minor version, "
            "or put the program into a file"
        )
    import cloudpickle  # type: ignore[import-untyped]

    return cloudpickle.loads(content)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _attribute(module: ModuleType, program: Program) -> Any:
    name = program.name.rpartition(":")[2]
    try:
        return getattr(module, name)
    except AttributeError:
        raise RequestError(
            f"{program.source} has no {name!r} here: define it at the top of the module, whatever the environment is"
        ) from None


_FIND: dict[str, Callable[[JobFolder, Program], Any]] = {
    "file": _from_file,
    "module": _from_module,
    "pickle": _from_pickle,
}


def _method(target: Any, name: str) -> Callable[..., Any] | None:
    method = getattr(target, name, None)
    if method is not None and not callable(method):
        raise RequestError(f"{name} of {type(target).__name__} must be a method, not {method!r}")
    found: Callable[..., Any] | None = method
    return found


def _check(program: Program, found: UserProgram) -> None:
    """Compare with what was seen at the submission, without running anything. Raises RequestError."""
    here = {"run": found.run is not None, "needs_hooks": found.needs_hooks}
    then = {"run": program.drives_engine, "needs_hooks": program.needs_hooks}
    for name, is_here in here.items():
        if is_here != then[name]:
            raise RequestError(
                f"--program {program.name} has {name if is_here else f'no {name}'} on this rank, unlike at the "
                f"submission: write {name} in the class itself, and submit a new job"
            )
    if found.run is None and not (found.setup or found.on_output or found.teardown):
        raise RequestError(f"--program {program.name} has none of {', '.join(_PARTS)}: define one of them")
