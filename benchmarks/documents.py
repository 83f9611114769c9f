"""Rows about shared documents: sorted by document, shuffled, and shuffled with --order prefix; tokens/s and ratios.

The KV cache holds half of the documents, so a shuffled file finds few of them there. Rows without any shared text run
in the input's order and with --order prefix, too. Everything is made from --seed. Aims: shuffled rows with the order by
prefix at least 0.97 of sorted ones, no sharing at least 0.99. The arms run in turns on one engine, or each as a job of
`vllm-hpc submit` (--submit).
Run: OMP_NUM_THREADS=1 python -m benchmarks.documents                           (the CPU, the tiny model)
     python -m benchmarks.documents --shape llama-8b --documents 250 --tokens 3000 --output 32 --seqs 512    (a GPU)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu.shapes import SHAPES, make
from benchmarks.one_engine import OneEngine
from tests.crafted import layout
from tests.tiny_model import make_tiny_model
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.row_order import INPUT, PREFIX, Order

# Tokens of a block of the KV cache, vLLM's own: on a GPU, and on the CPU.
GPU_BLOCK, CPU_BLOCK = 16, 128
# A row's question, in tokens: its first one no other row of the document has.
QUESTION = 16


class Arm(NamedTuple):
    """A way to run rows: as ``file`` has them, in an order. ``aim``: an arm, and how much of its speed this one has."""

    file: str
    order: Order
    aim: tuple[str, float] | None = None


# The slowest one last: what time is left decides whether it begins.
ARMS = {
    "sorted": Arm("sorted", INPUT),
    "prefix": Arm("shuffled", PREFIX, ("sorted", 0.97)),
    "unshared": Arm("unshared", INPUT),
    "unshared-prefix": Arm("unshared", PREFIX, ("unshared", 0.99)),
    "shuffled": Arm("shuffled", INPUT),
}


class Measured(msgspec.Struct, frozen=True):
    """One run of an arm. ``cpu``: CPU seconds of the process, which others on the machine disturb less.

    ``cached``: prompt tokens that were in the KV cache, in million. Both are known on one engine only.
    """

    arm: str
    seconds: float
    tokens: int
    cpu: float = 0.0
    cached: float = 0.0

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds


def documents_rows(asked: argparse.Namespace, vocabulary: int) -> list[Row]:
    """Each document's rows next to each other."""
    chance = random.Random(asked.seed)
    text = partial(_text, chance, vocabulary)
    documents = [text(asked.tokens) for _ in range(asked.documents)]
    return [_row(document + text(QUESTION), asked.output) for document in documents for _ in range(asked.questions)]


def unshared_rows(asked: argparse.Namespace, vocabulary: int) -> list[Row]:
    """As long, and none begins as another does. Outputs of some rows are eight times as long as those of others."""
    chance = random.Random(asked.seed + 1)
    lengths = chance.choices((asked.output // 4 or 1, asked.output, 2 * asked.output), k=asked.unshared)
    return [_row(_text(chance, vocabulary, asked.tokens + QUESTION), length) for length in lengths]


def _text(chance: random.Random, vocabulary: int, tokens: int) -> list[int]:
    return [chance.randrange(300, vocabulary) for _ in range(tokens)]


def _row(prompt: list[int], output: int) -> Row:
    return {"prompt": prompt, "sampling": {"max_tokens": output, "ignore_eos": True, "temperature": 0.0}}


def files(asked: argparse.Namespace, vocabulary: int) -> dict[str, list[Row]]:
    """The rows of each file."""
    found = {"sorted": documents_rows(asked, vocabulary), "unshared": unshared_rows(asked, vocabulary)}
    found["shuffled"] = list(found["sorted"])
    random.Random(asked.seed + 2).shuffle(found["shuffled"])
    return found


class InTurns:
    """Runs the arms again and again while time is left; who begins changes from round to round."""

    def __init__(self, run: Callable[[str], Measured], asked: argparse.Namespace) -> None:
        self._run, self._asked, self._began = run, asked, time.perf_counter()
        self.found: dict[str, list[Measured]] = defaultdict(list)

    def all(self) -> dict[str, list[Measured]]:
        """What was measured of each arm."""
        for turn in range(self._asked.rounds):
            for name in self._names(turn):
                if self._has_time(name):
                    self._one(name)
        return self.found

    def _names(self, turn: int) -> Iterator[str]:
        names = self._asked.arms
        pairs = [names[at : at + 2] for at in range(0, len(names), 2)]
        for pair in pairs:
            yield from reversed(pair) if turn % 2 else pair

    def _has_time(self, name: str) -> bool:
        left = self._asked.seconds - (time.perf_counter() - self._began)
        return bool(left > max((one.seconds for one in self.found[name]), default=0.0))

    def _one(self, name: str) -> None:
        one = self._run(name)
        self.found[name].append(one)
        load = f"{one.cached:.2f} million prompt tokens cached; {one.cpu:.1f} CPU s; load {os.getloadavg()[0]:.1f}"
        print(f"{name}: {one.tokens} tokens in {one.seconds:.1f} s: {one.rate:.0f} tokens/s; {load}", flush=True)
        if self._asked.results:
            with self._asked.results.open("ab") as file:
                file.write(msgspec.json.encode(one) + b"\n")


def tell(found: dict[str, list[Measured]]) -> bool:
    """Print each arm's median and the ratios. Returns whether the aims are met."""
    is_met = True
    for name, runs in found.items():
        if runs:
            print(f"{name}: median {statistics.median(one.rate for one in runs):.0f} tokens/s of {len(runs)}")
    for name, (_, _, aim) in ARMS.items():
        if aim and found.get(name) and found.get(aim[0]):
            pairs = [one.rate / other.rate for one, other in zip(found[name], found[aim[0]], strict=False)]
            ratio = statistics.median(pairs)
            is_met = is_met and ratio >= aim[1]
            spread, more = f"{min(pairs):.3f} to {max(pairs):.3f}", _of_cpu(found, name)
            print(f"{name} / {aim[0]}: {ratio:.3f} ({spread}){more}; aim {aim[1]}")
    return is_met


def _of_cpu(found: dict[str, list[Measured]], name: str) -> str:
    """The ratio of CPU seconds to those of the arm that it is held against."""
    aim = ARMS[name].aim
    pairs = zip(found[name], found[aim[0]], strict=False) if aim else ()
    ratios = [other.cpu / one.cpu for one, other in pairs if one.cpu]
    return f"; by CPU seconds {statistics.median(ratios):.3f}" if ratios else ""


def in_process(
    asked: argparse.Namespace, work: Path, model: Path, rows: dict[str, list[Row]]
) -> Callable[[str], Measured]:
    """What runs an arm on one engine."""
    block = CPU_BLOCK if asked.shape == "tiny" else GPU_BLOCK
    blocks = asked.documents * asked.tokens // 2 // block
    engine = {
        "max_num_seqs": asked.seqs,
        "max_model_len": context(asked),
        "num_gpu_blocks_override": blocks,
        "block_size": block,
        "seed": 1,
    }
    if asked.shape != "tiny":
        engine |= {"load_format": "dummy"}
    bench = OneEngine(work, model, layout(), engine | asked.engine, {})
    bench.attempt(rows["unshared"][:4])  # warm up
    hits = watch_hits(bench)

    def run(name: str) -> Measured:
        arm = ARMS[name]
        hits.clear()
        found = bench.attempt(rows[arm.file], order=arm.order)
        return Measured(name, found.seconds, found.tokens, found.cpu, sum(hits.values()) / 1e6)

    return run


def watch_hits(bench: OneEngine) -> dict[str, int]:
    """The tokens of each request's prompt that vLLM's scheduler finds in its cache when it admits it, from now on."""
    manager: Any = bench.engine.engine_core.engine_core.scheduler.kv_cache_manager
    look_up, hits = manager.get_computed_blocks, dict[str, int]()

    def noted(request: Any) -> Any:
        found = look_up(request)
        if not request.num_preemptions:  # else it finds what it has computed itself
            hits[request.request_id] = int(found[1])
        return found

    manager.get_computed_blocks = noted
    return hits


def by_submit(
    asked: argparse.Namespace, work: Path, model: Path, rows: dict[str, list[Row]]
) -> Callable[[str], Measured]:
    """What runs an arm as a job; ``prefix`` without being asked for, because the rows are greedy."""
    for name, of_file in rows.items():
        (work / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in of_file))
    engine = {
        "kv_cache_memory_bytes": asked.documents * asked.tokens // 2 * _token_bytes(model),
        "load_format": "dummy",
    }
    numbers = iter(range(1000))

    def run(name: str) -> Measured:
        arm, job = ARMS[name], work / "runs" / f"{name}-{next(numbers)}"
        words = [sys.executable, "-m", "vllm_hpc", "submit", str(model), "--input", str(work / f"{arm.file}.jsonl")]
        words += [
            "--scheduler",
            "local",
            "--gpus-per-node",
            "1",
            "--nodes",
            "1",
            "--job-dir",
            str(job.parent),
            "--wait",
        ]
        words += ["--name", job.name, *(["--order", INPUT] if arm.order == INPUT else [])]
        words += [
            word
            for key, value in (engine | asked.engine).items()
            for word in ("--engine", f"{key}={json.dumps(value)}")
        ]
        subprocess.run(words, check=True)
        summary, plan = (json.loads((job / file).read_text()) for file in ("summary.json", "job.json"))
        print(json.dumps({"timings": summary["timings"], "reasons": plan["plan"]["reasons"]}), flush=True)
        busy = sum(summary["timings"].get(part, 0.0) for part in ("warm-up", "generate", "drain"))
        return Measured(name, busy, summary["completion_tokens"])

    return run


def context(asked: argparse.Namespace) -> int:
    """The longest row, in tokens."""
    return int(asked.tokens + QUESTION + 2 * asked.output)


def _token_bytes(model: Path) -> int:
    """The KV cache of a token, in bfloat16."""
    config = json.loads((model / "config.json").read_text())
    return int(2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny", choices=sorted(SHAPES), help="tiny: the tests' model, on the CPU")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--questions", type=int, default=8, help="rows of each document")
    parser.add_argument("--tokens", type=int, default=2000, help="of a document")
    parser.add_argument("--output", type=int, default=8, help="tokens of a row")
    parser.add_argument("--unshared", type=int, help="rows that share nothing; default: one for each document")
    parser.add_argument("--seqs", type=int, default=32, help="max_num_seqs, on one engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3600, help="an arm that would end later does not begin")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS), help=f"of {','.join(ARMS)}")
    parser.add_argument("--submit", action="store_true", help="each arm is a job, on one GPU")
    parser.add_argument("--engine", type=msgspec.json.decode, default={}, help="more engine arguments, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a file to which each run is added")
    parser.add_argument("--work", type=Path, help="where models and job folders lie; default: a temporary folder")
    asked = parser.parse_args()
    asked.unshared = asked.unshared or asked.documents
    if unknown := [name for name in asked.arms if name not in ARMS]:
        parser.error(f"--arms {unknown[0]!r} must be of {', '.join(ARMS)}")
    return asked


def _model(asked: argparse.Namespace, work: Path) -> Path:
    if asked.shape != "tiny":
        return make(asked.shape, work / asked.shape)
    make_tiny_model(work / "tiny", context(asked))
    return work / "tiny"


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory() as name:
        work = asked.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        model = _model(asked, work)
        vocabulary: Any = json.loads((model / "config.json").read_text())["vocab_size"]
        rows = files(asked, vocabulary)
        print(f"{len(rows['sorted'])} rows of {asked.documents} documents of {asked.tokens} tokens", flush=True)
        run = (by_submit if asked.submit else in_process)(asked, work, model, rows)
        is_met = tell(InTurns(run, asked).all())
    print("met" if is_met else "NOT MET", flush=True)
    os._exit(0 if is_met else 1)  # vLLM's own threads may outlive main()


if __name__ == "__main__":
    main()
