"""The card of a summary: rows, tokens, and how the time was spent."""

from __future__ import annotations

from math import isfinite

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
    speed,
    table,
    tag,
)  # fmt: skip
from vllm_hpc.api.cards.status import counted_rows
from vllm_hpc.jobs.in_words import name_of
from vllm_hpc.jobs.summary import RankEnd, Summary
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, duration

_COLOURS = {"queue": "free", "launch": "dim", "import": "text", "load": "code", "warm-up": "wait", "generate": "run",
            "drain": "dim", "collect": "ok"}  # fmt: skip


def card(summary: Summary) -> str:
    """A summary as it was collected."""
    parts = [head("Summary", name_of(summary.job), pill(summary.state), *_rehearsal(summary))]
    if summary.outputs:
        parts += _rows(summary)
    if summary.reason:
        parts.append(note(summary.reason))
    parts += [_times(summary), *_others(summary)]
    where = tag("div", said(summary.outputs or summary.job), class_="vh-path vh-foot")
    return frame(*parts, where)


def _rehearsal(summary: Summary) -> list[Markup]:
    return [pill("REHEARSAL", "wait")] if summary.rehearsal else []


def _rows(summary: Summary) -> list[Markup]:
    rows = summary.rows
    done, failed, missing, total = (rows.get(key, 0) for key in ("done", "failed", "missing", "total"))
    bad = [f"{number:,} {word}" for number, word in ((failed, "with errors"), (missing, "missing")) if number]
    words = f"{done:,} of {counted_rows(total)} done" + "".join(f", {one}" for one in bad)
    share = f"{100 * summary.occupancy:.0f} % of the engine's places used" if summary.occupancy is not None else ""
    idle = f"{100 * summary.idle:.1f} % idle" if summary.idle is not None else ""
    tokens = f"{summary.prompt_tokens:,} prompt and {summary.completion_tokens:,} output tokens"
    return [
        bar([("ok", done), ("bad", failed)], total, words),
        row(words, tokens, speed(summary.tokens_per_s), share, idle),
    ]


def _times(summary: Summary) -> Markup:
    """The time of each part as a bar."""
    took = [(name, seconds) for name, seconds in summary.timings.items() if isfinite(seconds) and seconds >= 0.05]
    whole = sum(seconds for _, seconds in took)
    total = f"{duration(summary.seconds)} from submission to end, " if summary.seconds is not None else ""
    if not whole:
        return row(total.rstrip(", "))
    looks = [(_COLOURS.get(name, "dim"), seconds) for name, seconds in took]
    words = [(_COLOURS.get(name, "dim"), f"{name} {duration(seconds)}") for name, seconds in took]
    title = f"Time ({total}{counted(summary.attempts, 'attempt')})"
    return section(title, bar(looks, whole, ", ".join(word for _, word in words)), legend(words))


def _others(summary: Summary) -> list[Markup]:
    parts = [
        note(f"{counted(count, 'line')} of the shards left out: {what}", "wait")
        for what, count in list(summary.ignored.items())[:5]
    ]
    if summary.ranks:
        lines = lines_of(summary.ranks, _rank)
        parts.append(table(["rank", "host", "outcome", "error"], lines, "ranks", "rank", "error"))
    if summary.artefacts:
        size = sum(one.bytes for one in summary.artefacts)
        title = f"{counted(len(summary.artefacts), 'artefact')}, {number(size, 'bytes')}"
        parts.append(folded(title, items([str(one.path) for one in summary.artefacts])))
    return parts


def _rank(one: RankEnd) -> list[str]:
    return [str(one.rank), one_line(one.host, 60), one_line(one.outcome, 40), said(one.error or "")]
