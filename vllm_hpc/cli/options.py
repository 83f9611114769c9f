"""The options shared by submit, plan, render and tune, and how their values are parsed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vllm_hpc.cli import complete
from vllm_hpc.cli.job_options import job_argument as job_argument
from vllm_hpc.cli.job_options import job_dir_option as job_dir_option
from vllm_hpc.cli.job_options import json_option as json_option
from vllm_hpc.spec.bounds import LEAST_LEAD_S
from vllm_hpc.spec.drain import DEFAULT_LEAD_S, DEFAULT_MAX_REQUEUES
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.prompt_options import Files
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS, Registry
from vllm_hpc.spec.repeats import first_repeated
from vllm_hpc.spec.sampling import DEFAULT_MAX_TOKENS

F = TypeVar("F", bound=Callable[..., Any])


if TYPE_CHECKING:
    PairType = click.ParamType[tuple[str, Any]]
    ChoiceType = click.Choice[str]
else:  # not subscriptable at runtime before click 8.3
    PairType, ChoiceType = click.ParamType, click.Choice


def _is_none_of_it(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
    """Whether an empty value says that nothing of the job that --rows-missing-from names is taken."""
    from vllm_hpc.spec.foreign_options import ACTS_AS_YOU

    if value != "" or param is None or param.name not in ACTS_AS_YOU or ctx is None:
        return False
    return isinstance(ctx.params.get("rows_missing_from"), str)  # without it, click 8.3 has a mark of its own there


# What KeyValue makes of such a value.
_NONE_OF_IT = ("", None)


class KeyValue(PairType):
    """K=V; if ``typed``, V is parsed as JSON if it is valid (8, 0.5, true, null, [..], {..}), else it is a string.

    With ``may_be_name`` also K alone, of which the value is None.
    """

    name = "K=V"

    def __init__(self, typed: bool, may_be_name: bool = False) -> None:
        self.typed, self.may_be_name = typed, may_be_name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split at the first '='."""
        if _is_none_of_it(value, param, ctx):
            return _NONE_OF_IT
        key, sign, text = str(value).partition("=")
        if key and not sign and self.may_be_name:
            return key, None
        if not sign or not key:
            self.fail(f"must be K=V, not {value!r}", param, ctx)
        try:
            return key, _parse(text) if self.typed else text
        except RecursionError:
            self.fail(f"{key} is nested too deeply", param, ctx)


class Registered(ChoiceType):
    """The name of a scheduler or a launcher: a built-in one, which --help lists, or one from another package."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(list(registry.built_in))
        self._registry = registry

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name; refuse an unknown one."""
        if not _is_none_of_it(value, param, ctx) and not self._registry.has(value):
            names = ", ".join(repr(name) for name in self._registry.names())
            self.fail(f"{value!r} is not one of {names}.", param, ctx)
        return value


# For users who write values as in Python.
_PYTHON = {"True": True, "False": False, "None": None}


def _parse(text: str) -> Any:
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _as_dict(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, Any], ...]) -> dict[str, Any] | None:
    if twice := first_repeated(key for key, _ in value):
        raise RequestError(f"{param.opts[0]} {twice} was given twice: give it once")
    if _NONE_OF_IT in value:
        if len(value) > 1:
            raise RequestError(f"{param.opts[0]} '' means none of that job's: leave it out, or the others")
        return {}
    return dict(value) or None


def _as_words(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """The words of a shell's line. Raises RequestError for a quote that is not closed."""
    try:
        return None if value is None else shlex.split(value)
    except ValueError as error:
        raise RequestError(f"{param.opts[0]} {value!r}: {error}: close the quote") from None


def _as_list(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    return list(value) or None


def _as_files(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Files | None:
    return Files(value) or None


count = click.IntRange(min=1)
many: dict[str, Any] = {"multiple": True, "callback": _as_dict}
lines: dict[str, Any] = {"multiple": True, "callback": _as_list}
INPUT_HELP = (
    "Prompts: .jsonl or .json (rows with prompt or messages, or an OpenAI batch), .txt (one per line), .csv, .tsv or "
    ".parquet; compressed or not; also a folder, a quoted pattern ('shards/*.jsonl'), or - for standard input. May be "
    "repeated. Without it, two sample prompts (plan: none; tune: --rows)."
)
ROWS_MISSING_HELP = (
    "Run the rows that a job has no result for, in a new one with its model and options, where these are not given. "
    "JOB, which may be another user's, is only read."
)
COLUMN_HELP = "The field with the prompt, if it is not called prompt."
TEMPLATE_HELP = "Make each prompt from the row's fields, with a Jinja text: 'Summarise: {{ abstract }}'."
ID_HELP = "The field with the id, if it is not called id."
KEEP_HELP = "Copy only this of the input's other fields to the output. May be repeated.  [default: all]"
RENAME_HELP = "Give a field of the input another name, before anything else: question=prompt."
ORDER_HELP = (
    "prefix: run rows that begin alike next to each other, which is the default where no answer depends on the order; "
    "input: run them as they are. Results come in the input's order."
)
EP_HELP = "Experts over all GPUs of a replica, whose attention runs in data parallel (docs/experts.md)."
ATTENTION_DP_HELP = "Lanes of a replica: groups of --tp x --pp ranks with rows of their own, which share the experts."
DROP_HELP = "Leave the assistant's last turn out of the prompt; it is copied to the output as reference."
ENV_HELP = (
    "An environment variable for the job; K alone has the value of this shell, which is not written: this is how to "
    "pass a secret."
)
GPU_HELP = "The nodes' GPU, for the memory check: h100-80, a100-40, mi250x ..., or its memory: 80G."
SCHEDULER_HELP = (
    "Scheduler (one of these, or of an installed package). auto: the profile's; else Slurm if sbatch works, PBS "
    "if qsub does, else local."
)
SEED_ROWS_HELP = "Give each row a seed, from --seed and its id: sampled text then does not depend on layout or order."
LORA_HELP = "A LoRA adapter (its folder), for all rows; with several, each row names one in its field lora."
CHAT_TEMPLATE_HELP = "A Jinja file, instead of the model's chat template; a row's chat_template wins."
LAUNCHER_HELP = (
    "How ranks start (one of these, or of an installed package). Slurm: torchrun, one per node, or srun, one task per "
    "rank. PBS: pbsdsh or another. native, on all: vLLM starts its own workers, and overlaps the stages of --pp; "
    "on GPUs the default with --pp."
)
CONTAINER_HELP = (
    "Run the ranks in an image: a .sif, a .sqsh, a folder, or a name in a registry; '' is none. What runs it is in the "
    "profile's container, else its form says it."
)
REQUEUES_HELP = f"Attempts after the first, when the walltime ends or a rank dies.  [default: {DEFAULT_MAX_REQUEUES}]"
LEAD_HELP = (
    f"Begin to drain this long before the walltime ends, at least {LEAST_LEAD_S}.  "
    f"[default: {DEFAULT_LEAD_S}, or a fifth of --time]"
)
REHEARSE_HELP = "Run the whole chain with a built-in engine instead of vLLM's; MODEL is optional. Needs torch."
REHEARSE_SET_HELP = (
    "A setting of the rehearsal: tokens_per_s, load_s, fault=die|hang|diverge|oom with fault_row or fault_s, "
    "fault=step, fault_rank."
)
PROGRAM_HELP = (
    "Your own code on every rank: a class or function, as package.module:NAME or FILE.py:NAME. setup, on_output and "
    "teardown go with the rows; run drives the engine itself."
)
SCRIPT_HELP = (
    "Run a Python script as it is on every rank, as torchrun would, instead of rows: no MODEL, no --input. The layout "
    "is from --nodes, --gpus-per-node, or --tp and --pp."
)
SCRIPT_ARGS_HELP = "The script's arguments, as one text in quotes: '--steps 3 --name \"a b\"'."
REQUEUE_SCRIPT_HELP = "Run the script, or a program with run, again where a job of rows would be: it must allow that."
DEBUG_RANKS_HELP = "Begin each line of a rank's log with [rank r/w host]."
VERIFY_HELP = "Compare a digest of every token over the ranks of a replica each STEPS steps, and say where they differ."
REPRODUCIBLE_HELP = "The same tokens for any max_num_seqs and --tp, at half the speed or less (docs/determinism.md)."
ALLOW_HELP = (
    "What of tune's findings may be taken although it changes the answers: quantization, kv_cache_dtype, speculation, "
    "separated by commas.  [default: nothing]"
)
PRIVATE_HELP = "Let nobody else read the job: its folder gets mode 0700, its files 0600, whatever your umask."
PROFILE_HELP = (
    "A table [profiles.NAME] in ./vllm-hpc.toml, ~/.config/vllm-hpc/config.toml or the site's "
    "/etc/xdg/vllm-hpc/config.toml.  [env: VLLM_HPC_PROFILE]"
)

REQUEST_OPTIONS = [
    click.argument("model", required=False, shell_complete=complete.complete_model),
    click.option(
        "--input", metavar="FILE", multiple=True, callback=_as_files, shell_complete=complete.complete_file,
        help=INPUT_HELP,
    ),
    # Eager: it is known when the others are read, of which some may then be empty.
    click.option(
        "--rows-missing-from", metavar="JOB", is_eager=True, shell_complete=complete.complete_job,
        help=ROWS_MISSING_HELP,
    ),
    click.option("--prompt-column", metavar="NAME", help=COLUMN_HELP),
    click.option("--prompt-template", metavar="TEXT", help=TEMPLATE_HELP),
    click.option("--id-column", metavar="NAME", help=ID_HELP),
    click.option("--keep", metavar="NAME", help=KEEP_HELP, **lines),
    click.option("--rename", type=KeyValue(typed=False), metavar="OLD=NEW", help=RENAME_HELP, **many),
    click.option("--drop-last-answer", is_flag=True, default=None, help=DROP_HELP),
    click.option("--order", type=click.Choice(["prefix", "input"]), help=ORDER_HELP),
    click.option("--nodes", type=count, help="Nodes."),
    click.option("--gpus-per-node", type=count, help="GPUs, and so ranks, per node; on the CPU, ranks."),
    click.option("--tp", type=count, help="Tensor parallel size."),
    click.option("--pp", type=count, help="Pipeline parallel size."),
    click.option("--dp", type=count, help="Replicas: independent engines that share the rows."),
    click.option("--ep", is_flag=True, default=None, help=EP_HELP),
    click.option("--attention-dp", type=count, help=ATTENTION_DP_HELP),
    click.option("--gpu", metavar="NAME", shell_complete=complete.complete_gpu, help=GPU_HELP),
    click.option("--scheduler", type=Registered(SCHEDULERS), help=SCHEDULER_HELP),
    click.option("--profile", metavar="NAME", shell_complete=complete.complete_profile, help=PROFILE_HELP),
    click.option(
        "--partition", "--queue", "partition", shell_complete=complete.complete_partition,
        help="Partition (Slurm) or queue (PBS).",
    ),
    click.option("--account", help="Account to charge."),
    click.option("--qos", help="Quality of service."),
    click.option("--time", metavar="LIMIT", help="Walltime: minutes, HH:MM:SS or D-HH:MM:SS."),
    click.option("--mem", metavar="SIZE", help="Memory per node: 64G; 0 is all of it."),
    click.option("--cpus-per-rank", type=count, help="Cores for each rank."),
    click.option("--name", help="Name of the job and its folder. Without it, MODEL-yyyymmdd-hhmmss."),
    click.option(
        "--job-dir", metavar="DIR", shell_complete=complete.complete_folder,
        help="Where job folders are created.  [default: runs]",
    ),
    click.option("--private", is_flag=True, default=None, help=PRIVATE_HELP),
    click.option("--max-tokens", type=count, help=f"Most output tokens per row.  [default: {DEFAULT_MAX_TOKENS}]"),
    click.option("--temperature", type=float, help="Sampling temperature; 0 is greedy."),
    click.option("--top-p", type=float, help="Nucleus sampling."),
    click.option("--seed", type=int, help="Seed of the engines.  [default: 0]"),
    click.option("--seed-rows", is_flag=True, default=None, help=SEED_ROWS_HELP),
    click.option("--chat-template", metavar="FILE", shell_complete=complete.complete_file, help=CHAT_TEMPLATE_HELP),
    click.option("--lora", metavar="[NAME=]PATH", shell_complete=complete.complete_folder, help=LORA_HELP, **lines),
    click.option("--sampling", type=KeyValue(typed=True), help="Any SamplingParams argument of vLLM.", **many),
    click.option("--engine", type=KeyValue(typed=True), help="Any engine argument of vLLM.", **many),
    click.option("--env", type=KeyValue(typed=False, may_be_name=True), metavar="K=V|K", help=ENV_HELP, **many),
    click.option("--directive", metavar="TEXT", help="An extra option, as after #SBATCH or #PBS.", **lines),
    click.option("--launcher", type=Registered(LAUNCHERS), help=LAUNCHER_HELP),
    click.option("--container", metavar="IMAGE", help=CONTAINER_HELP),
    click.option("--array", is_flag=True, default=None, help="A job array: --dp tasks of --nodes each."),
    click.option("--max-requeues", type=click.IntRange(min=0), metavar="N", help=REQUEUES_HELP),
    click.option("--drain-lead", type=int, metavar="SECONDS", help=LEAD_HELP),
    click.option("--rehearse", is_flag=True, default=None, help=REHEARSE_HELP),
    click.option("--rehearse-set", type=KeyValue(typed=True), help=REHEARSE_SET_HELP, **many),
    click.option("--program", metavar="MOD:CLASS", help=PROGRAM_HELP),
    click.option("--script", metavar="FILE", shell_complete=complete.complete_file, help=SCRIPT_HELP),
    click.option("--script-args", metavar="TEXT", callback=_as_words, help=SCRIPT_ARGS_HELP),
    click.option("--requeue-script", is_flag=True, default=None, help=REQUEUE_SCRIPT_HELP),
    click.option("--debug-ranks", is_flag=True, default=None, help=DEBUG_RANKS_HELP),
    click.option("--verify", type=count, metavar="STEPS", help=VERIFY_HELP),
    click.option("--reproducible", is_flag=True, default=None, help=REPRODUCIBLE_HELP),
    click.option("--allow", metavar="NAMES", help=ALLOW_HELP, **lines),
    click.option(
        "--template", metavar="NAME", shell_complete=complete.complete_template,
        help="A template instead of the scheduler's own.",
    ),
    click.option(
        "--template-dir", metavar="DIR", shell_complete=complete.complete_folder,
        help="A folder searched for templates before the packaged ones.",
    ),
]  # fmt: skip


def request_options(function: F) -> F:
    """Add MODEL and all options of a Request to a command; each is passed under the name of its field."""
    for option in reversed(REQUEST_OPTIONS):
        function = option(function)
    return function
