"""Program: a user's own code that every rank of a job runs, beside the rank loop (--program) or instead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

# How ranks find the code: a script that is run as it is; a class or function in a file; in a module that they import;
# or an object that was pickled by value (cloudpickle), from a notebook.
Kind = Literal["script", "file", "module", "pickle"]


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What job.json says of a job's program.

    ``name``: the class or function; of a script, its file's name. ``source``: where it was found, for messages: the
    absolute path of the file, or the module's name. ``folder``: the folder that ranks add to sys.path, where that of
    the file or of the module's package is; empty if Python finds it without. ``sha256``: digest of the copy in the job
    folder (JobFolder.program); empty for a module, which is imported where it is. ``arguments``: sys.argv[1:] of a
    script. ``directory``: the working directory of the submission, in which a script runs. ``drives_engine``: it has
    ``run``, or is a script: no rows are expected, and the job is COMPLETED if all ranks end with 0. ``needs_hooks``:
    it asks for eager mode, since CUDA graphs and compiled code call no hooks.
    """

    kind: Kind
    name: str
    source: str
    folder: str = ""
    sha256: str = ""
    arguments: tuple[str, ...] = ()
    directory: str = ""
    drives_engine: bool = False
    needs_hooks: bool = False

    @property
    def is_script(self) -> bool:
        """Whether it is a script that is run as it is, which starts its own engine."""
        return self.kind == "script"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that ranks read: of its code, and of a script the one that it runs in."""
        wanted = (self.folder, self.directory if self.is_script else "")
        return tuple(Path(folder) for folder in dict.fromkeys(wanted) if folder.strip("/"))

    @property
    def option(self) -> str:
        """The option that gave it."""
        return "--script" if self.is_script else "--program"

    @property
    def title(self) -> str:
        """What it is, in words."""
        return f"script {self.name}" if self.is_script else f"program {self.name}"


class FoundProgram(msgspec.Struct, frozen=True):
    """A program as it was found at the submission. ``content``: what the job folder gets a copy of, if anything.

    ``distrust`` says who else may have written the code.
    """

    program: Program
    content: bytes | None = None
    distrust: str | None = None
