"""A rehearsed job array at the size of a machine: tasks that share a million rows, start late, and are killed.

64 tasks of 8 ranks on the tests' Slurm of two virtual nodes, where two tasks (16 ranks) live at once, so that the later
ones start while earlier ones hold leases. Eight tasks are killed: half by scancel, half by SIGKILL of all they have,
whose leases are taken over only when they have been silent for long. What is printed: rows finished twice (none may be
in the outputs), seconds of `status` and `collect`, and file operations a row, counted by strace on one task's ranks.
Run, as root, with Slurm, munge and strace installed:  python benchmarks/array_scale.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from vllm_hpc import Job, submit
from vllm_hpc.jobfolder.job_ids import submission_of
from vllm_hpc.jobs.status import Status

CLUSTER = Path(__file__).parents[1] / "tests" / "slurm" / "cluster.sh"
STRACE_S = 20.0
FILE_CALLS = "%file,read,write,pread64,pwrite64,lseek,fsync,ftruncate,close"
LOOK_S = 5.0
HOW = ("scancel", "SIGKILL")


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A Slurm of its own."""
    os.environ |= {"VLLM_HPC_SLURM_DIR": str(folder / "slurm"), "VLLM_HPC_SLURM_PORT": "27817"}
    name, value = subprocess.check_output([CLUSTER, "env"], text=True).strip().split("=")
    os.environ[name] = value
    subprocess.run([CLUSTER, "up"], check=True)
    try:
        yield
    finally:
        subprocess.run([CLUSTER, "down"], check=True)


def write_rows(path: Path, count: int) -> None:
    """Rows that are short, and all different."""
    with path.open("w") as file:
        file.writelines(f'{{"prompt": "row {number}"}}\n' for number in range(count))


class Watch:
    """Looks at the job until it has ended: times `status`, kills tasks, counts the ranks that live."""

    def __init__(self, job: Job, kills: int, tasks: int) -> None:
        self._job, self._seconds, self._chance = job, list[float](), random.Random(0)
        # So many tasks have started when each kill is due.
        self._due = [tasks * turn // (kills + 2) for turn in range(1, kills + 1)]
        self.killed: set[int] = set()
        self.most_ranks = 0
        self.traced: dict[str, float] = {}

    def run(self) -> Status:
        """Until the end."""
        while True:
            began = time.perf_counter()
            status = self._job.status()
            self._seconds.append(time.perf_counter() - began)
            if status.is_final:
                return status
            live = self._live_ranks()
            self.most_ranks = max(self.most_ranks, sum(len(pids) for pids in live.values()))
            able = [task for task in live if task not in self.killed and self._holds_a_lease(task)]
            if able and self._due and len(self._job.folder.attempts()) >= self._due[0]:
                self._kill(self._chance.choice(able), HOW[len(self.killed) % 2])
                self._due.pop(0)
            if not self.traced and live:
                self.traced = self._trace(min(live))
            time.sleep(LOOK_S)

    @property
    def status_seconds(self) -> tuple[float, float]:
        """Median and most."""
        return statistics.median(self._seconds), max(self._seconds)

    def _live_ranks(self) -> dict[int, list[int]]:
        """Processes of ranks by their task."""
        found: dict[int, list[int]] = {}
        world = self._job.folder.job().plan.layout.world_size
        for rank in self._job.ranks():
            if rank.outcome == "running" and psutil.pid_exists(rank.pid):
                found.setdefault(rank.rank // world, []).append(rank.pid)
        return found

    def _holds_a_lease(self, task: int) -> bool:
        """Whether rows of it are written, and more are claimed."""
        last = self._job.folder.last_attempt(task)
        return last is not None and self._job.folder.shard(task, last.attempt).exists()

    def _kill(self, task: int, how: str) -> None:
        last = self._job.folder.last_attempt(task)
        assert last is not None
        if how == "scancel":
            subprocess.run(["scancel", last.job_id], check=True)
        else:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if process.environ().get("VLLM_HPC_JOB_ID") == last.job_id or f"job{last.job_id}" in process.name():
                        process.send_signal(signal.SIGKILL)
        self.killed.add(task)
        print(f"{time.strftime('%H:%M:%S')} {how} of task {task}", flush=True)

    def _trace(self, task: int) -> dict[str, float]:
        """File operations a row of a task's first and second rank, over some seconds."""
        world = self._job.folder.job().plan.layout.world_size
        pids = {rank.rank % world: rank.pid for rank in self._job.ranks() if rank.rank // world == task}
        if not {0, 1} <= pids.keys() or not self._holds_a_lease(task):
            return {}
        began = self._rows_of(task)
        traces = {
            name: subprocess.Popen(
                ["timeout", "-s", "INT", str(STRACE_S), "strace", "-f", "-c", "-U", "calls,name", "-p", str(pids[rank]),
                 "-e", f"trace={FILE_CALLS}"], stderr=subprocess.PIPE, text=True,
            )
            for name, rank in (("first rank", 0), ("other rank", 1))
        }  # fmt: skip
        said = {name: trace.communicate()[1] for name, trace in traces.items()}
        rows = self._rows_of(task) - began
        found = {}
        for name, text in said.items():
            calls = {call: int(number) for number, call in re.findall(r"^\s*(\d+)\s+(\w+)$", text, re.MULTILINE)}
            calls.pop("total", None)
            print(f"{name}: {rows} rows, {calls}", flush=True)
            found[name] = round(sum(calls.values()) / rows, 4) if rows else 0.0
        return found

    def _rows_of(self, task: int) -> int:
        last = self._job.folder.last_attempt(task)
        shard = self._job.folder.shard(task, last.attempt if last else 1)
        return shard.read_bytes().count(b"\n") if shard.exists() else 0


def count_rows(job: Job) -> tuple[int, int, int]:
    """Rows in the outputs, rows that stand there twice, and lines of shards that were finished before."""
    outputs = Counter(json.loads(line)["index"] for line in job.folder.outputs.open())
    written = Counter(
        json.loads(line)["index"] for shard in job.folder.shard_files() for line in shard.open() if line.endswith("\n")
    )
    return len(outputs), sum(number > 1 for number in outputs.values()), sum(number - 1 for number in written.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--kills", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-scale-") as work, slurm(Path(work)):
        write_rows(Path(work) / "rows.jsonl", asked.rows)
        began = time.perf_counter()
        job = submit(
            rehearse=True, input=f"{work}/rows.jsonl", job_dir=f"{work}/runs", scheduler="slurm", array=True,
            dp=asked.tasks, tp=asked.tp, gpus_per_node=asked.tp, max_tokens=2, engine={"max_num_seqs": 1024},
            env={"OMP_NUM_THREADS": "1"}, max_requeues=0,
        )  # fmt: skip
        print(f"submitted {submission_of(str(job.job_id))} in {time.perf_counter() - began:.1f} s", flush=True)
        watch = Watch(job, asked.kills, asked.tasks)
        status = watch.run()
        seconds = time.perf_counter() - began
        summary = job.collect()
        rows, twice, again = count_rows(job)
        median, most = watch.status_seconds
        print(f"{status.state}: {status.reason}")
        print(
            f"{summary.rows}, {len(job.folder.attempts())} tasks started, {len(watch.killed)} killed, {seconds:.0f} s"
        )
        print(f"outputs: {rows} rows, {twice} twice; finished again in the shards: {again}")
        print(f"ranks at once: {watch.most_ranks} at most; leases: {sum(1 for _ in job.folder.claims.iterdir())}")
        print(f"status: {median:.2f} s (median), {most:.2f} s (most); collect {summary.timings['collect']:.1f} s")
        print(f"file operations a row: {watch.traced}")
        is_whole = (status.state, rows, twice, summary.rows["missing"]) == ("COMPLETED", asked.rows, 0, 0)
        sys.exit(0 if is_whole and len(watch.killed) == asked.kills else 1)


if __name__ == "__main__":
    main()
