"""Rows through one engine in a process of their own: what vllm-hpc makes of them, beside what plain vllm.LLM does.

As a module: ``run(...)`` starts the process. As a script: the specification on stdin, the outcome into a file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.adapters import Adapter
from vllm_hpc.rows import Row

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}


IN_FLIGHT = 8


class Asked(msgspec.Struct, kw_only=True):
    """What to run: rows, normalised but for index and id; and calls of plain vllm.LLM to compare with."""

    model: str
    rows: list[Row]
    engine: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    request: dict[str, Any] = {}
    adapters: tuple[Adapter, ...] = ()
    orders: list[list[int]] = []  # run the rows again in these orders
    reference: list[Row] = []  # rows for plain vLLM


class Outcome(msgspec.Struct, kw_only=True):
    """Rows out in the order of the rows in; ``again``, by order; and what plain vLLM gave: text and prompt tokens."""

    rows: list[Row]
    prompts: dict[str, list[int]]
    digests: dict[str, list[list[int]]]
    again: list[list[Row]]
    reference: list[dict[str, Any]]


def run(work: Path, **asked: Any) -> Outcome:
    """Run rows in a process of their own."""
    rows = [{"index": index, "id": str(index), **row} for index, row in enumerate(asked.pop("rows"))]
    out = work / "outcome.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.engine_run", str(out)],
        input=msgspec.json.encode(Asked(rows=rows, **asked)).decode(),
        text=True,
        capture_output=True,
        env={**os.environ, **ENVIRONMENT},
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return msgspec.json.decode(out.read_bytes(), type=Outcome)


def main() -> None:
    asked = msgspec.json.decode(sys.stdin.read(), type=Asked)
    from vllm import LLM

    from vllm_hpc.engine.adapters import lora_arguments
    from vllm_hpc.engine.prompts import RequestMaker

    record = _record(asked)
    engine = {"enforce_eager": True, "seed": 0, "disable_log_stats": True, **lora_arguments(record), **asked.engine}
    llm = LLM(model=asked.model, **engine)
    make = RequestMaker(llm.llm_engine, record, writes=True)
    prompts: dict[str, list[int]] = {}
    digests: dict[str, list[list[int]]] = {}
    rows = _rows_out(llm, make, asked.rows, prompts, digests)
    again = [_rows_out(llm, make, [asked.rows[place] for place in order], {}, {}) for order in asked.orders]
    reference = [_plain(llm, asked, row) for row in asked.reference]
    outcome = Outcome(rows=rows, prompts=prompts, digests=digests, again=again, reference=reference)
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(outcome))


def _record(asked: Asked) -> Any:
    from tests.crafted import layout
    from vllm_hpc.plan import Plan
    from vllm_hpc.records import JobRecord
    from vllm_hpc.request import Request

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


def _rows_out(llm: Any, make: Any, rows: list[Row], prompts: dict[str, Any], digests: dict[str, Any]) -> list[Row]:
    """As the loop of a rank: rows made ready on a thread beside the steps; one that cannot be run is an error."""
    from vllm_hpc.engine.answers import answer, failure, token_ids

    engine, flying, found = llm.llm_engine, dict[str, Any](), dict[str, Row]()
    with ThreadPoolExecutor(1) as reader:
        pending = deque((row, reader.submit(make, row)) for row in rows)
        while pending or flying:
            while pending and len(flying) < IN_FLIGHT:
                row, future = pending.popleft()
                name = str(row["index"])
                try:
                    ready = future.result()
                    engine.add_request(name, ready.prompt, ready.params, lora_request=ready.lora)
                    flying[name] = ready
                except Exception as error:  # noqa: BLE001 - as in the loop
                    found[name] = failure(row, error)
            for output in engine.step() if flying else ():
                ready = flying.pop(output.request_id)
                prompts[output.request_id] = list(output.prompt_token_ids)
                digests[output.request_id] = token_ids(output)
                found[output.request_id] = answer(ready, output, 0)
    return [found[str(row["index"])] for row in rows]


def _plain(llm: Any, asked: Asked, row: Row) -> dict[str, Any]:
    """What plain vLLM does with a row: ``call`` is the method, ``arguments`` go to it."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

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
