"""Names that people know from servers and other engines, and that vLLM's SamplingParams does not have."""

from __future__ import annotations

from collections.abc import Mapping

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


def advice_on(name: str) -> str | None:
    """What to use instead of a name that is no parameter of vLLM's; None for one that is not known here."""
    return _ADVICE.get(name)


def first_of_others(sampling: Mapping[str, object]) -> str | None:
    """The first name of servers and other engines, with what to use instead; None if none is given."""
    if _ADVICE.keys().isdisjoint(sampling):
        return None
    name = min((name for name in _ADVICE.keys() & sampling.keys() if sampling[name] is not None), default=None)
    return None if name is None else f"vLLM's SamplingParams has no {name!r}: {_ADVICE[name]}"
