"""Rows through engines in a process of their own: what vllm-hpc makes of them, beside what plain vllm.LLM does.

As a module: ``run(...)`` asks the one process of this test run, and starts it first where there is none. As a script:
what is asked on stdin, a line each, and the outcomes on stdout. vLLM is imported once, and an engine is made only where
what is asked needs another than the one before: tests that ask for the same engine share it, of whatever module.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.vllm_server import serve
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.lora import Adapter
from vllm_hpc.spec.server_arguments import engine_only

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}


class Asked(msgspec.Struct, kw_only=True):
    """What to run: rows, normalised but for index and id; and calls of plain vllm.LLM to compare with."""

    model: str
    rows: list[Row]
    engine: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    request: dict[str, Any] = {}
    adapters: tuple[Adapter, ...] = ()
    in_flight: int = 8
    orders: list[list[int]] = []  # run the rows again in these orders
    reference: list[Row] = []  # rows for plain vLLM

    def engine_key(self) -> bytes:
        """What an engine is made of. With it, the job's own constraint: an engine has one back-end for grammars."""
        constraint = self.sampling.get("structured_outputs")
        return msgspec.json.encode([self.model, engine_only(self.engine), self.adapters, constraint])


class Outcome(msgspec.Struct, kw_only=True):
    """Rows out in the order of the rows in; ``again``, by order; and what plain vLLM gave: text and prompt tokens."""

    rows: list[Row]
    prompts: dict[str, list[int]]
    digests: dict[str, list[list[int]]]
    again: list[list[Row]]
    reference: list[dict[str, Any]]


class Engines:
    """The process of engines, started now. It ends with this one, whose end closes its stdin."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.engine_run"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written,
                env={**os.environ, **ENVIRONMENT}, cwd=Path(__file__).parents[1],
            )  # fmt: skip

    def ask(self, asked: Asked) -> Outcome:
        """The outcome; an engine that fails fails the test, with what it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(asked) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._log.read_text(errors="replace")[-6000:]
        return msgspec.json.decode(line, type=Outcome)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


_running: list[Engines] = []


def run(work: Path, **asked: Any) -> Outcome:
    """Run rows. The process that this starts, if it does, writes its log into ``work``."""
    rows = [{"index": index, "id": str(index), **row} for index, row in enumerate(asked.pop("rows"))]
    with _engines(work / "engines.log") as engines:
        return engines.ask(Asked(rows=rows, **asked))


@contextmanager
def _engines(log: Path) -> Iterator[Engines]:
    """The running process: after a failure, or a test's time-out, it is not asked again."""
    engines = _running.pop() if _running else Engines(log)
    try:
        yield engines
    except BaseException:
        engines.end()
        raise
    _running.append(engines)


def main() -> None:
    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what vLLM prints is no outcome
    llm, key = None, b""
    for line in sys.stdin.buffer:
        asked = msgspec.json.decode(line, type=Asked)
        if llm is None or asked.engine_key() != key:
            llm = None  # before the next one is made: there is room for one
            gc.collect()
            llm, key = _engine(asked), asked.engine_key()
        outcomes.write(msgspec.json.encode(_outcome(llm, asked)) + b"\n")
        outcomes.flush()


def _engine(asked: Asked) -> Any:
    from vllm import LLM

    from vllm_hpc.engine.rows.lora import lora_arguments

    engine = {"enforce_eager": True, "seed": 0, "disable_log_stats": True, **lora_arguments(_record(asked))}
    return LLM(model=asked.model, **{**engine, **engine_only(asked.engine)})


def _outcome(llm: Any, asked: Asked) -> Outcome:
    from vllm_hpc.engine.rows.prompts import RequestMaker

    ready = Requests(llm.llm_engine, RequestMaker(llm.llm_engine, _record(asked), writes=True), asked.in_flight)
    rows = ready.run(asked.rows)
    prompts, digests = ready.prompts.copy(), ready.digests.copy()
    again = [ready.run([asked.rows[place] for place in order]) for order in asked.orders]
    reference = [_plain(llm, asked, row) for row in asked.reference]
    return Outcome(rows=rows, prompts=prompts, digests=digests, again=again, reference=reference)


def _record(asked: Asked) -> Any:
    from tests.crafted import layout
    from vllm_hpc.jobfolder.records import JobRecord
    from vllm_hpc.spec.plan import Plan
    from vllm_hpc.spec.request import Request

    return JobRecord(
        request=Request(model=asked.model, **asked.request),
        plan=Plan(layout=layout(1), engine=asked.engine),
        scheduler="local",
        model=asked.model,
        sampling=asked.sampling,
        rows=len(asked.rows),
        created_at=1_763_820_000.5,
        adapters=asked.adapters,
    )


class Requests:
    """Runs rows as the loop of a rank does: made ready on a thread beside the steps; what cannot be run is an error."""

    def __init__(self, engine: Any, make: Any, most: int) -> None:
        self._engine, self._make, self._most = engine, make, most
        self.prompts: dict[str, list[int]] = {}
        self.digests: dict[str, list[list[int]]] = {}

    def run(self, rows: list[Row]) -> list[Row]:
        from vllm_hpc.engine.rows.row_out import failure

        flying, found = dict[str, Any](), dict[str, Row]()
        with ThreadPoolExecutor(1) as reader:
            pending = deque((row, reader.submit(self._make, row)) for row in rows)
            while pending or flying:
                while pending and len(flying) < self._most:
                    row, future = pending.popleft()
                    name = str(row["index"])
                    try:
                        ready = future.result()
                        self._engine.add_request(name, ready.prompt, ready.params, lora_request=ready.lora)
                        flying[name] = ready
                    except Exception as error:  # noqa: BLE001 - as in the loop
                        found[name] = failure(row, error)
                found |= self._step(flying) if flying else {}
        return [found[str(row["index"])] for row in rows]

    def _step(self, flying: dict[str, Any]) -> dict[str, Row]:
        from vllm_hpc.engine.rows.row_out import answer, token_ids

        found = {}
        for output in self._engine.step():
            name, ready = output.request_id, flying.pop(output.request_id)
            self.prompts[name], self.digests[name] = list(output.prompt_token_ids), token_ids(output)
            found[name] = answer(ready, output, 0)
        return found


def _plain(llm: Any, asked: Asked, row: Row) -> dict[str, Any]:
    """What plain vLLM does with a row: ``call`` is the method, ``arguments`` go to it; "serve" is its server's."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    if row["call"] == "serve":
        return serve(llm.llm_engine, row["body"], row.get("tool_parser"), asked.request.get("chat_template"))
    arguments = dict(row.get("arguments", {}))
    if "lora" in row:
        number, adapter = next((n, a) for n, a in enumerate(asked.adapters, 1) if a.name == row["lora"])
        arguments["lora_request"] = LoRARequest(adapter.name, number, adapter.path)
    if row["call"] == "embed":
        output = llm.embed(row["prompt"], use_tqdm=False)[0]
        return {"prompt": list(output.prompt_token_ids), "embedding": output.outputs.embedding}
    params = SamplingParams(**{**asked.sampling, **row.get("sampling", {})})
    output = getattr(llm, row["call"])(row["prompt"], params, use_tqdm=False, **arguments)[0]
    return {"prompt": list(output.prompt_token_ids), "text": output.outputs[0].text}


if __name__ == "__main__":
    main()
