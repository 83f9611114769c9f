"""Runs code as Python runs a script: as ``__main__``, with its arguments and folder, and to the end of its threads."""

from __future__ import annotations

import builtins
import hashlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

from vllm_hpc.engine.programs.late_imports import when_imported
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.read_file import read_regular


class ScriptExitError(RuntimeError):
    """The script has ended with another exit code than 0: so does its rank (schedulers/in_script/rank.py)."""

    def __init__(self, name: str, code: int, said: str = "") -> None:
        super().__init__(f"{name} ended with exit code {code}{said and ': '}{said}")
        self.rank_exit_code = code


def run_as_main(code: CodeType, program: Program, copy: Path) -> None:
    """Run a script's code, and its threads to their end. Raises what it raises.

    ``copy``: the file that the code is from. Raises ScriptExitError for an exit code other than 0.
    """
    main = ModuleType("__main__")
    vars(main).update(__file__=program.source, __builtins__=builtins, __spec__=None)
    sys.modules["__main__"] = main
    sys.argv = [program.source, *program.arguments]
    sys.path.insert(0, program.folder)
    when_imported("multiprocessing.spawn", lambda module: _start_from_copy(module, program, copy))
    try:
        with _ending_forks():
            exec(code, vars(main))
    except SystemExit as ended:
        number, said = _exit_code(ended.code)
        if number:
            raise ScriptExitError(program.name, number, said).with_traceback(ended.__traceback__) from None
    # As Python does at the end of a script; what is registered for the exit comes later (schedulers/in_script/rank.py).
    threading._shutdown()  # type: ignore[attr-defined]


@contextmanager
def _ending_forks() -> Iterator[None]:
    """End a process that the script has forked where the script ends: the rank itself goes on in its parent."""
    rank = os.getpid()
    try:
        yield
    except SystemExit as ended:
        if os.getpid() == rank:
            raise
        number, said = _exit_code(ended.code)
        _end_fork(number, said)
    except BaseException:
        if os.getpid() == rank:
            raise
        _end_fork(1, traceback.format_exc())
    if os.getpid() != rank:
        _end_fork(0, "")


def _end_fork(number: int, said: str) -> NoReturn:
    """Without what is registered for the rank's own exit, which removes the rank's files."""
    if said:
        print(said, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(number)


def _exit_code(said: Any) -> tuple[int, str]:
    """The exit code of ``sys.exit(said)``, and its words if it has no number."""
    if said is None or isinstance(said, int):
        return (said or 0) & 0xFF, ""
    return 1, str(said)


def _start_from_copy(module: Any, program: Program, copy: Path) -> None:
    """Have processes that multiprocessing spawns run the copy, if the script's file is no longer what was submitted."""
    make = module.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = make(name)
        if data.get("init_main_from_path") == os.path.normpath(program.source) and not _is_unchanged(program):
            data["init_main_from_path"] = str(copy)
        return data

    module.get_preparation_data = get_preparation_data


def _is_unchanged(program: Program) -> bool:
    with suppress(OSError):
        return hashlib.sha256(read_regular(Path(program.source))).hexdigest() == program.sha256
    return False
