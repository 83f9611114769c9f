"""The desk of a case: its folders, a job that has ended, clients of schedulers, and the damage done to files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.brisk import READS, brisk, whole
from tests.crafted import end, make_job, progress, rank, result, start, write_lines
from tests.hostile.cases import DONE, Case, Edit
from tests.hostile.generate_values import changed, json_bytes, value
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.lifecycle import lifecycle_text

# Every client that may be called: none of this machine's is.
CLIENTS = (
    "sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo", "srun", "qsub", "qstat", "qdel", "qselect", "qalter",
    "qrerun", "pbsnodes", "pbsdsh", "sacctmgr", "nvidia-smi", "rocm-smi", "torchrun",
)  # fmt: skip
_KEEP = 'for script; do :; done; [ ! -f "$script" ] || cat "$script" > "$KEPT"'
# A client that takes everything, and says nothing but the id of what was submitted.
_TAKES = {
    "sbatch": f"{_KEEP}; echo 4711",
    "qsub": f'[ "$*" != --version ] || {{ echo pbs_version = 23.06.06; exit; }}; {_KEEP}; echo 4711.server',
    "qstat": "echo pbs_version = 23.06.06",
    # It starts the task here, whose torchrun does nothing.
    "srun": 'while case "$1" in -*) ;; *) false;; esac; do shift; done; "$@"',
    "nvidia-smi": "exit 6",
    "rocm-smi": "exit 6",
}
# The script's Python, which is asked for a free port, and whether the job runs again: no.
_PYTHON = 'case "$*" in *rendezvous*) echo 29500;; *torch.distributed.run*) ;; *) exit 1;; esac'
_SPARSE = 1 << 40


class Desk:
    """The folders of one case: ``desk`` is its working directory, with the user's own folders beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desk, self.bin, self.kept = folder / "desk", folder / "bin", folder / "kept"
        self.temporary, self.home, self.cache = folder / "tmp", folder / "home", folder / "cache"
        for path in (self.desk, self.bin, self.temporary, self.home, self.cache):
            path.mkdir(parents=True)
        (folder / "private").write_text("nobody writes here\n")

    def variables(self, case: Case) -> dict[str, str]:
        """The whole environment."""
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.home), "TMPDIR": str(self.temporary),
            "LANG": "C.UTF-8",
            "XDG_CACHE_HOME": str(self.cache), "XDG_CONFIG_HOME": str(self.desk / "config"), "TERM": "dumb",
            "XDG_CONFIG_DIRS": str(self.folder / "site"), "KEPT": str(self.kept), "NO_COLOR": "1", **case.variables,
        }  # fmt: skip

    def lay_out(self, case: Case, finished: Callable[[], Path]) -> None:
        """Put down what the case finds. ``finished`` is the folder of a job that has ended, which is copied."""
        for name in CLIENTS:
            self.program(name, case.clients.get(name, _TAKES.get(name, ":")))
        if case.has_job:
            shutil.copytree(finished(), self.desk / DONE)
        for edit in case.edits:
            self.edit(edit)

    def program(self, name: str, code: str) -> None:
        """A program of that name, which runs these lines of sh."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8", errors="replace")
        path.chmod(0o755)

    def script(self) -> str | None:
        """What was submitted, with our own programs in the place of Python's; None if nothing was."""
        if not self.kept.exists():
            return None
        self.program("python", _PYTHON)
        self.program("scontrol", "echo localhost")
        kept = self.kept.read_text(encoding="utf-8").replace(f"{Path(sys.executable).parent}:", f"{self.bin}:")
        return brisk(whole(kept)) if READS in kept else kept

    def edit(self, edit: Edit) -> None:
        """Do to a file what the edit says; what cannot be done (there is no such file) is left."""
        path = self.desk / edit.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:  # what was damaged before is the folder above
            return
        before = path.read_bytes() if path.is_file() and path.stat().st_size < _SPARSE else b""
        if edit.how not in ("append", "write", "json", "truncate"):
            _remove(path)
        _DAMAGE[edit.how](path, before, edit)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, before: bytes, edit: Edit) -> None:
    _remove(path)
    path.write_bytes(edit.content)


def _truncate(path: Path, before: bytes, edit: Edit) -> None:
    path.write_bytes(before[: Random(edit.seed).randrange(len(before) + 1)])


def _append(path: Path, before: bytes, edit: Edit) -> None:
    path.write_bytes(before + edit.content)


def _sparse(path: Path, before: bytes, edit: Edit) -> None:
    path.touch()
    os.truncate(path, _SPARSE)


def _json(path: Path, before: bytes, edit: Edit) -> None:
    """Change a value of the record, or of a line of them."""
    random, lines = Random(edit.seed), before.splitlines()
    place = random.randrange(len(lines)) if path.suffix == ".jsonl" and lines else None
    try:
        given = json.loads(before if place is None else lines[place])
    except ValueError:
        given = value(random)
    made = json_bytes(changed(random, given))
    path.write_bytes(made if place is None else b"\n".join([*lines[:place], made, *lines[place + 1 :]]) + b"\n")


_DAMAGE: dict[str, Callable[[Path, bytes, Edit], object]] = {
    "write": _write,
    "truncate": _truncate,
    "append": _append,
    "json": _json,
    "sparse": _sparse,
    "empty": lambda path, before, edit: path.touch(),
    "binary": lambda path, before, edit: path.write_bytes(Random(edit.seed).randbytes(3000)),
    "remove": lambda path, before, edit: None,
    "folder": lambda path, before, edit: path.mkdir(),
    "fifo": lambda path, before, edit: os.mkfifo(path),
    "zeros": lambda path, before, edit: path.symlink_to("/dev/zero"),
    "away": lambda path, before, edit: path.symlink_to(Path("../" * edit.path.count("/")) / ".." / "private"),
    "loop": lambda path, before, edit: path.symlink_to(path.name),
}


def make_finished(folder: Path) -> Path:
    """A rehearsed job of Slurm's that ended after two attempts, with every row but one: as its parts would leave it."""
    job = make_job(folder / "done", 6, "slurm")
    prepared = prepare(rehearse=True, scheduler="slurm", name="done", job_dir=str(folder / "other"), tp=1)
    record = json.loads(job.job_json.read_text())
    record |= {"request": json.loads(json_bytes(_builtins(prepared.request))), "version": 2}
    job.job_json.write_text(json.dumps(record))
    (job.path / "script.sbatch").write_text(prepared.script)
    job.lifecycle.write_text(lifecycle_text())
    job.submitted.write_text(json.dumps({"scheduler": "slurm", "job_id": "4711", "submitted_at": 1000.0}))
    for attempt in (1, 2):
        start(job, attempt)
        end(job, 0, attempt=attempt)
    _ranks(job)
    return job.path


def _builtins(request: object) -> object:
    import msgspec

    return msgspec.to_builtins(request)


def _ranks(job: JobFolder) -> None:
    """What the only rank of both attempts leaves."""
    progress(job, 4, failed=1, tokens=12)
    rank(job, 0, "ok", 60.0, attempt=2)
    job.heartbeat(0).write_text("")
    failed = {"index": 4, "id": "4", "error": {"type": "ValueError", "message": "no"}, "rehearsal": True}
    write_lines(job.shard(0, 1), [result(0, rehearsal=True), result(1, rehearsal=True)], torn='{"index": 2, "id')
    write_lines(job.shard(0, 2), [result(2, rehearsal=True), result(3, rehearsal=True), failed])
    job.scheduler_log.write_text("vllm-hpc: node-1 joined as node 0\n" * 20)
    job.rank_log(0).write_text("loading\n" * 20)
    job.claimed(0, 1).write_text('{"chunk": 0}\n')
    job.outputs.write_text("{}\n")
