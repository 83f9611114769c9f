"""One job of one way: started in that way's own home, timed, and its answers counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks.gpu.start import CACHES
from benchmarks.whole_job.ways import Answers, Way, Work

ROOT = Path(__file__).parents[2]
COMPILED = "compiled"  # a file in a home, once a job there was done


class Done(msgspec.Struct, frozen=True):
    """What a job took, in seconds: until its last row was readable, and until the command's end.

    ``load``: of the machine before it. ``first``: nothing was compiled in its home before. ``same``: rows whose text is
    that of the first job.
    """

    way: str
    round: int
    first: bool
    seconds: float
    whole: float
    rows: int
    answered: int
    same: int
    load: float
    failed: str = ""


def run(way: Way, work: Work, number: int, folder: Path, limit: float) -> tuple[Done, Answers]:
    """Run a way's command. A job that fails or lasts longer is told as such."""
    home, place = folder / f"home-{way.name}", Path(tempfile.mkdtemp(prefix=f"{way.name}-{number}-", dir=folder))
    is_first = _clean(home)
    load, began, clock = os.getloadavg()[0], time.time(), time.perf_counter()
    failed = _run(way.command(work, place), environment(way, home), place / "log", limit)
    whole, answers = time.perf_counter() - clock, Answers()
    if failed and way.name == "vllm-hpc":  # its ranks would disturb the next way
        cancel = [sys.executable, "-m", "vllm_hpc", "cancel", str(place / "job")]
        subprocess.run(cancel, env=environment(way, home), check=False)
    output, seconds = place / way.output, whole
    if output.exists() and not failed:
        try:
            answers, seconds = way.read(output), output.stat().st_mtime - began
        except (ValueError, KeyError, TypeError) as error:
            failed = f"{output} cannot be read ({error})"
    answered = sum(text is not None for text in answers.values())
    if not failed and answered < work.rows:
        failed = f"{work.rows - answered} of {work.rows} rows have no answer"
    if not failed:
        (home / COMPILED).touch()
    return Done(way.name, number, is_first, seconds, whole, work.rows, answered, 0, load, failed), answers


def _clean(home: Path) -> bool:
    """Whether nothing is compiled there. What a failed first job has left is deleted."""
    if is_first := not (home / COMPILED).exists():
        shutil.rmtree(home, ignore_errors=True)
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return is_first


def environment(way: Way, home: Path) -> dict[str, str]:
    """This one's, with every cache in that home; for vllm-hpc, this checkout is before an installed one."""
    env = {name: value for name, value in os.environ.items() if name not in CACHES}
    if not way.needs:
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "RAY_TMPDIR": str(home / "tmp")}
    return env | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def _run(words: list[str], env: dict[str, str], log: Path, limit: float) -> str:
    """What went wrong, in a line; nothing if all went well."""
    with log.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=env)
        try:
            code = process.wait(limit)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            end(process.pid)
            process.wait()
            if isinstance(error, KeyboardInterrupt):
                raise
            return f"ended after {limit:.0f} s, its limit"
    return f"exit code {code}; {log} has why" if code else ""


def end(pid: int) -> None:
    """End a process and all below it."""
    try:
        parent = psutil.Process(pid)
        below = parent.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in (parent, *below):
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs([parent, *below], timeout=20)
    for process in alive:
        process.kill()
