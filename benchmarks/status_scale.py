"""`status` of a job of a machine's size: 64 replicas of 8 ranks and a million rows, running and ended.

Writes the folders as ranks leave them, with a squeue that answers at once, and looks at each some times, in this
process (all read anew; again, with what an earlier look kept) and as a command, whose start and imports come on top.
Aim: under 0.3 s in a process.
Run: .venv/bin/python benchmarks/status_scale.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Pace, Progress, Run, Sample
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.schedulers.polling import StatusCache
from vllm_hpc.spec.layout import Layout

TP, SAMPLES, AIM_S = 8, 2000, 0.3
ROW = (
    b'{"index":%d,"id":"%d","text":"an answer of a few words","finish_reason":"stop","prompt_tokens":9,'
    b'"completion_tokens":60,"replica":%d}\n'
)
# It says of every job and task that it runs.
SQUEUE = """#!/bin/sh
for word; do case "$word" in --jobs=*) id=${word#--jobs=};; esac; done
case "$SQUEUE_TASKS" in '') echo "$id|RUNNING|None|N/A";; *) echo "${id}_[0-$SQUEUE_TASKS]|RUNNING|None|N/A";; esac
"""


def write_folder(path: Path, rows: int, replicas: int, is_array: bool, done: float, behind: int) -> JobFolder:
    """A job whose replicas have done that share of their rows; their counts are some rows behind their shards."""
    nodes = 1 if is_array else replicas
    shape = Layout(nodes, TP, TP, TP, 1, replicas, is_array=is_array)
    folder = crafted.make_job(path, 0, "slurm", shape)
    folder.job_json.write_text(folder.job_json.read_text().replace('"rows": 0', f'"rows": {rows}'))
    folder.input.write_bytes(b"".join(b'{"index":%d,"id":"%d","prompt":"p"}\n' % (row, row) for row in range(rows)))
    crafted.write_index(folder)
    now, each = time.time(), rows // replicas
    for replica in range(replicas):
        attempt = replica + 1 if is_array else 1
        if is_array or not replica:
            crafted.start(folder, attempt, replica if is_array else 0, f"77_{replica}" if is_array else "77")
        for rank in range(replica * TP, (replica + 1) * TP):
            crafted.rank(folder, rank, "running", attempt=attempt, versions={"vllm": "0.33.0", "torch": "2.10"})
        count = int(each * done)
        first = replica * each
        lines = [ROW % (number, number, replica) for number in range(first, first + count)]
        folder.shard(replica, attempt).write_bytes(b"".join(lines))
        counted = max(0, count - behind)
        lengths = tuple((counted // 80 or 1, length * (counted // 80 or 1)) for length in range(16, 96))
        samples = [Sample(at=now - n, tokens=9000 * (SAMPLES - n), running=256, most_running=256, kv=0.5)
                   for n in range(SAMPLES, 0, -1)]  # fmt: skip
        crafted.write_lines(folder.samples(replica, attempt), [{"at": one.at, "tokens": one.tokens} for one in samples])
        progress = Progress(
            replica=replica, attempt=attempt, done=counted, completion_tokens=counted * 60, started_at=now - SAMPLES,
            updated_at=now, shard_bytes=sum(map(len, lines[:counted])), runs=(Run(attempt=attempt, rows=counted),),
            now=Sample(at=now, tokens=counted * 60 + 9000, rows=counted, running=256, in_flight=9000),
            pace=Pace(seconds=60.0, tokens=540_000, slot_seconds=15_360.0, ended=lengths,
                      begun=tuple((4, 4 * length) for length in range(1, 65))),
        )  # fmt: skip
        write_json(folder.progress(replica), progress)
    return folder


def end_all(folder: JobFolder, code: int) -> None:
    for attempt in folder.attempts():
        crafted.end(folder, code, attempt=attempt.attempt)


def timed(look: Callable[[], object], turns: int) -> float:
    """The median time of some looks."""
    seconds = []
    for _ in range(turns):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def look_fresh(folder: JobFolder) -> Status:
    """Without what was kept of an earlier look."""
    folder.counted.unlink(missing_ok=True)
    return read_status(folder, StatusCache())


CASES = (
    # name, whether it is an array, share of the rows that are done, rows that no count covers, and exit code
    ("running", False, 0.4, 0, None),
    ("running array", True, 0.4, 0, None),
    ("ended", False, 1.0, 0, 0),
    ("killed", False, 0.7, 250, 1),
    ("ended array", True, 1.0, 0, 0),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-status-") as work:
        squeue = Path(work) / "bin" / "squeue"
        squeue.parent.mkdir()
        squeue.write_text(SQUEUE)
        squeue.chmod(0o755)
        os.environ |= {"PATH": f"{squeue.parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": f"{work}/cache"}
        for name, is_array, done, behind, code in CASES:
            os.environ["SQUEUE_TASKS"] = str(asked.replicas - 1) if is_array else ""
            folder = write_folder(Path(work) / name, asked.rows, asked.replicas, is_array, done, behind)
            if code is not None:
                end_all(folder, code)
            worst = max(worst, measure(name, folder, asked.turns))
    sys.exit(0 if worst < AIM_S else 1)


def measure(name: str, folder: JobFolder, turns: int) -> float:
    """Print what a status takes, and return the seconds of one after the first."""
    status = look_fresh(folder)
    first = timed(lambda: look_fresh(folder), turns)
    again = timed(lambda: read_status(folder, StatusCache(shares=True)), turns)
    argv = [str(Path(sys.executable).with_name("vllm-hpc")), "status", str(folder.path)]
    command = timed(lambda: subprocess.run(argv, check=True, capture_output=True), turns)
    print(
        f"{name:14} {status.state:9} {status.rows.done:8} rows, {status.tokens_per_s or 0:.0f} tokens/s, "
        f"ETA {status.eta_s or 0:.0f} s: {first:.3f} s, again {again:.3f} s, the command {command:.3f} s",
        flush=True,
    )
    return again


if __name__ == "__main__":
    main()
