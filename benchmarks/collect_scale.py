"""collect beside DuckDB: one line per index, the lowest attempt's, a result over an error, in the input's order.

Writes a job folder with rows as they finish: replicas that claim chunks, rows that overtake each other, and a second
attempt with some rows again and without the errors of the first. Both make the same file from it, in turns, each in a
process of its own. Needs duckdb (requirements/test.txt). Aim: 10 million rows under 300 MB, and no slower; and
``status`` under a second, where the counts are as killed replicas leave them: a megabyte of rows behind.
Run: .venv/bin/python benchmarks/collect_scale.py --rows 10000000 --shards 8
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.crafted import end, layout, make_job, start
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputIndex
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Progress
from vllm_hpc.jobfolder.shards import beyond, finished

CLAIM, IN_FLIGHT = 256, 512
WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "it", "lies", "on", "the", "Seine"]
STATUS = "import sys; from vllm_hpc.jobs.job import Job; print(Job(sys.argv[1]).status().rows)"
OURS = "import sys; from vllm_hpc.jobs.job import Job; Job(sys.argv[1]).collect()"
DUCKDB = """
import sys, duckdb
duckdb.sql("SET enable_progress_bar = false")
duckdb.sql(f'''
    COPY (
        SELECT line FROM (
            SELECT json::VARCHAR AS line, (json->>'$.index')::BIGINT AS index, json_exists(json, '$.error') AS failed,
                   regexp_extract(filename, '([0-9]+)[.][0-9]+[.]jsonl', 1)::INT AS replica,
                   regexp_extract(filename, '([0-9]+)[.]jsonl', 1)::INT AS attempt
            FROM read_json_objects('{sys.argv[1]}/shards/*.jsonl', format = 'newline_delimited', filename = true)
        )
        QUALIFY row_number() OVER (PARTITION BY index ORDER BY failed, attempt, replica) = 1
        ORDER BY index
    ) TO '{sys.argv[1]}/duckdb.jsonl' (FORMAT csv, HEADER false, DELIMITER '\\x01', QUOTE '', ESCAPE '')
''')
"""


def write_folder(path: Path, rows: int, shards: int) -> None:
    """A job of two attempts that has ended: the first did three fifths, and some of them are done again."""
    replicas = max(1, shards // 2)
    folder = make_job(path, rows=0, shape=layout(dp=replicas))
    record = folder.job_json.read_text().replace('"rows": 0', f'"rows": {rows}')
    folder.job_json.write_text(record)
    with folder.input.open("w") as file:
        file.writelines(f'{{"index":{n},"id":"{n}","prompt":"Tell me of {n}"}}\n' for n in range(rows))
    # Without the digests of its blocks: collect looks into the input only for rows that are missing, and none is.
    size = folder.input.stat().st_size
    write_json(folder.input_json, InputIndex(path="input.jsonl", size=size, rows=rows, format="rows", blocks=()))
    cut, again = rows * 3 // 5, rows // 100
    write_attempt(folder, 1, range(cut), replicas)
    failed = list(range(0, cut - again, 997))
    write_attempt(folder, 2, [*failed, *range(cut - again, rows)], replicas)
    for attempt in (1, 2):
        start(folder, attempt)
        end(folder, 137, attempt=attempt)
    write_counts(folder, rows)


def write_counts(folder: JobFolder, rows: int) -> None:
    """What each replica said last of its rows, before it was killed."""
    for replica, tally in finished(folder, rows).by_lane.items():
        shard = folder.shard(replica, 2)
        said = max(0, shard.stat().st_size - (1 << 20))
        with shard.open("rb") as file:
            file.seek(said)
            said += len(file.readline())
        later = beyond(shard, said, rows)
        done, failed = tally.done - later.done, tally.failed - later.failed
        counts = Progress(replica=replica, attempt=2, done=done, failed=failed, shard_bytes=said)
        write_json(folder.progress(replica), counts)


def write_attempt(folder: JobFolder, attempt: int, indexes: Iterable[int], replicas: int) -> None:
    random_ = random.Random(attempt)
    texts = [" ".join(random_.choices(WORDS, k=8)) for _ in range(1000)]
    files = [folder.shard(replica, attempt).open("wb", buffering=1 << 20) for replica in range(replicas)]
    in_flight: list[list[int]] = [[] for _ in range(replicas)]
    waiting = list(indexes)
    for first in range(0, len(waiting), CLAIM):
        replica = random_.randrange(replicas)
        flying = in_flight[replica]
        flying += waiting[first : first + CLAIM]
        random_.shuffle(flying)
        finish(files[replica], flying[IN_FLIGHT:], replica, attempt, texts)
        del flying[IN_FLIGHT:]
    for replica, file in enumerate(files):
        finish(file, in_flight[replica], replica, attempt, texts)
        file.close()


def finish(file: BinaryIO, indexes: list[int], replica: int, attempt: int, texts: list[str]) -> None:
    lines = [
        f'{{"index":{n},"id":"{n}","error":{{"type":"ValueError","message":"too long"}}}}\n'
        if attempt == 1 and n % 997 == 0
        else f'{{"index":{n},"id":"{n}","text":"{texts[n % 1000]}","finish_reason":"stop","prompt_tokens":{5 + n % 20},'
        f'"completion_tokens":{1 + n % 16},"replica":{replica}}}\n'
        for n in indexes
    ]
    file.write("".join(lines).encode())


def measure(program: str, folder: JobFolder) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the process's most memory in MB."""
    began = time.perf_counter()
    argv = [sys.executable, "-c", program, str(folder.path)]
    _, status, used = os.wait4(os.posix_spawn(sys.executable, argv, dict(os.environ)), 0)
    if status:
        raise SystemExit(f"it failed: {program}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where the folder is made, and removed; default: a temporary one")
    parser.add_argument("--write", type=Path, help="only write the job folder")
    asked = parser.parse_args()
    if asked.write:
        write_folder(asked.write, asked.rows, asked.shards)
        return
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory(dir=asked.dir) as name:
        folder = JobFolder(Path(name) / "job")
        # In a process of its own: a child's most memory is at least what its parent has when it starts.
        subprocess.run([sys.executable, *sys.argv, "--write", str(folder.path)], check=True)
        size = sum(shard.stat().st_size for shard in folder.shard_files())
        print(f"{asked.rows:,} rows, {len(folder.shard_files())} shards, {size / 1e6:,.0f} MB, {os.cpu_count()} CPUs")
        statuses = [measure(STATUS, folder) for _ in range(asked.times)]
        programs = {"vllm-hpc collect": OURS, "DuckDB": DUCKDB}
        found = [{what: measure(program, folder) for what, program in programs.items()} for _ in range(asked.times)]
        is_same = digest(folder.outputs) == digest(folder.path / "duckdb.jsonl")
    print(f"status, with Python's start: {', '.join(f'{seconds:.2f}' for seconds, _, _ in statuses)} s")
    print("                   seconds (median, least-most)   CPU s   peak RSS")
    for what in programs:
        seconds, cpu, memory = zip(*(run[what] for run in found), strict=True)
        print(
            f"{what:<17}   {statistics.median(seconds):>7.1f} ({min(seconds):.1f}-{max(seconds):.1f})"
            f"   {statistics.median(cpu):>18.1f}   {max(memory):,.0f} MB"
        )
    print("the same lines" if is_same else "NOT THE SAME LINES")
    raise SystemExit(0 if is_same else 1)


if __name__ == "__main__":
    main()
