"""Translates the sampling parameters of an OpenAI request to those of vLLM's SamplingParams."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.row import Row, RowError

# These mean the same in both.
_SAME = frozenset(
    {
        "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias",
        "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "min_tokens", "bad_words",
        "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "allowed_token_ids",
        "prompt_logprobs", "thinking_token_budget",
    }
)  # fmt: skip
# These do not change the answer.
IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "prediction", "stream_options", "parallel_tool_calls", "priority", "request_id", "session_id", "cache_salt",
    }
)  # fmt: skip
# Only these default values are supported.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,), "echo": (False,), "suffix": ("",), "use_beam_search": (False,), "length_penalty": (1, 1.0),
    "modalities": (["text"],), "functions": ([],), "function_call": ("none",), "add_generation_prompt": (True,),
    "continue_final_message": (False,), "include_reasoning": (True,), "tools": ([],), "tool_choice": ("none", "auto"),
    "add_special_tokens": (False,),
}  # fmt: skip
# vLLM's older names for structured_outputs.
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def sampling_of(body: Row, is_chat: bool) -> Row:
    """The sampling of a request without its prompt and model. Raises RowError, which names the parameter."""
    for older in ("functions", "function_call"):
        if body.get(older, []) not in ([], "none"):
            raise RowError(f"body: {older!r} is OpenAI's older form: use 'tools' and 'tool_choice'")
    check_neutral(body, _NEUTRAL)
    sampling = {key: body[key] for key in body if key in _SAME}
    rest = {
        key: value for key, value in body.items() if key not in _SAME and key not in _NEUTRAL and key not in IGNORED
    }
    _check_best_of(rest.pop("best_of", None), body.get("n", 1))
    sampling |= (
        take_cuts(rest) | _max_tokens(rest) | (_chat_logprobs(rest) if is_chat else _logprobs(rest)) | _structured(rest)
    )
    if "extra_body" in rest:
        raise RowError("body: 'extra_body' is an argument of OpenAI's client: write its fields into the body")
    if rest:
        raise RowError(f"body: {min(rest)!r} is not supported: remove it")
    return sampling


def take_cuts(body: Row) -> Row:
    """Remove and return how the prompt is cut: truncate_prompt_tokens and truncation_side. Raises RowError."""
    cuts: Row = {key: body.pop(key) for key in ("truncate_prompt_tokens", "truncation_side") if key in body}
    tokens = cuts.get("truncate_prompt_tokens", 1)
    if type(tokens) is not int or tokens < -1 or not tokens:
        raise RowError(
            f"body: 'truncate_prompt_tokens' must be a whole number, 1 or more, or -1, not {shorten(tokens)}"
        )
    if cuts.get("truncation_side", "left") not in ("left", "right"):
        raise RowError("body: 'truncation_side' must be left or right")
    return cuts


def check_neutral(body: Row, allowed: dict[str, tuple[Any, ...]]) -> None:
    """Remove parameters that have their default value, refuse any other value. Raises RowError."""
    for key in allowed.keys() & body.keys():
        value = body[key]
        # In Python False == 0 and True == 1, but a flag must be a bool.
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed[key]):
            raise RowError(f"body: {key!r} cannot be {shorten(value)} here: remove it")
        del body[key]


def shorten(value: Any) -> str:
    """A value as errors show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_best_of(best_of: Any, n: Any) -> None:
    if best_of is not None and best_of != n:
        raise RowError(f"body: 'best_of' cannot be {shorten(best_of)} here: remove it")


def _max_tokens(rest: Row) -> Row:
    """Read max_tokens; its newer name, max_completion_tokens, wins, as in vLLM's server."""
    older = rest.pop("max_tokens", None)
    limit = rest.pop("max_completion_tokens", older)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise RowError(f"body: max_tokens must be a whole number, 1 or more, not {shorten(limit)}")
    return {} if limit is None else {"max_tokens": limit}


def _chat_logprobs(rest: Row) -> Row:
    """Read a chat's logprobs (whether) and top_logprobs (how many)."""
    wanted, top = rest.pop("logprobs", False), rest.pop("top_logprobs", None)
    if not isinstance(wanted, bool):
        raise RowError("body: in a chat 'logprobs' must be true or false; 'top_logprobs' says how many")
    if top is not None and (type(top) is not int or top < 0):
        raise RowError("body: 'top_logprobs' must be a whole number")
    if top and not wanted:
        raise RowError("body: 'top_logprobs' needs \"logprobs\": true")
    return {"logprobs": top or 0} if wanted else {}


def _logprobs(rest: Row) -> Row:
    count = rest.pop("logprobs", None)
    if count is not None and (type(count) is not int or count < 0):
        raise RowError("body: in a completion 'logprobs' must be a whole number")
    return {} if count is None else {"logprobs": count}


def _structured(rest: Row) -> Row:
    """The one constraint on the format of the answer."""
    found = [{word: rest.pop(key)} for key, word in _GUIDED.items() if key in rest]
    if "structured_outputs" in rest:
        found.append(rest.pop("structured_outputs"))
    if constraint := _response_format(rest.pop("response_format", None)):
        found.append(constraint)
    if len(found) > 1:
        raise RowError("body: response_format, structured_outputs and guided_* exclude each other: keep one")
    if found and not isinstance(found[0], dict):
        raise RowError("body: 'structured_outputs' must be an object")
    return {"structured_outputs": found[0]} if found else {}


def _response_format(wanted: Any) -> Row | None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"json_object": True}
    if kind == "json_schema":
        holder = wanted.get("json_schema")
        schema = holder.get("schema") if isinstance(holder, dict) else None
        if isinstance(schema, dict):
            return {"json": schema}
        raise RowError("body: 'response_format' needs its schema in json_schema.schema")
    raise RowError(f"body: 'response_format' must be text, json_object or json_schema, not {shorten(wanted)}")
