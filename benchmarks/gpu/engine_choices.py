"""fp8 weights, an fp8 KV cache and n-gram speculation: their speed, the planner's estimate, and what they change.

    python -m benchmarks.gpu.engine_choices --seconds 290

Engines of `vllm.LLM` on one GPU, each in a process of its own, which imports vLLM while the one before runs; with
random weights, since vLLM's dummy ones give all rows the same tokens. The weights (16 GB of llama-8b) are written into
--work once, and read for each engine from the page cache. Rows of 256 random tokens in and --output out, greedy: many
(--rows), and 16; for bf16 and ngram also as many as run at once (--sequences), for ngram not the many. Of 32 rows, in
batches of 32: the share of equal answers, and the log-likelihood of the bf16 ones, as `vllm-hpc tune` measures them. A
JSON line for each engine, then a table. No engine is begun with less than --least seconds left, and none goes on after
--seconds; --only runs the others afterwards, beside the bf16 of the earlier run in --work.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.shapes import SHAPES, make_random, shape_parser
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.engine_choices import engine_choices
from vllm_hpc.planner.engine_settings import choose_settings
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.speculation import NGRAM
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import find_gpu
from vllm_hpc.spec.layout import Layout
from vllm_hpc.tuning.answers import Answer, effect_of

ENGINES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "fp8": {"quantization": "fp8"},
    "kv": {"kv_cache_dtype": "fp8"},
    "ngram": NGRAM.engine,
}
KEYS = {"fp8": "quantization", "kv": "kv_cache_dtype", "ngram": "ngram"}
PROMPT, COMPARED = 256, 32


class Engine:
    """An engine, and what is run on it."""

    def __init__(self, model: Path, more: dict[str, Any], sequences: int) -> None:
        from vllm import LLM

        began = time.perf_counter()
        self.llm = LLM(
            model=str(model), max_model_len=1024, max_num_seqs=sequences, max_num_batched_tokens=16_384, seed=0,
            disable_log_stats=False, **more,
        )  # fmt: skip
        self.load = time.perf_counter() - began

    def run(self, prompts: list[list[int]], output: int) -> tuple[float, list[list[int]]]:
        """Output tokens per second, and the tokens."""
        self.llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = self._generate(prompts, max_tokens=output, ignore_eos=True)
        tokens = [list(one.outputs[0].token_ids) for one in outputs]
        return sum(map(len, tokens)) / (time.perf_counter() - began), tokens

    def answers(self, prompts: list[list[int]], output: int) -> dict[str, Answer]:
        """Greedy answers with their log probabilities."""
        found = {}
        for number, one in enumerate(self._generate(prompts, max_tokens=output, ignore_eos=True, logprobs=0)):
            tokens = list(one.outputs[0].token_ids)
            own = [place[token].logprob for token, place in zip(tokens, one.outputs[0].logprobs, strict=True)]
            found[str(number)] = Answer(tokens, own, prompts[number])
        return found

    def judged(self, answers: dict[str, Answer]) -> dict[str, dict[str, Any]]:
        """Those answers at the end of their prompts, as output rows with prompt_logprobs."""
        prompts = [[*one.prompt, *map(int, one.tokens)] for one in answers.values()]
        outputs = self._generate(prompts, max_tokens=1, prompt_logprobs=0)
        rows = {}
        for name, prompt, one in zip(answers, prompts, outputs, strict=True):
            places = zip(prompt, one.prompt_logprobs, strict=True)
            rows[f"scored-{name}"] = {"prompt_logprobs": [{"logprob": at[token].logprob} for token, at in places if at]}
        return rows

    def drafts(self) -> dict[str, float]:
        """What vLLM counts of speculation so far."""
        names = ("vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens")
        return {one.name.rpartition("_num_")[2]: one.value for one in self.llm.get_metrics() if one.name in names}

    def _generate(self, prompts: list[list[int]], **sampling: Any) -> list[Any]:
        from vllm import SamplingParams

        given: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = SamplingParams(temperature=0.0, detokenize=False, **sampling)
        return list(self.llm.generate(given, params, use_tqdm=False))


def measure(given: argparse.Namespace) -> None:
    """In a process of its own: wait for this engine's turn, start it, run its rows, and write down what it did."""
    from vllm import LLM  # noqa: F401 - while the one before runs

    name, output, sequences = given.one, given.output, given.sequences
    while not (given.work / f"turn-{name}").exists():
        time.sleep(0.1)
    chance, vocabulary = random.Random(0), SHAPES[given.shape]["vocab_size"]
    most = max(given.rows, sequences, COMPARED)
    prompts = [[chance.randrange(300, vocabulary) for _ in range(PROMPT)] for _ in range(most)]
    engine = Engine(_model(given), ENGINES[name], sequences)
    line: dict[str, Any] = {"engine": name, "load_s": round(engine.load, 1), "rows": {}, "speculation": {}}
    engine.run(prompts[:COMPARED], 8)  # Triton compiles
    before = engine.drafts()
    for rows in _numbers(name, given):
        line["rows"][rows] = round(engine.run(prompts[:rows], output)[0], 1)
        after = engine.drafts()
        line["speculation"][rows] = {key: after[key] - before.get(key, 0) for key in after}
        before = after
    answers, plain = engine.answers(prompts[:COMPARED], output), given.work / "plain.json"
    if name == "bf16":
        plain.write_bytes(msgspec.json.encode(answers))
        other = engine.answers(prompts[: COMPARED // 4], output)  # in other batches
        line["itself"] = str(effect_of({key: answers[key] for key in other}, other, {}))
    elif plain.exists():
        bf16 = msgspec.json.decode(plain.read_bytes(), type=dict[str, Answer])
        line["effect"] = str(effect_of(bf16, answers, engine.judged(bf16)))
    (given.work / f"{name}.json").write_text(json.dumps(line))


def _numbers(name: str, given: argparse.Namespace) -> list[int]:
    """How many rows an engine runs, one after another."""
    many = [] if name == "ngram" else [given.rows]
    at_once = [given.sequences] if name in ("bf16", "ngram") else []
    return list(dict.fromkeys([*many, *at_once, 16]))


def _model(given: argparse.Namespace) -> Path:
    folder: Path = given.work / f"{given.shape}-random"
    return folder


class Bench:
    """The engines of one shape, one after another, and what they did."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.lines, self._ends = given, list[dict[str, Any]](), time.monotonic() + given.seconds

    def run(self, names: list[str]) -> None:
        """Run the engines as long as there is time."""
        given = self.given
        given.work.mkdir(parents=True, exist_ok=True)
        for name in names:
            for file in (f"turn-{name}", f"{name}.json"):
                (given.work / file).unlink(missing_ok=True)
        if "bf16" not in names and (given.work / "bf16.json").exists():
            self._tell("bf16")
        waiting = self._start(names[0])
        make_random(given.shape, _model(given))
        _give_back()
        for place, name in enumerate(names):
            process = waiting
            if time.monotonic() > self._ends - given.least:
                process.kill()
                print(f"time is up: {', '.join(names[place:])} not run", flush=True)
                return
            (given.work / f"turn-{name}").touch()
            following = names[place + 1 : place + 2]
            waiting = self._start(following[0]) if following else process
            try:
                process.wait(max(1.0, self._ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                print(f"{name}: cut off", flush=True)
            self._tell(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        """A process of this module, with the same options."""
        words = [sys.executable, "-m", "benchmarks.gpu.engine_choices", *sys.argv[1:], "--one", name]
        with (self.given.work / f"{name}.log").open("wb") as log:
            return subprocess.Popen(words, stdout=log, stderr=log)

    def _tell(self, name: str) -> None:
        file = self.given.work / f"{name}.json"
        if not file.exists():
            log = (self.given.work / f"{name}.log").read_text(errors="replace").splitlines()
            print(f"{name} told nothing; its log ends with:\n" + "\n".join(log[-15:]), flush=True)
            return
        line = json.loads(file.read_text())
        line["rows"] = {int(rows): rate for rows, rate in line["rows"].items()}
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def estimate(self, name: str, rows: int) -> str:
        """The planner's range for that many rows."""
        shape = read_shape(SHAPES[self.given.shape], self.given.shape)
        device = Device(find_gpu(self.given.gpu), "--gpu")
        tokens = rows * self.given.output
        load = Workload(rows=rows, longest=1024, prompt_tokens=PROMPT * rows, output_tokens=tokens)
        settings = choose_settings(shape, device, load, {"max_num_seqs": self.given.sequences}, 1.0)
        problem = PlanningProblem(shape, None, device, settings, load)
        layout = Layout(1, 1, 1, 1, 1, 1)
        found, _ = engine_choices(problem, layout, problem.fit(layout), {}, 0)
        return next((f"{one.gain_low} to {one.gain_high}" for one in found if one.key == KEYS.get(name)), "-")

    def table(self) -> str:
        """One line for each engine and number of rows."""
        told = [
            "| engine | rows | tok/s | of bf16 | the plan's range | answers |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        plain: dict[int, float] = next((line["rows"] for line in self.lines if line["engine"] == "bf16"), {})
        for line in self.lines:
            for rows, rate in line["rows"].items():
                ratio = f"{rate / plain[rows]:.2f}" if plain.get(rows) else "-"
                answers = line.get("effect") or line.get("itself", "-")
                estimate = self.estimate(line["engine"], rows)
                told.append(f"| {line['engine']} | {rows} | {rate:,.0f} | {ratio} | {estimate} | {answers} |")
        return "\n".join(told)


def main() -> int:
    """Run the engines, and print the table."""
    parser = shape_parser(__doc__, 1)
    parser.add_argument("--only", default=",".join(ENGINES), help="engines, in this order; bf16 first")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--output", type=int, default=128, help="tokens out of each row")
    parser.add_argument("--sequences", type=int, default=512, help="max_num_seqs")
    parser.add_argument("--gpu", default="h200", help="whose estimates are printed")
    parser.add_argument("--seconds", type=float, default=290)
    parser.add_argument("--least", type=float, default=60, help="seconds that an engine needs at least")
    parser.add_argument("--one", choices=sorted(ENGINES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # its process would import all of it again
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        os.environ.setdefault(name, "1")
    if given.one:
        measure(given)
        return 0
    bench = Bench(given)
    bench.run(given.only.split(","))
    print(bench.table())
    return 0


def _give_back() -> None:
    """The GPU's memory that making the weights took."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
