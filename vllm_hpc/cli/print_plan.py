"""Prints a plan for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from vllm_hpc.cli.output import print_refusals, say, stdout_console
from vllm_hpc.spec.plan import Cost, ModelFacts, Plan
from vllm_hpc.spec.words import counted

FITS = {True: "yes", False: "no", None: "not checked"}


def print_plan(plan: Plan) -> None:
    """Model, layout, memory, settings, cost and choices as a short table; then the reasons and the runners-up."""
    table = Table(show_header=False, box=None, pad_edge=False)
    if plan.model:
        table.add_row("model", Text(_model(plan.model)))
    for title, text in _layout(plan):
        table.add_row(title, text)
    table.add_row("fits", FITS[plan.fits] + _memory(plan))
    if plan.kv_tokens is not None:
        rows = f"{plan.concurrency:.0f} rows at once" if plan.fits else "less than one sequence of the requested length"
        table.add_row("KV cache", f"{plan.kv_tokens:,} tokens in each {plan.layout.unit}, {rows}")
    if plan.engine:
        table.add_row("engine", Text(", ".join(f"{key}={value}" for key, value in plan.engine.items())))
    if plan.cost:
        table.add_row("cost", Text(_cost(plan.cost)))
    for choice in plan.choices:
        told = f"{choice.title}: {choice.gain} with {choice.option}; {choice.answers} ({choice.basis})"
        table.add_row("choice", Text(told))
    for reason in plan.reasons:
        table.add_row("because", Text(reason))
    for loser in plan.runners_up:
        table.add_row("not", Text(loser))
    stdout_console().print(table)
    _print_obstacles(plan)


def _print_obstacles(plan: Plan) -> None:
    """Why the job would not run, on stderr."""
    if plan.misfit:
        word = "Error" if plan.fits is False else "Note"
        say(f"{word}: the model {plan.misfit}", err=True)
    print_refusals(plan)


def _model(facts: ModelFacts) -> str:
    size = "unknown size" if facts.parameters is None else f"{facts.parameters / 1e9:.3g} B parameters"
    quantization = f" ({facts.quantization})" if facts.quantization else ""
    kv = f"{facts.kv_bytes_per_token / 1024:.4g} KiB of KV cache per token"
    heads = f"{facts.heads} heads, {facts.kv_heads} KV heads"
    return f"{facts.architecture}: {size} in {facts.dtype}{quantization}, {facts.layers} layers, {heads}, {kv}"


def _layout(plan: Plan) -> list[tuple[str, str]]:
    layout = plan.layout
    shape = f"{layout.cut} = {counted(layout.all_ranks, 'rank')}"
    nodes, gpus = counted(layout.nodes, "node"), counted(layout.gpus_per_node, "GPU")
    hardware = f"{nodes} × {gpus}, {counted(layout.procs_per_node, 'rank')} on each"
    if layout.is_array:
        shape += f", as {counted(layout.tasks, 'task')} of {layout.world_size}"
        hardware += ", for each task"
    return [("layout", shape), ("hardware", hardware)]


def _memory(plan: Plan) -> str:
    memory = plan.memory
    if memory.per_gpu_gib is None:
        return ""
    return (
        f": weights {memory.weights_gib} GiB in total; of {memory.gpu_gib} GiB per rank, {memory.per_gpu_gib} are for "
        f"weights and reserve, {memory.kv_gib_per_gpu} for KV cache"
    )


def _cost(cost: Cost) -> str:
    tokens = f"{cost.prompt_tokens:,} prompt and up to {cost.output_tokens:,} output tokens"
    return f"{cost.gpu_hours_low:g} to {cost.gpu_hours_high:g} GPU-hours for {tokens}: {cost.basis}"
