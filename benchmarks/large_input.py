"""Times large inputs through submission and claims: one gzip, 200 compressed shards, 200 plain ones; and their memory.

Run: .venv/bin/python benchmarks/large_input.py [GIB] (3 by default: up to 7 GB under TMPDIR). Aim: memory that does not
grow with the input, and a claim from the middle that reads a block. Each measurement is a process of its own.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader, check_unchanged, read_index
from vllm_hpc.jobfolder.store_input import Intake

SHARDS = 200
PROMPT = "Summarise the following abstract in one sentence, please: "


def piece(size: int) -> bytes:
    """About that many bytes of rows of 8 KB each, which compress as text does."""
    lines, left, number = [], size, 0
    while left > 0:
        words = " ".join(f"{number * 7919 % 9973:x}{index * 31:x}" for index in range(1000))
        lines.append(json.dumps({"prompt": PROMPT + words, "tag": number}).encode() + b"\n")
        left -= len(lines[-1])
        number += 1
    return b"".join(lines)


def write(folder: Path, size: int) -> dict[str, Path]:
    """The three inputs. Shards are equal: rows have no ids of their own."""
    data = piece(size // SHARDS)
    packed = gzip.compress(data, 1)
    found = {"one gzip": folder / "one.jsonl.gz", "200 gzip": folder / "gzip", "200 plain": folder / "plain"}
    with found["one gzip"].open("wb") as file:
        for _ in range(SHARDS):
            file.write(packed)
    for name, content, suffix in (("200 gzip", packed, ".jsonl.gz"), ("200 plain", data, ".jsonl")):
        found[name].mkdir()
        for number in range(SHARDS):
            (found[name] / f"part-{number:03}{suffix}").write_bytes(content)
    return found


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(name: str, path: Path, job: JobFolder) -> None:
    """Check, store, and read one input."""
    times, marks = [time.perf_counter()], []

    def mark(what: str) -> None:
        times.append(time.perf_counter())
        marks.append(f"{what} {times[-1] - times[-2]:.2f} s, peak {peak_mib()} MiB")

    intake = Intake(str(path))
    rows = sum(1 for _ in intake.rows())
    mark("check")
    intake.store(job)
    mark("store")
    middle = rows // 2
    assert InputReader(job).rows(middle, 1)[0]["index"] == middle
    mark("a row from the middle")
    check_unchanged(job)
    mark("check_unchanged")
    index = read_index(job)
    stored = sum(file.stat().st_size for file in job.path.iterdir() if file.is_file())
    where = index.path or f"{len(index.files)} files, referenced"
    print(f"{name}: {rows:,} rows; {where}, {stored / 1e6:.1f} MB in the job folder; {'; '.join(marks)}", flush=True)


def main() -> None:
    size = int(float(sys.argv[1] if len(sys.argv) > 1 else 3) * (1 << 30))
    with tempfile.TemporaryDirectory() as name:
        for what, path in write(Path(name), size).items():
            job = JobFolder(Path(name) / "job")
            job.create()
            subprocess.run([sys.executable, __file__, "--measure", what, str(path), str(job.path)], check=True)
            shutil.rmtree(job.path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]), JobFolder(sys.argv[4]))
    else:
        main()
