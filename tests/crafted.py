"""Job folders made by hand, as the submission and the ranks would have left them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec

from tests.published_models import SMALL_CONFIG
from vllm_hpc.jobfolder.chunks import chunk_size
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputIndex, iter_rows
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt, ExitRecord, JobRecord, Progress, RankError, RankRecord, Submitted
from vllm_hpc.jobfolder.row_order import store_order
from vllm_hpc.jobfolder.sorted_copy import write_sorted
from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.prefix_scan import PrefixScan
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.row_order import PREFIX

SUBMITTED_AT = 1000.0


def layout(tp: int = 1, pp: int = 1, dp: int = 1) -> Layout:
    return Layout(nodes=1, gpus_per_node=tp * pp * dp, procs_per_node=tp * pp * dp, tp=tp, pp=pp, dp=dp)


def make_job(path: Path, rows: list[Row] | int = 3, scheduler: str = "local", shape: Layout | None = None) -> JobFolder:
    """A submitted job whose script has not started; ``rows`` are the rows in, or how many."""
    folder = JobFolder(path)
    folder.create()
    given: list[Row] = [{"prompt": f"prompt {n}"} for n in range(rows)] if isinstance(rows, int) else rows
    write_lines(folder.input, [{"index": n, "id": str(n), **row} for n, row in enumerate(given)])
    write_index(folder)
    record = JobRecord(
        request=Request(model="model"),
        plan=Plan(layout=shape or layout(), engine={}),
        scheduler=scheduler,
        model="/models/model",
        sampling={},
        rows=len(given),
        created_at=SUBMITTED_AT,
    )
    write_json(folder.job_json, record)
    write_json(folder.submitted, Submitted(scheduler, "77" if scheduler == "slurm" else "77-1000", SUBMITTED_AT))
    return folder


def put_in_order(folder: JobFolder) -> None:
    """What a submission stores for --order prefix: the order, the input in it, and a plan that says so."""
    record, scan = folder.job(), PrefixScan()
    for row in iter_rows(folder):
        most = {**record.sampling, **row.get("sampling", {})}.get("max_tokens", 16)
        prompt = row.get("prompt") or b""
        scan.add(row, len(prompt) // (4 if isinstance(prompt, str) else 1) + 1, most)
    shape = record.plan.layout
    write_sorted(folder, store_order(folder, scan.ordered(), chunk_size(record.rows, shape.lanes, shape.is_array)))
    plan = msgspec.structs.replace(record.plan, order=PREFIX)
    write_json(folder.job_json, msgspec.structs.replace(record, plan=plan))


def ordered_job(path: Path) -> JobFolder:
    """A job of ten documents, four rows each, shuffled, in the order by prefix."""
    rows: list[Row] = [{"prompt": f"{of}: " + f"{of}" * 300 + f" {number}"} for of in range(10) for number in range(4)]
    random.Random(1).shuffle(rows)
    job = make_job(path, rows)
    put_in_order(job)
    return job


def write_index(folder: JobFolder) -> None:
    """input.json as a submission writes it."""
    maker = BlockMaker()
    with folder.input.open("rb") as file:
        for line in file:
            maker.add(line, is_row=True)
    maker.finish()
    index = InputIndex(
        path=folder.input.name, size=maker.size, rows=maker.rows, format="rows", blocks=tuple(maker.blocks)
    )
    write_json(folder.input_json, index)


def lay_out(folder: Path) -> None:
    """What a job with a template of its own needs: a small model to plan for, and a folder for the template."""
    make_folder(folder / "model")
    (folder / "template").mkdir()


def make_folder(folder: Path, config: dict[str, Any] = SMALL_CONFIG) -> Path:
    """A model folder that can be submitted: nothing reads its weights and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_text("weights")
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": {"a": 0}}}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder


def make_array(path: Path, tasks: int, rows: int = 3) -> JobFolder:
    """A job array of Slurm's, with id 77, of which no task has started."""
    folder = make_job(path, rows, "slurm", Layout(1, 1, 1, 1, 1, tasks, is_array=True))
    write_json(folder.submitted, Submitted("slurm", "77", SUBMITTED_AT))
    return folder


def start(folder: JobFolder, attempt: int = 1, task: int = 0, job_id: str | None = None) -> None:
    job = folder.job()
    if job_id is None:
        job_id = f"77_{task}" if job.plan.layout.is_array else "77" if job.scheduler == "slurm" else "77-1000"
    record = Attempt(attempt=attempt, task=task, job_id=job_id, host="node-1", started_at=SUBMITTED_AT + 5)
    write_json(folder.attempt(attempt), record)


def end(folder: JobFolder, exit_code: int = 0, cause: str = "exit", attempt: int = 1) -> None:
    write_json(
        folder.exit_record(attempt),
        ExitRecord(attempt=attempt, exit_code=exit_code, cause=cause, ended_at=SUBMITTED_AT + 65),
    )


def progress(folder: JobFolder, done: int, failed: int = 0, replica: int = 0, tokens: int = 0) -> None:
    record = Progress(
        replica=replica, attempt=1, done=done, failed=failed, completion_tokens=tokens,
        started_at=SUBMITTED_AT + 10, updated_at=SUBMITTED_AT + 60,
    )  # fmt: skip
    write_json(folder.progress(replica), record)


def rank(folder: JobFolder, number: int, outcome: str, at: float = 0.0, attempt: int = 1, **more: Any) -> None:
    record = RankRecord(
        rank=number, replica=0, attempt=attempt, host="node-1", pid=100 + number, device="cpu", outcome=outcome,
        updated_at=SUBMITTED_AT + at, **more,
    )  # fmt: skip
    write_json(folder.rank_record(number), record)


def error(message: str, is_echo: bool = False) -> RankError:
    return RankError("ValueError", message, f"Traceback: {message}", is_echo)


def result(index: int, text: str = "an answer", **more: Any) -> Row:
    """A row out as a rank writes it."""
    return {
        "index": index, "id": str(index), "text": text, "finish_reason": "stop", "prompt_tokens": 2,
        "completion_tokens": 3, "replica": 0, **more,
    }  # fmt: skip


def write_lines(path: Path, rows: list[Row], torn: str = "") -> None:
    """JSON lines, and ``torn``: what a killed writer left of its last one."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + torn, encoding="utf-8")


def read_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
