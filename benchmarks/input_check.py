"""Times the check of an input as a submit does it, with and without ids, and the memory that it takes.

Run: .venv/bin/python benchmarks/input_check.py [ROWS] (10 million by default: 1 GB under TMPDIR).
Aim: memory that does not grow with the rows. Each measurement is a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader, check_unchanged, read_index
from vllm_hpc.jobfolder.store_input import Intake

PROMPT = "Summarise the following abstract in one sentence, please."


def write(path: Path, rows: int, with_ids: bool) -> None:
    with path.open("w") as file:
        for number in range(rows):
            identity = f'"id": "row-{number}", ' if with_ids else ""
            file.write(f'{{{identity}"prompt": "{PROMPT}"}}\n')


def measure(path: Path, job: JobFolder) -> None:
    """Check, refer to and read one input."""
    began = time.perf_counter()
    intake = Intake(str(path), reference_over=0)
    rows = sum(1 for _ in intake.rows())
    checked = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    intake.store(job)
    stored = time.perf_counter()
    reader = InputReader(job)
    for first in range(0, rows, 64):
        reader.rows(first, 64)
    read = time.perf_counter()
    check_unchanged(job)
    unchanged = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{path.stem}: {rows} rows, {path.stat().st_size / 1e9:.2f} GB, {len(read_index(job).blocks)} blocks: "
        f"check {checked - began:.1f} s, peak {peak:.0f} MiB; store {stored - checked:.2f} s; "
        f"read all, 64 rows at a time {read - stored:.1f} s; check_unchanged {unchanged - read:.1f} s; "
        f"peak in the end {after:.0f} MiB",
        flush=True,
    )


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as name:
        for with_ids in (False, True):
            path = Path(name) / f"{'with' if with_ids else 'without'}-ids.jsonl"
            write(path, rows, with_ids)
            job = JobFolder(Path(name) / path.stem)
            job.create()
            subprocess.run([sys.executable, __file__, "--measure", str(path), str(job.path)], check=True)
            path.unlink()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), JobFolder(sys.argv[3]))
    else:
        main()
