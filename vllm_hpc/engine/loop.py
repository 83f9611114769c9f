"""The rows of a replica through its engine: admitted whenever one finishes, written as they finish.

Every rank of a replica runs this on the same rows in the same order and takes no decision of its own, so that their
schedulers stay in step; only the first rank writes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext

from vllm_hpc.engine.shards import ShardWriter
from vllm_hpc.jobfolder import JobFolder, JobRecord
from vllm_hpc.layout import Layout, Place
from vllm_hpc.plan import DEFAULT_MAX_TOKENS, LARGEST_GRAPH, is_large_gpu
from vllm_hpc.rows import Row, carried_fields, error_row, iter_jsonl


class Digest:
    """A running hash over the token ids of finished rows, in the order they finish: equal on ranks in step."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self.rows = 0

    @property
    def hexdigest(self) -> str:
        """16 hexadecimal digits."""
        return self._hash.hexdigest()

    def add(self, index: int, tokens: list[list[int]]) -> None:
        """Take in one row."""
        self._hash.update(f"{index}:{tokens}".encode())
        self.rows += 1


def make_engine(record: JobRecord) -> LLMEngine:
    """Build the vLLM engine of this rank; it loads the model. Raises what vLLM raises."""
    layout = record.plan.layout
    arguments = {
        "model": record.model,
        "tensor_parallel_size": layout.tp,
        "pipeline_parallel_size": layout.pp,
        "distributed_executor_backend": "external_launcher",
        "seed": record.request.seed,
        "disable_log_stats": True,
        **_device_defaults(layout, record.plan.engine),
        **record.plan.engine,
    }
    # As LLM() does: an engine of its own context starts with 128 sequences and 2048 tokens a step.
    return LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)


def run_rows(engine: LLMEngine, job: JobFolder, record: JobRecord, place: Place, attempt: int) -> Digest:
    """Run this replica's share of the input; returns the digest of what was generated."""
    dp = record.plan.layout.dp
    share = (row for row in iter_jsonl(job.input) if row["index"] % dp == place.replica)
    total = len(range(place.replica, record.rows, dp))
    writer = ShardWriter(job, place.replica, attempt, total) if place.rank == 0 else None
    digest = Digest()
    try:
        for row in _results(engine, share, _row_to_request(engine, record), place.replica, digest):
            if writer:
                writer.write(row)
    except BaseException:
        # The rows are written; a full disk must not hide what ended the work.
        with contextlib.suppress(OSError):
            if writer:
                writer.close()
        raise
    if writer:
        writer.close()
    return digest


def _results(
    engine: LLMEngine,
    rows: Iterator[Row],
    to_request: Callable[[Row], tuple[Any, SamplingParams]],
    replica: int,
    digest: Digest,
) -> Iterator[Row]:
    """Rows out, in the order they finish, with as many in flight as the scheduler takes."""
    most = engine.vllm_config.scheduler_config.max_num_seqs
    in_flight: dict[str, Row] = {}
    while True:
        while len(in_flight) < most and (row := next(rows, None)) is not None:
            try:
                prompt, params = to_request(row)
                engine.add_request(str(row["index"]), prompt, params)
            except Exception as error:  # noqa: BLE001 - whatever vLLM or a chat template says of a row is that row's
                yield error_row(row, type(error).__name__, str(error))
            else:
                in_flight[str(row["index"])] = row
        if not in_flight:
            return
        for output in engine.step():
            if output.finished:
                row = in_flight.pop(output.request_id)
                digest.add(row["index"], [list(one.token_ids) for one in output.outputs])
                yield _row_out(row, output, replica)


def _row_to_request(engine: LLMEngine, record: JobRecord) -> Callable[[Row], tuple[Any, SamplingParams]]:
    """How a row becomes a prompt and SamplingParams. Raises at once where the job's own sampling is wrong."""
    # The model's generation_config first, as vLLM's own server does; then the job's, then the row's.
    of_model = engine.vllm_config.model_config.get_diff_sampling_param()
    defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **of_model, **record.sampling}
    tokenizer = engine.get_tokenizer()

    def sampling(row: Row) -> SamplingParams:
        # msgspec checks and converts what JSON gives: integer keys of logit_bias, nested structures, wrong types.
        given = {**defaults, **row.get("sampling", {})}
        if unknown := sorted(given.keys() - set(SamplingParams.__struct_fields__)):
            raise ValueError(f"vLLM's SamplingParams have no {unknown[0]!r}")
        chosen = msgspec.convert(given, SamplingParams, strict=False)
        chosen.output_kind = RequestOutputKind.FINAL_ONLY
        return chosen

    def to_request(row: Row) -> tuple[Any, SamplingParams]:
        if "messages" in row:
            return {"prompt_token_ids": _chat_tokens(tokenizer, row["messages"])}, sampling(row)
        kind = "prompt" if isinstance(row["prompt"], str) else "prompt_token_ids"
        return {kind: row["prompt"]}, sampling(row)

    sampling({})
    return to_request


def _chat_tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    """Token ids of a chat by the model's own template, ready for the assistant's answer."""
    plain = [{**message, "content": _text_of(message.get("content"))} for message in messages]
    tokens: list[int] = tokenizer.apply_chat_template(
        plain, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return tokens


def _text_of(content: Any) -> Any:
    """OpenAI's list of text parts as one text; other parts raise ValueError."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ValueError("only text parts are supported in 'content'")
    return "\n".join(part["text"] for part in content)


def _row_out(row: Row, output: Any, replica: int) -> Row:
    first = output.outputs[0]
    result = {
        "index": row["index"],
        "id": row["id"],
        "text": first.text,
        "finish_reason": first.finish_reason,
    }
    if len(output.outputs) > 1:
        result = {
            "index": row["index"],
            "id": row["id"],
            "outputs": [_completion(one) for one in output.outputs],
        }
    result["prompt_tokens"] = len(output.prompt_token_ids or ())
    result["completion_tokens"] = sum(len(one.token_ids) for one in output.outputs)
    return {**result, "replica": replica, **carried_fields(row)}


def _completion(one: Any) -> dict[str, Any]:
    return {"text": one.text, "finish_reason": one.finish_reason, "completion_tokens": len(one.token_ids)}


def _device_defaults(layout: Layout, given: dict[str, Any]) -> dict[str, Any]:
    """Engine arguments that follow from the device, where the job names none.

    On the CPU: eager, which starts in seconds and needs no compiler; but pipeline parallelism there needs the graph
    (vLLM's CPU back-end makes the intermediate tensors that its stages exchange in the compiling warm-up). On GPUs
    with TP: without the fused all-reduce, which needs NVLink multicast; shared hosts keep that off, and with it off
    ranks died of illegal addresses (two H100, vLLM 0.26). On large GPUs: no more sequences than the largest CUDA
    graph, also where nobody said which GPU it is, so that the plan could not.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return {"enforce_eager": layout.pp == 1}
    found: dict[str, Any] = {}
    if layout.tp > 1:
        found["compilation_config"] = {"pass_config": {"fuse_allreduce_rms": False}}
    is_large = is_large_gpu(current_platform.get_device_name(), current_platform.get_device_total_memory() / 2**30)
    if is_large and "max_num_seqs" not in given and "max_num_batched_tokens" not in given:
        found["max_num_seqs"] = LARGEST_GRAPH
    return found
