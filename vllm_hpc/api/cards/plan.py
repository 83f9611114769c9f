"""The card of a plan: nodes and GPUs as a picture, memory as a bar, and the reasons."""

from __future__ import annotations

from markupsafe import Markup

from vllm_hpc.api.cards.elements import (
    bar,
    folded,
    frame,
    head,
    items,
    legend,
    lines_of,
    note,
    number,
    pill,
    row,
    said,
    section,
    table,
    tag,
)  # fmt: skip
from vllm_hpc.api.cards.nodes import picture
from vllm_hpc.spec.plan import Cost, EngineChoice, Memory, ModelFacts, Plan
from vllm_hpc.spec.words import counted

_FITS = {True: ("FITS", "ok"), False: ("DOES NOT FIT", "bad"), None: ("FIT UNKNOWN", "wait")}
_OPEN = 6  # so many reasons are shown without a click


def card(plan: Plan) -> str:
    """A plan with all that it says."""
    name = f"{_hardware(plan)}, {_shape(plan)}"
    refused = [note(f"submit refuses this: {one}", "bad") for one in obstacles(plan)]
    return frame(head("Plan", name, pill(*_FITS[plan.fits])), *refused, *parts_of(plan, with_title=False))


def obstacles(plan: Plan) -> list[str]:
    """Why a submission would be refused."""
    return [one for one in (plan.missing, plan.unready) if one]


def parts_of(plan: Plan, with_title: bool = True) -> list[Markup]:
    """The parts of the card after its first line."""
    parts = [row(_hardware(plan), _shape(plan), pill(*_FITS[plan.fits]))] if with_title else []
    if plan.misfit:
        parts.append(note(f"The model {plan.misfit}", "bad" if plan.fits is False else "wait"))
    parts.append(picture(plan.layout))
    if plan.model:
        parts.append(_model(plan.model))
    parts.append(section("Memory of the fullest rank", *_memory(plan.memory, plan)))
    if plan.cost:
        parts.append(_cost(plan.cost))
    if plan.choices:
        lines = lines_of(list(plan.choices), _choice)
        titles = ["choice", "tokens/s", "argument", "basis", "answers"]
        parts.append(folded("Faster, with other answers", table(titles, lines, "choices", long="basis")))
    if plan.reasons:
        title = counted(len(plan.reasons), "reason")
        parts.append(folded(title, items(plan.reasons), is_open=len(plan.reasons) <= _OPEN))
    if plan.runners_up:
        parts.append(folded(f"Not chosen: {len(plan.runners_up)}", items(plan.runners_up)))
    if plan.engine:
        lines = lines_of(list(plan.engine.items()), lambda one: [said(one[0]), said(str(one[1]))])
        title = counted(len(plan.engine), "engine argument")
        parts.append(folded(title, table(["argument", "value"], lines, "arguments", long="value")))
    return parts


def _hardware(plan: Plan) -> str:
    one = plan.layout
    tasks = f"{counted(one.tasks, 'task')} of " if one.is_array else ""
    return f"{tasks}{counted(one.nodes, 'node')} × {counted(one.gpus_per_node, 'GPU')}"


def _shape(plan: Plan) -> str:
    one = plan.layout
    return f"TP {one.tp} × PP {one.pp}, {counted(one.dp, 'replica')}"


def _model(facts: ModelFacts) -> Markup:
    size = "size unknown" if facts.parameters is None else f"{facts.parameters / 1e9:.3g} B parameters"
    dtype = f"{facts.dtype} ({facts.quantization})" if facts.quantization else facts.dtype
    return section("Model", row(said(facts.architecture), size, said(dtype), counted(facts.layers, "layer"),
                                f"{facts.heads} heads, {facts.kv_heads} of KV"))  # fmt: skip


def _memory(memory: Memory, plan: Plan) -> list[Markup]:
    """Weights, reserve, KV cache and what is free, as a bar with its words; unknown is said."""
    used, kv, whole = memory.per_gpu_gib, memory.kv_gib_per_gpu or 0.0, memory.gpu_gib
    if used is None or not whole:
        known = f": the whole model's weights take {memory.weights_gib:,g} GiB" if memory.weights_gib else ""
        return [tag("div", f"unknown{known}", class_="vh-dim")]
    weights = memory.weights_gib_per_gpu
    if weights is None:  # of a job of an earlier version
        parts = [("code", "weights and reserve", used)]
    else:
        parts = [("code", "weights", weights), ("dim", "reserve", max(0.0, used - weights))]
    parts += [("run", "KV cache", kv), ("free", "free", max(0.0, whole - used - kv))]
    words = [(look, f"{name} {number(gib, 'GiB', 1)}") for look, name, gib in parts]
    if used > whole:
        parts = [("code", "", whole), ("bad", "", used - whole)]
        words.append(("bad", f"missing {number(used - whole, 'GiB', 1)}"))
    shown = bar([(look, gib) for look, _, gib in parts], max(whole, used), ", ".join(word for _, word in words))
    tokens = f"KV cache of {plan.kv_tokens:,} tokens" if plan.kv_tokens is not None else ""
    return [shown, legend(words), row(f"{number(whole, 'GiB', 1)} in all", tokens, _concurrency(plan))]


def _concurrency(plan: Plan) -> str:
    if plan.concurrency is None:
        return ""
    return f"{plan.concurrency:,.0f} rows at once" if plan.fits else "less than one sequence of the requested length"


def _choice(one: EngineChoice) -> list[Markup | str]:
    return [one.title, one.gain.removesuffix(" the tokens/s"), said(one.option), said(one.basis), said(one.answers)]


def _cost(cost: Cost) -> Markup:
    tokens = f"{cost.prompt_tokens:,} prompt and up to {cost.output_tokens:,} output tokens"
    hours = f"{cost.gpu_hours_low:,g} to {cost.gpu_hours_high:,g} GPU-hours"
    return section("Cost", row(hours, tokens, tag("span", said(cost.basis), class_="vh-dim")))
