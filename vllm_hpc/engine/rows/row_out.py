"""The output row, made from vLLM's output or from an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_hpc.engine.rows import openai_batch
from vllm_hpc.engine.rows.logprobs import top_tokens
from vllm_hpc.rows.row import PROMPT_IDS, Row, carried_fields, error_row

if TYPE_CHECKING:
    from vllm_hpc.engine.interface import Ready


class EngineRowError(RuntimeError):
    """vLLM gave up on a row that it had admitted."""


def token_ids(output: Any) -> list[list[int]]:
    """The token ids of a finished request, a list per output: equal on ranks in step.

    For an embedding those of the prompt, because its floats may differ in the last bit.
    """
    if _is_pooled(output):
        return [list(output.prompt_token_ids)]
    return [list(one.token_ids) for one in output.outputs]


def answer(ready: Ready, output: Any, replica: int) -> Row:
    """The output row of a finished request, or an error row if vLLM gave up on it."""
    row = ready.row
    if not _is_pooled(output) and any(one.finish_reason == "error" for one in output.outputs):
        return failure(row, EngineRowError("vLLM gave up on this row; the rank's log says why"))
    try:
        content = _content(ready, output)
    except Exception as error:  # noqa: BLE001 - a reasoning parser may fail on any text: an error of that row
        return failure(row, error)
    counts = {
        "prompt_tokens": len(output.prompt_token_ids or ()),
        "completion_tokens": 0 if _is_pooled(output) else sum(len(one.token_ids) for one in output.outputs),
    }
    identity = {"index": row["index"], "id": row["id"]}
    if "batch" in row:
        return {
            **identity,
            **counts,
            "replica": replica,
            "line": openai_batch.line(row, content, counts, ready.created),
        }
    return {**identity, **content, **counts, "replica": replica, **carried_fields(row)}


def failure(row: Row, error: Exception) -> Row:
    """The output row of a row that cannot be run."""
    kind, message = type(error).__name__, str(error) or type(error).__name__
    if "batch" in row:
        return {**error_row(row, kind, message), "line": openai_batch.error_line(row, message)}
    return error_row(row, kind, message)


def _is_pooled(output: Any) -> bool:
    return not isinstance(output.outputs, list)


def _content(ready: Ready, output: Any) -> dict[str, Any]:
    """The answer itself: an embedding, or one or several texts with whatever else the row asks for."""
    if _is_pooled(output):
        return {"embedding": output.outputs.data.tolist()}
    every = [_completion(ready, one, output.prompt_token_ids) for one in output.outputs]
    content: dict[str, Any] = every[0] if len(every) == 1 else {"outputs": every}
    extra = getattr(ready.params, "extra_args", None)
    if isinstance(extra, dict) and extra.get(PROMPT_IDS) is True:
        content["prompt_token_ids"] = list(output.prompt_token_ids)
    if output.prompt_logprobs is not None:
        most = ready.params.prompt_logprobs
        content["prompt_logprobs"] = top_tokens(output.prompt_token_ids, output.prompt_logprobs, most)
    return content


def _parts(ready: Ready, one: Any, text: str, prompt: list[int] | None) -> dict[str, Any]:
    """A text, or what vLLM's parsers make of it; and why it ended."""
    if ready.calls is not None:
        answer = ready.calls(one, text, prompt)
        # In OpenAI's lines an answer of nothing but calls has no content.
        said: dict[str, Any] = {"text": answer.text if "batch" in ready.row else answer.text or ""}
        if ready.calls.has_reasoning:
            said["reasoning"] = answer.reasoning
        if answer.tool_calls:
            said["tool_calls"] = answer.tool_calls
        return {**said, "finish_reason": answer.finish_reason}
    if ready.split is None:
        return {"text": text, "finish_reason": one.finish_reason}
    reasoning, content = ready.split(ready.row, text)
    return {"text": content, "reasoning": reasoning, "finish_reason": one.finish_reason}


def _completion(ready: Ready, one: Any, prompt: list[int] | None) -> dict[str, Any]:
    """One text; keys without a value are left out."""
    text = one.text
    if ready.text is not None:
        text = ready.text(prompt, one.token_ids, one.finish_reason == "stop", ready.params)
    said = _parts(ready, one, text, prompt)
    if one.stop_reason is not None:
        said["stop_reason"] = one.stop_reason
    if ready.params.n > 1:
        said["completion_tokens"] = len(one.token_ids)
    if one.logprobs is not None:
        most = None if ready.params.logprob_token_ids else ready.params.logprobs
        said["logprobs"] = top_tokens(one.token_ids, one.logprobs, most)
    return said
