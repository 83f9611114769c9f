"""The order by prefix of a large shuffled input: seconds and memory at submission, and the bytes that ranks read.

Run: .venv/bin/python benchmarks/row_order.py [ROWS [BYTES OF A ROW [OWN]]]  (a million of 600 bytes, under TMPDIR)
OWN: so many of the bytes are no other row's, and all are random letters, which hardly pack; by default 0, and digits.
The input stays where it is, as one of more than 1 GiB does. Eight replicas read it through the ranks' own reader, chunk
by chunk as they claim them, the first one's last tenth taken by the others; then eight tasks of an array, of which one
is killed half way and its leases are taken again. Bytes are those of read calls (/proc/self/io). Aim: all that is read
for the order, at submission and by ranks, is at most three times the input.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder.chunks import OrderedChunks, chunk_size
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.row_order import OrderedInput, places_of, read_order, store_order
from vllm_hpc.jobfolder.sorted_copy import write_sorted
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner.workload import measure_workload

REPLICAS, QUESTIONS = 8, 8


# All that JSON does not escape, for random bytes.
PRINTED = bytes(code for code in range(32, 127) if code not in b'"\\')
LETTERS = (PRINTED * 3)[:256]


def write(path: Path, rows: int, size: int, own: int) -> None:
    """Shuffled rows of documents, each made from its number."""
    order = list(range(rows))
    random.Random(0).shuffle(order)
    with path.open("wb") as file:
        for number in order:
            chance = random.Random(number // QUESTIONS)
            text = _letters(chance, size - own - 60) if own else f"{chance.getrandbits(4 * size):x}"[: size - 60]
            prompt = f"{text} question {number}{_letters(random.Random(-1 - number), own)}"
            file.write(msgspec.json.encode({"id": number, "prompt": prompt}) + b"\n")


def _letters(chance: random.Random, size: int) -> str:
    return chance.randbytes(size).translate(LETTERS).decode()


class Cost:
    """Seconds, bytes read and written, and the peak of memory since it was made."""

    def __init__(self) -> None:
        self._began, self._io = time.perf_counter(), _io()

    def tell(self, what: str, size: int) -> float:
        """Print it, as multiples of an input of ``size`` bytes. Returns how often it was read."""
        read, written = ((now - then) / size for now, then in zip(_io(), self._io, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = time.perf_counter() - self._began
        print(
            f"{what}: {seconds:.1f} s, read {read:.2f} and wrote {written:.2f} x the input; peak {peak:.0f} MiB",
            flush=True,
        )
        return read


def _io() -> tuple[int, int]:
    found: Any = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["rchar"]), int(found["wchar"])


def claimed(chunks: OrderedChunks, left: float) -> Iterator[tuple[int, int]]:
    """Replica and chunk in the order of claims; of the first replica's part, others take that share in turns."""
    parts = [list(chunks.part(replica, REPLICAS)) for replica in range(REPLICAS)]
    cut = int(len(parts[0]) * (1 - left))
    parts[0], taken = parts[0][:cut], parts[0][cut:]
    for at in range(max(map(len, parts))):
        yield from ((replica, part[at]) for replica, part in enumerate(parts) if at < len(part))
    yield from ((1 + at % (REPLICAS - 1), chunk) for at, chunk in enumerate(taken))


def read_all(folder: JobFolder, total: int, left: float) -> None:
    """Read every row as replicas do."""
    order, rows = read_order(folder, total)
    chunks = OrderedChunks(order, rows)
    places = places_of(rows)
    readers = [OrderedInput(folder, places) for _ in range(REPLICAS)]
    seen = bytearray(total)
    for replica, chunk in claimed(chunks, left):
        numbers: Sequence[int] = chunks.rows(chunk)
        for number in numbers:
            (row,) = readers[replica].rows(number, 1)
            assert row["index"] == number
            seen[number] = 1
    assert all(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, told in (
        ("rows", 1_000_000, "how many"), ("size", 600, "bytes of each"), ("own", 0, "of which letters at random"),
    ):  # fmt: skip
        parser.add_argument(name, type=int, nargs="?", default=default, help=f"{told} ({default:,})")
    given = parser.parse_args()
    total, size, own = given.rows, given.size, given.own
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "rows.jsonl", JobFolder(Path(name) / "job")
        write(path, total, size, own)
        stored = path.stat().st_size
        print(f"{total} rows, {stored / 1e9:.2f} GB", flush=True)
        folder.create()
        intake, cost = Intake(str(path), reference_over=0), Cost()
        sharing = measure_workload(intake, {"max_tokens": 16, "temperature": 0}, 0, whole=True).sharing
        measured = cost.tell("check and measure", stored) - 1  # which reads the input whatever its order will be
        assert sharing is not None and intake.beginnings is not None
        print(f"{sharing.shared / sharing.total:.0%} of the prompt tokens are shared")
        intake.store(folder)
        for is_array, left, what in ((False, 0.1, "DP 8"), (True, 0.5, "an array of 8 tasks, one killed half way")):
            cost = Cost()
            rows = store_order(folder, intake.beginnings.ordered(), chunk_size(total, REPLICAS, is_array))
            times = measured + cost.tell("order", stored)
            cost = Cost()
            write_sorted(folder, rows)
            times += cost.tell("copy", stored)
            cost = Cost()
            read_all(folder, total, left)
            times += cost.tell(what, stored)
            print(
                f"{what}: read {times:.2f} x the input for its order; {'met' if times <= 3 else 'NOT MET'}", flush=True
            )


if __name__ == "__main__":
    main()
