"""The options of ``sweep``: those of ``submit``, of which a list of values is swept where one value is no list.

Written out, since a type checker derives no such table from another; tests/api/test_sweep.py compares both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar

from vllm_hpc.api.options import Count, Duration, FilePath, Number, Table

Value = TypeVar("Value")


class Column(Protocol):
    """An array, or a column of a table."""

    def __len__(self) -> int:
        """How many values it has."""

    def tolist(self) -> Any:
        """Its values."""


Swept: TypeAlias = Value | Sequence[Value] | Column


class SweepOptions(TypedDict, total=False):
    """The options of ``sweep`` beside its own."""

    input: Any
    prompt: str | None
    id: str | None
    keep: str | Sequence[str] | None
    sample: bool | None
    rows_missing_from: Swept[FilePath | None]
    prompt_column: Swept[str | None]
    prompt_template: Swept[str | None]
    id_column: Swept[str | None]
    rename: Mapping[str, str] | None
    drop_last_answer: Swept[bool | None]
    order: Swept[Literal["prefix", "input"] | None]
    nodes: Swept[Count | None]
    gpus_per_node: Swept[Count | None]
    tp: Swept[Count | None]
    pp: Swept[Count | None]
    dp: Swept[Count | None]
    ep: Swept[bool | None]
    attention_dp: Swept[Count | None]
    gpu: Swept[str | None]
    scheduler: Swept[str | None]
    profile: Swept[str | None]
    partition: Swept[str | None]
    queue: Swept[str | None]
    account: Swept[str | None]
    qos: Swept[str | None]
    time: Swept[Duration | None]
    mem: Swept[str | None]
    cpus_per_rank: Swept[Count | None]
    job_dir: FilePath | None
    private: bool | None
    max_tokens: Swept[Count | None]
    temperature: Swept[Number | None]
    top_p: Swept[Number | None]
    seed: Swept[Count | None]
    seed_rows: Swept[bool | None]
    chat_template: Swept[FilePath | None]
    lora: FilePath | Sequence[FilePath] | None
    sampling: Any
    engine: Table | None
    env: Mapping[str, str | int | None] | None
    pass_env: str | Sequence[str] | None
    directive: str | Sequence[str] | None
    launcher: Swept[str | None]
    container: Swept[FilePath | None]
    array: Swept[bool | None]
    max_requeues: Swept[Count | None]
    drain_lead: Swept[Count | timedelta | None]
    rehearse: bool | Table | None
    rehearse_set: Table | None
    program: Swept[Any]
    script: Swept[FilePath | None]
    script_args: Sequence[str | int | float | PathLike[str]] | None
    requeue_script: Swept[bool | None]
    debug_ranks: Swept[bool | None]
    verify: Swept[Count | None]
    reproducible: Swept[bool | None]
    allow: str | Sequence[str] | None
    template: Swept[str | None]
    template_dir: Swept[FilePath | None]
