"""Names and values that people know from vLLM, Slurm and notebooks, and what an option is called or takes instead."""

from __future__ import annotations

from typing import Any

from vllm_hpc.spec.vllm_arguments import sampling_names

_NAMES = {
    "prompts": "'prompt' for the column or the template, or 'input' for the file",
    "tensor_parallel_size": "'tp'", "tensor_parallel": "'tp'", "pipeline_parallel_size": "'pp'",
    "pipeline_parallel": "'pp'", "data_parallel_size": "'dp'", "data_parallel": "'dp'", "replicas": "'dp'",
    "num_nodes": "'nodes'", "n_nodes": "'nodes'", "nnodes": "'nodes'", "node_count": "'nodes'",
    "gpus": "'gpus_per_node', with 'nodes'", "num_gpus": "'gpus_per_node', with 'nodes'",
    "n_gpus": "'gpus_per_node', with 'nodes'", "ngpus": "'gpus_per_node', with 'nodes'",
    "num_gpus_per_node": "'gpus_per_node'", "ntasks_per_node": "'gpus_per_node'", "gres": "'gpus_per_node'",
    "nproc_per_node": "'gpus_per_node'", "cpus_per_task": "'cpus_per_rank'", "memory": "'mem'",
    "walltime": "'time'", "time_limit": "'time'", "timeout": "'time'", "project": "'account'",
    "job_name": "'name'", "output_dir": "'job_dir'", "max_new_tokens": "'max_tokens'",
    "max_output_tokens": "'max_tokens'", "adapter": "'lora'", "adapters": "'lora'", "lora_modules": "'lora'",
    **dict.fromkeys(
        ("messages", "chats", "conversations", "requests", "rows", "data", "dataset", "inputs", "input_file", "file",
         "files"),
        "'input', the name of a file",
    ),
}  # fmt: skip
_ENGINE = frozenset({
    "max_model_len", "gpu_memory_utilization", "dtype", "quantization", "trust_remote_code", "tokenizer",
    "tokenizer_mode", "max_num_seqs", "max_num_batched_tokens", "enforce_eager", "kv_cache_dtype", "load_format",
    "hf_overrides", "enable_prefix_caching", "revision", "speculative_config", "config_format",
})  # fmt: skip
_SAMPLING = frozenset({
    "n", "top_k", "min_p", "stop", "stop_token_ids", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "logprobs", "prompt_logprobs", "ignore_eos", "min_tokens", "structured_outputs", "bad_words", "logit_bias",
})  # fmt: skip
_ROWS = (
    "must be a file or a list of files, not rows: write them as JSONL, a row on each line, for example with "
    "df.to_json('rows.jsonl', orient='records', lines=True), and use 'rows.jsonl'"
)


def instead_of(name: str) -> str | None:
    """What to use instead of an option that does not exist; None for a name that is not known here."""
    if name in _NAMES:
        return f"use {_NAMES[name]}"
    if name in _ENGINE:
        return f"it is an argument of vLLM's engine: write it into 'engine', as {name}=..."
    if name in _SAMPLING or name in sampling_names():
        return f"it is a parameter of sampling: write it into 'sampling', as {name}=..."
    return None


def refuse_rows(given: Any) -> str | None:
    """What to do about an ``input`` of rows (a list of objects, a DataFrame, a Dataset); None for any other value."""
    is_table = hasattr(given, "to_json") or hasattr(given, "write_ndjson")  # of pandas and datasets; of polars
    has_rows = isinstance(given, list | tuple) and any(isinstance(one, dict) for one in given)
    return _ROWS if is_table or has_rows else None
