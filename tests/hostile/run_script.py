"""Runs a job's script in a real bash, with stand-ins for all that it starts: they keep what reaches them, to the byte.

A stand-in is bash, too. It keeps its words and its environment, each with a NUL behind it, and then runs the command
that it was given, as what it stands for would.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.passed import write_passed
from vllm_hpc.jobs.submit import Prepared
from vllm_hpc.schedulers.lifecycle import sha256

NODES = ("node-1", "node-2")
_LIMIT_S = 60
_ROOT = Path(__file__).parents[2]
_KEEP = """#!/bin/bash
export H_PYTHON=@PLACE@/python
{ printf '%s\\0' "$PWD" "$@"; } > @KEPT@/@NAME@-$$.words
env -0 > @KEPT@/@NAME@-$$.variables
"""
# What it is to run begins with these two words.
_FIND = 'until [ "$#" -lt 2 ] || [ "$1 $2" = "@SHELL@ -c" ]; do shift; done\n'
# Slurm hands on the environment; so does an MPI.
_SRUN = 'for i in 0 1; do SLURM_NODEID=$i SLURM_PROCID=$i SLURM_LOCALID=0 "$@" || code=$?; done\nexit ${code:-0}\n'
_MPI = 'for i in 0 1; do PMI_RANK=$i "$@" || code=$?; done\nexit ${code:-0}\n'
_PYXIS = 'case "$*" in *--container-image=*) export PATH=@KEPT@/image:/usr/bin:/bin ;; esac\n'
# PBS's own start a task with an environment of PBS's.
_PBS = 'exec env -i PATH=/usr/bin:/bin HOME=/ PBS_JOBID=4711.server NCPUS=1 "$@"\n'
_CONTAINER = 'export PATH=@KEPT@/image:/usr/bin:/bin H_ENV="of the image" H_SITE="of the image"\nexec "$@"\n'
_SCONTROL = f'[ "$1" = show ] || exit 1\nprintf "%s\\n" {" ".join(NODES)}\n'
# The one that the script calls, and the one that ranks are started with.
_PYTHON = """#!/bin/bash
case "$3 ${4-}" in
  'vllm_hpc.in_job rendezvous') echo 29500; exit ;;
  'vllm_hpc.in_job export') shift 4; exec @PYTHON@ -P -c @EXPORT@ "$@" ;;
  'vllm_hpc.in_job rank' | torch.distributed.run*) ;;
  'vllm_hpc.in_job requeue') exit 1 ;;
  *) exit 0 ;;
esac
"""
_EXPORT = "import sys; sys.path.insert(0, {!r}); from vllm_hpc.schedulers.in_script.export_environment import main; "
_SWITCHES = {"srun": ("bash", _SRUN), "mpiexec": ("bash", _MPI), "mpirun": ("bash", _MPI), "pbsdsh": ("bash", _PBS),
             "pbs_tmrsh": ("bash", _PBS)}  # fmt: skip
_RUNTIMES = ("apptainer", "singularity", "podman", "podman-hpc", "shifter", "ch-run")


class Record(NamedTuple):
    """What reached a program: its words, its environment and its folder."""

    program: str
    words: list[str]
    variables: dict[str, str]
    folder: str


class Ran(NamedTuple):
    """A script that has run, and who was started by it."""

    folder: str
    header: list[list[str]]
    records: list[Record]
    code: int
    said: str

    @property
    def ranks(self) -> list[Record]:
        """What starts ranks, on each node."""
        return self.of("torchrun", "python")

    def of(self, *programs: str) -> list[Record]:
        """What reached the programs of these names."""
        return [one for one in self.records if one.program in programs]

    def variable(self, name: str) -> str | None:
        """A variable of the ranks, which must be the same on all nodes."""
        (value,) = {one.variables.get(name) for one in self.ranks}
        return value

    def asked(self, *options: str) -> list[str]:
        """The values of an option of the scheduler, in the order of the lines."""
        words = [word for line in self.header for word in _with_values(line)]
        return [word[len(option) :] for word in words for option in options if word.startswith(option)]


def install_python(folder: Path, kept: Path) -> Path:
    """Put Python and torchrun into ``folder/bin``, and return that Python."""
    place = folder / "bin"
    place.mkdir(parents=True)
    _program(place, kept, "torchrun", _KEEP)
    _program(place, kept, "python", _PYTHON + _KEEP.partition("\n")[2])
    return place / "python"


def install(place: Path, kept: Path) -> None:
    """Put all other programs into ``place``; an image's Python is in ``kept/image``."""
    place.mkdir()
    (kept / "image").mkdir(parents=True)
    _program(kept / "image", kept, "python3", _PYTHON + _KEEP.partition("\n")[2], "python")
    _program(place, kept, "scontrol", f"#!/bin/bash\n{_SCONTROL}")
    for name, (shell, end) in _SWITCHES.items():
        _program(place, kept, name, _KEEP + _PYXIS * (name == "srun") + _FIND.replace("@SHELL@", shell) + end)
    for name in _RUNTIMES:
        _program(place, kept, name, _KEEP + _FIND.replace("@SHELL@", "sh") + _CONTAINER)


def install_wrapper(path: Path, kept: Path) -> None:
    """A program that keeps its first words, whose number is the first of them, and runs the others."""
    _program(path.parent, kept, path.name, _KEEP + 'shift "$(($1 + 1))"\nexec "$@"\n', "wrapper")


def _program(place: Path, kept: Path, name: str, text: str, called: str = "") -> None:
    export = _EXPORT.format(str(_ROOT)) + "sys.exit(main(sys.argv[1:]))"
    signs = (("@KEPT@", str(kept)), ("@PLACE@", str(place)), ("@PYTHON@", sys.executable), ("@EXPORT@", export))
    for sign, value in signs:
        text = text.replace(sign, shlex.quote(value))
    path = place / name
    path.write_text(text.replace("@NAME@", called or name))
    path.chmod(0o755)


def run_script(prepared: Prepared, kept: Path, variables: dict[str, str]) -> Ran:
    """Make the job's folder, and run its script as its scheduler would, in this folder."""
    folder, lifecycle = JobFolder(prepared.folder), _quick(prepared.lifecycle)
    folder.create()
    folder.lifecycle.write_text(lifecycle)
    if prepared.job.passes_by_file:
        write_passed(folder, prepared.request.pass_env)
    script = prepared.script.replace(sha256(prepared.lifecycle), sha256(lifecycle))
    assert script != prepared.script
    file = kept / "script"
    file.write_text(script)
    done = subprocess.run(
        ["bash", file], env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=_LIMIT_S, start_new_session=True,
    )  # fmt: skip
    records = [_read(path) for path in sorted(kept.glob("*.words"))]
    return Ran(prepared.folder, header(script), records, done.returncode, done.stdout.decode("utf-8", "replace"))


def _quick(lifecycle: str) -> str:
    """With short naps: nothing is waited for in these scripts."""
    return re.sub(r"^( +)sleep (?:1|0\.5)$", r"\1sleep 0.01", lifecycle, flags=re.MULTILINE)


def _read(path: Path) -> Record:
    folder, *words = _entries(path)
    variables = dict(entry.partition("=")[::2] for entry in _entries(path.with_suffix(".variables")))
    return Record(path.name.rpartition("-")[0], words, variables, folder)


def _entries(path: Path) -> list[str]:
    return [os.fsdecode(entry) for entry in path.read_bytes().split(b"\0")[:-1]]


def header(script: str) -> list[list[str]]:
    """The words of each #SBATCH or #PBS line, as sbatch and qsub take them apart: up to the first command."""
    found = []
    for line in script.splitlines():
        if not line.startswith("#") and line.strip():
            break
        if line.startswith("#SBATCH "):
            found.append(list(_sbatch_words(line.removeprefix("#SBATCH "))))
        elif line.startswith("#PBS "):
            found.append(list(_qsub_words(line.removeprefix("#PBS "))))
    return found


# Slurm's _get_argument (src/sbatch/opt.c): in double quotes a backslash keeps a quote or a backslash; single quotes
# hold a word together, too.
_SBATCH = re.compile(r"""\s*((?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'])+)""")
# OpenPBS's make_argv (src/cmds/qsub.c): nothing has a meaning in quotes, outside a backslash keeps the next character.
_QSUB = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|\\.|[^\s"'\\])+)""")


def _sbatch_words(line: str) -> list[str]:
    whole = _SBATCH.findall(line)
    assert "".join(line.split()) == "".join("".join(whole).split()), f"sbatch cannot read {line!r}"
    parts = r'"((?:[^"\\]|\\.)*)"|' + r"'([^']*)'"
    return [re.sub(parts, lambda m: m[2] or re.sub(r'\\(["\\])', r"\1", m[1] or ""), word) for word in whole]


def _qsub_words(line: str) -> list[str]:
    whole = _QSUB.findall(line)
    assert "".join(line.split()) == "".join("".join(whole).split()), f"qsub cannot read {line!r}"
    return [re.sub(r"\"([^\"]*)\"|'([^']*)'|\\(.)", lambda m: m[1] or m[2] or m[3] or "", word) for word in whole]


def _with_values(line: list[str]) -> list[str]:
    """An option of qsub with the next word, its value, behind it; sbatch's have it in the same."""
    found: list[str] = []
    for word in line:
        if found and re.fullmatch("-[A-Za-z]", found[-1]):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found
