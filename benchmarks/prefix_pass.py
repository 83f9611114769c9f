"""What it costs a submission to look for prompts that begin alike: an input checked and measured with and without that.

Run: .venv/bin/python benchmarks/prefix_pass.py [ROWS [PAIRS]]  (100,000 rows, 7 pairs)
Process time, in turns, since machines are shared and noisy; what is shared is measured and sorted, nothing is stored.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner.workload import measure_workload
from vllm_hpc.rows.row import Row

SYSTEM = "You are a careful assistant. Answer in one sentence, and say so where you do not know. " * 3


def _text(number: int, size: int) -> str:
    return random.Random(number).randbytes(size // 2).hex()


def _chat(number: int) -> Row:
    turns = (("system", SYSTEM), ("user", _text(number, 400)))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


KINDS: dict[str, Callable[[int], Row]] = {
    "prompts of 60 bytes": lambda number: {"prompt": _text(number, 60)},
    "prompts of 600 bytes": lambda number: {"prompt": _text(number, 600)},
    "prompts of 6000 bytes": lambda number: {"prompt": _text(number, 6000)},
    "chats of 400 bytes with one system prompt": _chat,
    "documents of 2000 bytes, eight prompts each": lambda number: {"prompt": f"{_text(number // 8, 2000)} {number}?"},
}


def write(path: Path, rows: int, make: Callable[[int], Row]) -> None:
    order = list(range(rows))
    random.Random(0).shuffle(order)
    with path.open("wb") as file:
        for number in order:
            file.write(msgspec.json.encode(make(number)) + b"\n")


def seconds(path: Path, may_share: bool) -> float:
    began = time.process_time()
    measure_workload(Intake(str(path), reference_over=0), {"max_tokens": 16, "temperature": 0}, 0, True, may_share)
    return time.process_time() - began


def main() -> None:
    rows, pairs = (int(word) for word in (*sys.argv[1:], *("100000", "7")[len(sys.argv) - 1 :]))
    for kind, make in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "rows.jsonl"
            write(path, rows, make)
            found = []
            for pair in range(pairs):
                which = (False, True) if pair % 2 else (True, False)
                times = {may_share: seconds(path, may_share) for may_share in which}
                found.append((times[False], times[True]))
        ratios = sorted(after / before for before, after in found)
        before, after = (statistics.median(column) / rows * 1e6 for column in zip(*found, strict=True))
        print(
            f"{kind}: {before:.1f} us a row without, {after:.1f} with: {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {pairs} pairs)",
            flush=True,
        )


if __name__ == "__main__":
    main()
