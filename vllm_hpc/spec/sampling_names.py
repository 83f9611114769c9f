"""Names that people know from servers and other engines, and that vLLM's SamplingParams does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# How the prompt is cut. vLLM takes these beside the sampling parameters, and so do rows.
CUTS = ("truncate_prompt_tokens", "truncation_side")
# Names in a row's sampling that vLLM's SamplingParams does not have, and that are translated.
TRANSLATED = ("response_format", "max_completion_tokens", "top_logprobs", *CUTS)
_NOT_IN_BATCH = "leave it out: a batch has no stream"
_BEAM = "leave it out: vLLM's engine has no beam search"
_OF_ROW = "write it beside 'sampling', as a field of the row"
_ADVICE = {
    "guided_json": "use structured_outputs={\"json\": {...}}",
    "guided_regex": "use structured_outputs={\"regex\": \"...\"}",
    "guided_choice": "use structured_outputs={\"choice\": [\"yes\", \"no\"]}",
    "guided_grammar": "use structured_outputs={\"grammar\": \"...\"}",
    "guided_json_object": "use structured_outputs={\"json_object\": true}",
    "guided_decoding": "use structured_outputs, such as {\"choice\": [\"yes\", \"no\"]}",
    "guided_decoding_backend": "use --engine structured_outputs_config={\"backend\":\"guidance\"}",
    "guided_whitespace_pattern": "use structured_outputs={\"json\": {...}, \"whitespace_pattern\": \"...\"}",
    "structural_tag": "use structured_outputs={\"structural_tag\": \"...\"}",
    "json_schema": "use structured_outputs={\"json\": {...}}",
    "stream": _NOT_IN_BATCH,
    "stream_options": _NOT_IN_BATCH,
    "best_of": "use n, the number of outputs",
    "num_return_sequences": "use n",
    "use_beam_search": _BEAM,
    "beam_width": _BEAM,
    "num_beams": _BEAM,
    "length_penalty": _BEAM,
    "early_stopping": _BEAM,
    "max_new_tokens": "use max_tokens",
    "max_output_tokens": "use max_tokens",
    "max_tokens_to_sample": "use max_tokens",
    "max_length": "use max_tokens, which counts the answer alone",
    "min_new_tokens": "use min_tokens",
    "do_sample": "use temperature, which is 0 for no sampling",
    "stop_sequences": "use stop",
    "stop_strings": "use stop",
    "eos_token_id": "use stop_token_ids, a list",
    "random_seed": "use seed",
    "echo": "leave it out; prompt_logprobs gives the logprobs of the prompt",
    "extra_body": "write its fields into 'sampling'",
    "model": "leave it out: a job has one model; an adapter is the row's field 'lora'",
    "suffix": "leave it out, and write it into the prompt as the model expects it",
    "reasoning_effort": "use the row's chat_template_kwargs={\"reasoning_effort\": \"low\"}",
    "enable_thinking": "use the row's chat_template_kwargs={\"enable_thinking\": false}",
    "logits_processors": "use --engine logits_processors=[...], for all rows",
    "return_tokens_as_token_ids": "leave it out: logprobs have the token ids",
    "priority": "leave it out: rows run in the order of --order",
    **dict.fromkeys(
        ("messages", "prompt", "tools", "tool_choice", "parallel_tool_calls", "chat_template", "chat_template_kwargs"),
        _OF_ROW,
    ),
    **dict.fromkeys(("user", "metadata", "store", "request_id"), "leave it out, or write it beside 'sampling'"),
}  # fmt: skip


# The names that a row's sampling may have: those of SamplingParams in the versions of vLLM that are supported, OpenAI's
# that are translated, and an embedding's.
KNOWN = frozenset({
    "n", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logprobs", "prompt_logprobs", "seed", "stop", "stop_token_ids", "ignore_eos", "bad_words",
    "logit_bias", "allowed_token_ids", "detokenize", "stream_interval", "extra_args", "thinking_token_budget",
    "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "flat_logprobs",
    "watermarking", "skip_reading_prefix_cache", "logprob_token_ids", "trace_decode_token_ids", "prompt_logprob_start",
    "prompt_logprob_token_ids", "routed_experts_prompt_start", "output_text_buffer_length", "repetition_detection",
    "structured_outputs", "response_format", "max_completion_tokens", "top_logprobs", "truncate_prompt_tokens",
    "truncation_side", "dimensions", "use_activation",
})  # fmt: skip


def misspelt(sampling: Mapping[str, Any]) -> list[str]:
    """What to say of the names that are nobody's: each with the one that is meant, if any is near.

    Without vLLM here, a name that is like none may be a newer vLLM's, and is not said.
    """
    if KNOWN.issuperset(sampling):
        return []
    from vllm_hpc.spec.vllm_arguments import sampling_names

    installed = sampling_names()
    unknown = [name for name in sampling if name not in KNOWN and name not in installed]
    import difflib

    near = {name: difflib.get_close_matches(name, [*KNOWN, *installed], n=1) for name in unknown}
    return [
        f"vLLM has no {name!r}{f' (did you mean {near[name][0]!r}?)' if near[name] else ''}"
        for name in unknown
        if near[name] or installed
    ]


def advice_on(name: str) -> str | None:
    """What to use instead of a name that is no parameter of vLLM's; None for one that is not known here."""
    return _ADVICE.get(name)


def first_of_others(sampling: Mapping[str, object]) -> str | None:
    """The first name of servers and other engines, with what to use instead; None if none is given."""
    if _ADVICE.keys().isdisjoint(sampling):
        return None
    name = min((name for name in _ADVICE.keys() & sampling.keys() if sampling[name] is not None), default=None)
    return None if name is None else f"vLLM's SamplingParams has no {name!r}: {_ADVICE[name]}"
