"""Options: what ``submit``, ``plan``, ``render``, ``prepare`` and ``sweep`` take, with types and a line of help each.

A function has them as ``**options: Unpack[Options]``, which type checkers read (PEP 692), and ``@documented``
(api/signatures.py) writes them out for ``inspect``, ``help`` and IPython. What is None is not given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, SupportsFloat, SupportsIndex, TypedDict

# As a reader of a signature sees them. Numbers may also be NumPy's; what is a path may be any os.PathLike.
Count = int | SupportsIndex
Number = float | SupportsFloat
FilePath = str | os.PathLike[str]
Duration = str | int | timedelta
Table = Mapping[str, Any]


class Options(TypedDict, total=False):
    """The options of ``vllm-hpc submit``, with underscores, and those that only Python has."""

    input: Annotated[Any, "The rows: a file, several, or what holds them in memory, such as strings or a DataFrame."]
    prompt: Annotated[str | None, "The column of the prompts, or a template: 'Summarise: {{ abstract }}'."]
    id: Annotated[str | None, "The column of the rows' ids."]
    keep: Annotated[str | Sequence[str] | None, "The columns that are copied to the output. Default: all."]
    sample: Annotated[bool | None, "Run two sample prompts, for want of an input."]
    rows_missing_from: Annotated[FilePath | None, "Run the rows for which this job has no result; it is only read."]
    prompt_column: Annotated[str | None, "The same as prompt, always a column."]
    prompt_template: Annotated[str | None, "The same as prompt, always a template."]
    id_column: Annotated[str | None, "The same as id."]
    rename: Annotated[Mapping[str, str] | None, "New names for fields of the input: {'question': 'prompt'}."]
    drop_last_answer: Annotated[bool | None, "Leave the assistant's last turn out; it becomes the output's reference."]
    order: Annotated[Literal["prefix", "input"] | None, "prefix: rows that begin alike run next to each other."]
    nodes: Annotated[Count | None, "Nodes. What is left out of nodes, gpus_per_node, tp, pp and dp is computed."]
    gpus_per_node: Annotated[Count | None, "GPUs, and so ranks, per node; on the CPU, ranks."]
    tp: Annotated[Count | None, "Tensor parallel size."]
    pp: Annotated[Count | None, "Pipeline parallel size."]
    dp: Annotated[Count | None, "Replicas: independent engines that share the rows."]
    ep: Annotated[bool | None, "Experts over all GPUs of a replica, whose attention runs in data parallel."]
    attention_dp: Annotated[Count | None, "Lanes of a replica: groups of ranks with rows of their own."]
    gpu: Annotated[str | None, "The nodes' GPU, for the memory check: 'h100-80', or its memory: '80G'."]
    scheduler: Annotated[str | None, "'slurm', 'pbs', 'local', 'kubernetes', 'auto'. Default: the profile's, or auto."]
    profile: Annotated[str | None, "The profile of a site. Default: $VLLM_HPC_PROFILE."]
    partition: Annotated[str | None, "Partition (Slurm) or queue (PBS)."]
    queue: Annotated[str | None, "Another name of partition."]
    account: Annotated[str | None, "Account to charge."]
    qos: Annotated[str | None, "Quality of service."]
    time: Annotated[Duration | None, "Walltime: minutes, 'HH:MM:SS', 'D-HH:MM:SS', or a timedelta."]
    mem: Annotated[str | None, "Memory per node: '64G'; '0' is all of it."]
    cpus_per_rank: Annotated[Count | None, "Cores for each rank."]
    name: Annotated[str | None, "Name of the job and its folder. Default: MODEL-yyyymmdd-hhmmss."]
    job_dir: Annotated[FilePath | None, "Where job folders are created. Default: the profile's, or 'runs'."]
    private: Annotated[bool | None, "Let nobody else read the job's folder and files, whatever your umask."]
    max_tokens: Annotated[Count | None, "Most output tokens per row. Default: 256."]
    temperature: Annotated[Number | None, "Sampling temperature; 0 is greedy."]
    top_p: Annotated[Number | None, "Nucleus sampling."]
    seed: Annotated[Count | None, "Seed of the engines. Default: 0."]
    seed_rows: Annotated[bool | None, "Give each row a seed, from seed and its id."]
    chat_template: Annotated[FilePath | None, "A Jinja file, or its text, instead of the model's chat template."]
    lora: Annotated[FilePath | Sequence[FilePath] | None, "LoRA adapters: '[NAME=]PATH'. One is for all rows."]
    sampling: Annotated[Any, "Any SamplingParams argument of vLLM: {'top_k': 20}, or a SamplingParams."]
    engine: Annotated[Table | None, "Any engine argument of vLLM: {'max_num_seqs': 64}."]
    env: Annotated[Mapping[str, str | int | None] | None, "Environment variables for the job: {'NCCL_DEBUG': 'INFO'}."]
    pass_env: Annotated[str | Sequence[str] | None, "Variables that the job has as you have them; no value is written."]
    directive: Annotated[str | Sequence[str] | None, "Extra options, as after #SBATCH or #PBS."]
    launcher: Annotated[str | None, "How ranks start: 'torchrun', 'srun', 'pbsdsh', 'native', or another."]
    container: Annotated[FilePath | None, "Run the ranks in this image; '' is none."]
    array: Annotated[bool | None, "A job array: dp tasks of nodes each."]
    max_requeues: Annotated[Count | None, "Attempts after the first, at the walltime's end or a rank's. Default: 10."]
    drain_lead: Annotated[Count | timedelta | None, "Seconds before the walltime's end at which to drain."]
    rehearse: Annotated[bool | Table | None, "Run with a built-in engine, not vLLM's; a table is rehearse_set, too."]
    rehearse_set: Annotated[Table | None, "Settings of the rehearsal: {'load_s': 1, 'tokens_per_s': 500}."]
    program: Annotated[Any, "Your own code on every rank: a class, function, object, or 'MODULE:NAME', 'FILE.py:NAME'."]
    script: Annotated[FilePath | None, "Run a Python script on every rank, as torchrun would, instead of rows."]
    script_args: Annotated[Sequence[str | int | float | os.PathLike[str]] | None, "The script's arguments."]
    requeue_script: Annotated[bool | None, "Run the script, or a program with run, again: it must allow that."]
    debug_ranks: Annotated[bool | None, "Begin each line of a rank's log with [rank r/w host]."]
    verify: Annotated[Count | None, "Compare a digest of all tokens over a replica's ranks each so many steps."]
    reproducible: Annotated[bool | None, "The same tokens for any max_num_seqs and tp, at half the speed or less."]
    allow: Annotated[str | Sequence[str] | None, "Take these of what tune found: 'quantization', 'kv_cache_dtype' ..."]
    template: Annotated[str | None, "A template instead of the scheduler's own."]
    template_dir: Annotated[FilePath | None, "A folder searched for templates before the packaged ones."]
