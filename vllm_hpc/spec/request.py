"""Request: what the user asked for, frozen and validated once, at the edge.

It is built from options and job.toml (``spec/job_definition.py``); the profile (``spec/resolved_job.py``) and the
planner fill in the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.allowed import check_allowed, split_allowed
from vllm_hpc.spec.bounds import Cores, Gpus, LeadSeconds, Nodes, Parts, Requeues, Steps, Tokens
from vllm_hpc.spec.directives import check_owned
from vllm_hpc.spec.drain import DEFAULT_MAX_REQUEUES, check_lead, lead_s
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.messages import explain_mismatch
from vllm_hpc.spec.no_secrets import check_no_secret, check_option
from vllm_hpc.spec.other_names import instead_of, refuse_rows
from vllm_hpc.spec.program_options import check_program_options
from vllm_hpc.spec.prompt_options import check_columns, check_prompt_options
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS
from vllm_hpc.spec.rehearsal import Rehearsal, read_rehearsal
from vllm_hpc.spec.row_order import Order
from vllm_hpc.spec.sampling import check_sampling
from vllm_hpc.spec.values import CHECKS

# Options whose values have an order, which a Python set does not keep.
_ORDERED = ("input", "lora", "directive", "script_args")
# Texts of rows, in which the name of a secret says nothing ("What is token=x?").
_PROSE = ("prompt_template", "chat_template")
# Tables as a caller from Python writes them; messages show them as in job.toml.
_IN_PYTHON = {
    "rename": '{"question": "prompt"}', "env": '{"NCCL_DEBUG": "INFO"}', "sampling": '{"top_k": 20}',
    "engine": '{"max_num_seqs": 64}',
}  # fmt: skip
NOT_REHEARSED = "--rehearse-set is for rehearsals only: add --rehearse, or leave it out"
# vLLM's arguments that the layout or MODEL already decides: setting one with --engine is a contradiction.
PLANNED_ENGINE_ARGUMENTS = {
    "model": "MODEL",
    "tensor_parallel_size": "--tp",
    "pipeline_parallel_size": "--pp",
    "data_parallel_size": "--attention-dp for lanes that share experts, --dp for replicas",
    "distributed_executor_backend": "--launcher native for mp; otherwise it is external_launcher",
    "seed": "--seed",
    # Of vLLM's server; tool_call_parser and tool_parser_plugin are taken (spec/server_arguments.py).
    "chat_template": "--chat-template",
    "trust_request_chat_template": "the field chat_template of a row, which is always trusted",
    "enable_auto_tool_choice": "--engine tool_call_parser=NAME, which is enough",
}


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked: the options of ``vllm-hpc submit``, with None for those not given.

    ``pass_env`` names variables that the job inherits from the shell that submits it, and of which no value is written.
    Paths are kept as given, relative to the working directory; ``chat_template`` is a path, or the template itself.
    Raises RequestError for a value that is invalid by itself; the planner checks whether the numbers match.
    """

    model: str
    input: str | tuple[str, ...] | None = None
    rows_missing_from: str | None = None
    nodes: Nodes | None = None
    gpus_per_node: Gpus | None = None
    tp: Parts | None = None
    pp: Parts | None = None
    dp: Parts | None = None
    ep: bool = False
    attention_dp: Parts | None = None
    scheduler: str = "auto"
    profile: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    mem: str | None = None
    cpus_per_rank: Cores | None = None
    name: str | None = None
    job_dir: str = "runs"
    private: bool = False
    max_tokens: Tokens | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    seed_rows: bool = False
    chat_template: str | None = None
    lora: list[str] = []
    prompt_column: str | None = None
    prompt_template: str | None = None
    id_column: str | None = None
    keep: list[str] | None = None
    rename: dict[str, str] = {}
    drop_last_answer: bool = False
    order: Order | None = None
    sampling: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    env: dict[str, str] = {}
    pass_env: list[str] = []
    directive: list[str] = []
    gpu: str | None = None
    launcher: str | None = None
    container: str | None = None
    array: bool = False
    template: str | None = None
    template_dir: str | None = None
    max_requeues: Requeues = DEFAULT_MAX_REQUEUES
    drain_lead: LeadSeconds | None = None
    rehearse: bool = False
    rehearse_set: Rehearsal = Rehearsal()
    program: str | None = None
    script: str | None = None
    script_args: list[str] = []
    requeue_script: bool = False
    debug_ranks: bool = False
    verify: Steps | None = None
    reproducible: bool = False
    allow: list[str] = []

    @property
    def lead_s(self) -> int:
        """Seconds before the walltime's end at which a drain begins."""
        return lead_s(self.drain_lead, self.time)

    def __post_init__(self) -> None:
        for key in self.__struct_fields__:
            check = check_no_secret if key in _PROSE else check_option
            check(getattr(self, key), _option(key))
        for key, check_value in CHECKS.items():
            value = getattr(self, key, None)
            if value is not None:
                check_value(value, _option(key))
        if self.scheduler != "auto":  # otherwise checked once the scheduler is known
            check_owned(self.directive, self.scheduler)
        if self.input == ():
            raise RequestError("--input must be a file or a list of files, not an empty list: leave it out")
        given = {key: getattr(self, key) for key in ("max_tokens", "temperature", "top_p", "seed")}
        check_sampling(given, self.sampling, self.seed_rows)
        check_prompt_options(self.prompt_column, self.prompt_template, self.rename)
        check_columns(self.id_column, self.prompt_column, self.keep)
        check_lead(self.drain_lead, self.time)
        check_allowed(self.allow)
        if self.rehearse_set != Rehearsal() and not self.rehearse:
            raise RequestError(NOT_REHEARSED)
        for key in self.engine:
            if key in PLANNED_ENGINE_ARGUMENTS:
                raise RequestError(f"--engine {key} cannot be set here: use {PLANNED_ENGINE_ARGUMENTS[key]}")
        _check_utf8(self)


def _option(key: str) -> str:
    """The option of a field, for messages. pass_env is --env NAME there, and a key in job.toml and in Python."""
    return {"model": "MODEL", "pass_env": "pass_env"}.get(key) or f"--{key.replace('_', '-')}"


def _check_utf8(request: Request) -> None:
    """Refuse bytes that are not UTF-8, which Python reads from a command line as half characters: job.json is UTF-8."""
    for key in request.__struct_fields__:
        value = getattr(request, key)
        try:
            msgspec.json.encode(value)
        except UnicodeEncodeError:
            raise RequestError(
                f"{_option(key)} {value!r} is not valid UTF-8: write it in UTF-8, or rename the file"
            ) from None


def check_template(template: str, folders: Sequence[str], scheduler: str) -> None:
    """Refuse a template for another scheduler, and the files of shared macros. Raises RequestError.

    Packaged templates begin with their scheduler's name. A site's own may have any other name; one with the name of a
    packaged template takes its place, for the same scheduler.
    """
    name = template.removeprefix("packaged/")
    is_own = template == name and any((Path(folder) / template).is_file() for folder in folders)
    if is_own and not (files("vllm_hpc") / "templates" / name).is_file():
        return
    if name.startswith("_"):
        raise RequestError(f"--template {template!r} has shared macros, not a script: leave it out")
    other = name.split(".")[0]
    if other != scheduler and other in SCHEDULERS.built_in:
        raise RequestError(
            f"--template {template!r} is for --scheduler {other}, but this job is for {scheduler}: "
            f"leave it out, {'rename the file, ' if is_own else ''}or use --scheduler {other}"
        )


def convert_options(options: dict[str, Any]) -> Request:
    """A Request from plain options with underscores. Raises RequestError, which names the option."""
    for key in _ORDERED:
        if isinstance(options.get(key), set | frozenset):
            raise RequestError(f"--{key} must be a list, not a set, which has no order")
    given = options.get("input")
    if said := refuse_rows(given):
        raise RequestError(f"--input {said}")
    if isinstance(given, list | tuple) and len(given) == 1 and isinstance(given[0], str):
        options = {**options, "input": given[0]}
    options = split_allowed(options)
    if "rehearse_set" in options:
        options = {**options, "rehearse_set": read_rehearsal(options["rehearse_set"])}
    for key, registry in (("scheduler", SCHEDULERS), ("launcher", LAUNCHERS)):
        if isinstance(name := options.get(key), str) and not registry.has(name):
            raise RequestError(f"--{key} {registry.must_be(name)}")
    try:
        request = msgspec.convert(options, Request)
    except msgspec.ValidationError as error:
        raise RequestError(_option_message(error)) from None
    _check_variables(request)
    check_program_options(request)
    return request


def _check_variables(request: Request) -> None:
    """Refuse a variable with a value that is to be inherited, too. Not in a job.json, which is read as it is."""
    if twice := next((name for name in request.pass_env if name in request.env), None):
        raise RequestError(f"pass_env has {twice}, which has a value in env: leave out one")


def _option_message(error: msgspec.ValidationError) -> str:
    """msgspec's error in words about the option."""
    mismatch = explain_mismatch(error, Request)
    if mismatch:
        key, words = mismatch
        in_python = f", or in Python {_IN_PYTHON[key]}" if key in _IN_PYTHON else ""
        return f"{'--model' if key == 'model' else _option(key)} {words}{in_python}"
    field = re.search(r"unknown field `(\w+)`", str(error))
    if field:
        return f"no such option: {field[1]!r}" + _near(field[1])
    return str(error).replace("`", "")


def _near(name: str) -> str:
    """What to use instead of an option that does not exist, as the end of a sentence; empty if nothing is near."""
    if known := instead_of(name):
        return f": {known}"
    import difflib

    near = difflib.get_close_matches(name, Request.__struct_fields__, n=1)
    return f": did you mean {near[0]!r}?" if near else ""
