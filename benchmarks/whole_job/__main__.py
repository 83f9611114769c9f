"""The same OpenAI batch file of chats through several tools, in turns: wall time from the command to the last row.

    VLLM_CPU_KVCACHE_SPACE=1 python -m benchmarks.whole_job --engine dtype=float32 --engine max_model_len=1024 \\
      --peer llmflux=PYTHON --peer ray=PYTHON
    python -m benchmarks.whole_job --model llama-8b --engine load_format=dummy --engine max_model_len=4096 \\
      --rows 4096 --letters 256 --output 128 --ignore-eos --times 2 --only vllm-hpc,run-batch

Ways: `vllm-hpc submit --wait --scheduler local`; `vllm run-batch`; llmflux, as its Slurm job runs it, without Slurm and
Apptainer (it submits to Slurm only); Ray Data LLM. Peers are installed in environments of their own, outside of this
project; Ray's needs vLLM, too. A peer that is not told of is said to be missing. On a CPU, vLLM alone wants 0.92 of the
machine's memory, and does not start where less is free: VLLM_CPU_KVCACHE_SPACE (GiB) is what all ways take instead.

Each way has a home of its own with its caches in --work: its first job there finds nothing compiled, later ones do,
also those of a later command with the same --work. Who begins changes from round to round. Ratios are those within one
round. Figures accumulate in jobs.jsonl there. All rows are greedy: the texts are compared with those of the first job.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.gpu.results import spread
from benchmarks.whole_job.chats import Chats, find_model
from benchmarks.whole_job.jobs import Done, run
from benchmarks.whole_job.ways import WAYS, Answers, Way, Work

OURS = "vllm-hpc"
COLUMNS = ("way", "jobs", "to the last row, s", "to the command's end, s", "to vllm-hpc's", "rows answered",
           "texts as the first job's")  # fmt: skip


def missing(way: Way, peers: dict[str, Path]) -> str:
    """Why a way cannot be run here; nothing if it can."""
    if not way.needs:
        return ""
    if way.name not in peers:
        return f"not told of: --peer {way.name}=PYTHON"
    try:
        tried = subprocess.run([str(peers[way.name]), "-c", f"import {way.needs}"], capture_output=True, timeout=300)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"{peers[way.name]} cannot be run ({error})"
    lines = tried.stderr.decode(errors="replace").strip().splitlines() or [""]
    return f"{peers[way.name]} cannot import {way.needs}: {lines[-1]}" if tried.returncode else ""


def interleave(ways: list[Way], work: Work, folder: Path, asked: argparse.Namespace) -> None:
    """Run all in turns, until the rounds or the seconds are at their end."""
    until, before = time.monotonic() + asked.seconds, read(folder)
    start = max((done.round + 1 for done in before), default=0)
    for number in range(start, start + asked.times):
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            left = until - time.monotonic()
            if left <= 0:
                print(f"round {number}: {way.name} is not run: --seconds {asked.seconds:g} are over", flush=True)
                continue
            done, answers = run(way, work, number, folder, left)
            done = msgspec.structs.replace(done, same=same(folder / "answers.json", answers))
            with (folder / "jobs.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(done) + b"\n")
            said = done.failed or f"{done.seconds:.1f} s to the last row, {done.whole:.1f} to the end"
            print(f"round {number}: {way.name}: {said}; load {done.load:.1f} before", flush=True)


def same(reference: Path, answers: Answers) -> int:
    """How many texts are those of the first job of all, which the file keeps."""
    if not reference.exists() and answers:
        reference.with_suffix(".part").write_text(json.dumps(answers))
        reference.with_suffix(".part").rename(reference)
    first = json.loads(reference.read_text()) if reference.exists() else {}
    return sum(text is not None and first.get(name) == text for name, text in answers.items())


def read(folder: Path) -> list[Done]:
    """All jobs so far in a folder."""
    file = folder / "jobs.jsonl"
    return [msgspec.json.decode(line, type=Done) for line in file.read_bytes().splitlines()] if file.exists() else []


def table(jobs: list[Done], absent: dict[str, str]) -> str:
    """Seconds of each way, and what they are to vllm-hpc's of the same rounds: medians, least and most."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    for name, is_first in itertools.product(WAYS, (True, False)):
        if found := [done for done in jobs if done.way == name and done.first == is_first]:
            rows.append(_row(name, "first" if is_first else "later", found, jobs))
    rows += [f"| {name} | not run: {why} | | | | | |" for name, why in absent.items()]
    return "\n".join(rows)


def _row(name: str, which: str, found: list[Done], jobs: list[Done]) -> str:
    well = [done for done in found if not done.failed]
    failed = "".join(f"; failed: {done.failed}" for done in found if done.failed)
    if not well:
        return f"| {name} | {which}{failed} | | | | | |"
    ours = {done.round: done.seconds for done in jobs if done.way == OURS and not done.failed}
    ratios = [done.seconds / ours[done.round] for done in well if done.round in ours]
    of_each = [f"{min(count)} of {done.rows}" for done in well[:1] for count in _counts(well)]
    told = [spread([done.seconds for done in well]), spread([done.whole for done in well])]
    told += [spread(ratios, ".2f") if ratios else "", *of_each]
    return f"| {name} | {len(well)} {which}{failed} | " + " | ".join(told) + " |"


def _counts(jobs: list[Done]) -> list[list[int]]:
    return [[done.answered for done in jobs], [done.same for done in jobs]]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo; a shape of benchmarks.gpu, made here; or a folder")
    parser.add_argument("--rows", type=_positive, default=64)
    parser.add_argument("--letters", type=_positive, default=160, help="of each prompt; of a shape: tokens")
    parser.add_argument("--output", type=_positive, default=32, help="most tokens of each answer")
    parser.add_argument("--ignore-eos", action="store_true", help="just as many tokens (llmflux leaves this out)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=_positive, default=3, help="rounds")
    parser.add_argument("--seconds", type=_seconds, default=3600, help="of all; what runs then is ended")
    parser.add_argument("--only", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--engine", action="append", default=[], metavar="K=V", help="for all ways")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--work", type=Path, help="homes, jobs and figures; short; default: a new one in /tmp")
    return parser.parse_args(words)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:10]) <= 10**8):
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 100000000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10**6:
        raise argparse.ArgumentTypeError("must be a number of seconds, at most 1000000")
    return seconds


def pairs(option: str, words: list[str]) -> dict[str, str]:
    """Of NAME=VALUE."""
    for word in words:
        if not word.partition("=")[0] or not word.partition("=")[2]:
            sys.exit(f"{option} {word!r} must be NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def chosen(only: str, peers: dict[str, Path]) -> list[Way]:
    """The ways asked for; SystemExit for a name that is none."""
    names = [name for name in dict.fromkeys(only.split(",")) if name]
    for name in (*names, *peers):
        if name not in WAYS:
            sys.exit(f"{name!r} is no way: use {', '.join(WAYS)}")
    if not names:
        sys.exit(f"--only must name one of {', '.join(WAYS)}")
    return [way for way in WAYS.values() if way.name in names]


def prepare(asked: argparse.Namespace, folder: Path, peers: dict[str, Path]) -> Work:
    """The model and the chats; SystemExit where the folder has figures of other work."""
    model = find_model(asked.model, folder)
    chats = Chats(asked.rows, asked.letters, asked.output, asked.seed, asked.ignore_eos)
    file = chats.write(folder / "chats.jsonl", model)
    engine = pairs("--engine", asked.engine)
    digest = hashlib.sha256(file.read_bytes() + json.dumps(engine).encode()).hexdigest()
    kept = folder / "work.sha256"
    if kept.exists() and kept.read_text() != digest:
        sys.exit(f"--work {folder} has figures of other rows or engine arguments: name another folder")
    kept.write_text(digest)
    return Work(model, file, asked.rows, engine, peers)


def main() -> None:
    try:
        compare(parse())
    except (OSError, msgspec.DecodeError, json.JSONDecodeError) as error:
        sys.exit(f"{error}: the folder of --work must be writable, and not be changed by others")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same --work goes on from the jobs that are done")


def compare(asked: argparse.Namespace) -> None:
    """Run what is asked for, and print the table. SystemExit with 1 if a job failed."""
    peers = {name: Path(value) for name, value in pairs("--peer", asked.peer).items()}
    ways = chosen(asked.only, peers)
    folder: Path = (asked.work or Path(tempfile.mkdtemp(prefix="whole-", dir="/tmp"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = prepare(asked, folder, peers)
    absent = {way.name: why for way in ways if (why := missing(way, peers))}
    present = [way for way in ways if way.name not in absent]
    what = f"{asked.rows} chats of {asked.letters} letters, {asked.output} tokens out"
    print(f"{asked.model}: {what}; {folder}", flush=True)
    if present:
        subprocess.run(
            [sys.executable, "-c", "from vllm import LLM"], capture_output=True
        )  # nobody pays for a cold disk
        interleave(present, work, folder, asked)
    jobs = read(folder)
    print(table(jobs, absent))
    sys.exit(any(done.failed for done in jobs) or not jobs)


if __name__ == "__main__":
    main()
