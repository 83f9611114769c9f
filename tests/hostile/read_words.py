"""What an image's runtime takes from the words that reach it, by tests/containers/stand_in.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.containers.stand_in import PROGRAMS

if TYPE_CHECKING:
    from tests.hostile.run_script import Ran

Bind = tuple[str, str, str]
# Options of the tests' own, which no runtime has.
_OURS = ("--label=", "--comment=", "-C")


def program_of(runtime: str | None) -> str:
    """The program of a runtime."""
    return {"charliecloud": "ch-run", "pyxis": "srun"}.get(str(runtime), str(runtime))


def images_of(ran: Ran, runtime: str | None) -> set[str]:
    """The image that each node's runtime was told."""
    return {image for image, _ in _runs(ran, runtime)}


def binds_of(ran: Ran, runtime: str | None) -> list[Bind]:
    """The binds that all nodes have; each may have one more, of a folder that it has made in its scratch."""
    runs = [binds for _, binds in _runs(ran, runtime)]
    shared = [bind for bind in runs[0] if all(bind in binds for binds in runs)]
    assert all(len(binds) - len(shared) <= 1 for binds in runs), runs
    return shared


def _runs(ran: Ran, runtime: str | None) -> list[tuple[str, list[Bind]]]:
    program = program_of(runtime)
    found = []
    for record in ran.of(program):
        words = [word for word in record.words if not word.startswith(_OURS)]
        found.append(_charliecloud(words) if program == "ch-run" else PROGRAMS[program](words)[:2])
        workdir = _workdir(words, program)
        assert Path(workdir) == Path(ran.folder), workdir
    return found


def _charliecloud(words: list[str]) -> tuple[str, list[Bind]]:
    """``ch-run [OPTION...] IMAGE -- COMMAND``, with --bind=SRC:DST (ch-run(1))."""
    binds = []
    for word in words:
        if word.startswith("--bind="):
            source, inside = word.removeprefix("--bind=").split(":")
            binds.append((source, inside, ""))
    place = words.index("--")
    assert all(word.startswith("--") for word in words[: place - 1]), words
    return words[place - 1], binds


def _workdir(words: list[str], program: str) -> str:
    option = {"ch-run": "--cd=", "srun": "--container-workdir="}.get(program)
    options = (option,) if option else ("--pwd=", "--workdir=")
    (found,) = (word.partition("=")[2] for word in words if word.startswith(options))
    return found
