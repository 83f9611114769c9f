"""The card of a sweep: a table of its jobs, with their parameters first."""

from __future__ import annotations

from collections import Counter

from vllm_hpc.api.cards.elements import bar, frame, head, lines_of, look_of, pill, said, speed, table, tag
from vllm_hpc.api.sweep import Point, Sweep
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted


def card(sweep: Sweep) -> str:
    """The jobs of a sweep, in its order."""
    statuses = sweep.status()
    states = Counter(one.state for one in statuses)
    pills = [pill(f"{number} {state}", look_of(state)) for state, number in states.items()]
    names = list(dict.fromkeys(name for point in sweep for name in point.parameters))
    rows = [one.rows for one in statuses]
    done, failed, total = (sum(getattr(one, key) for one in rows) for key in ("done", "failed", "total"))
    words = f"{done + failed:,} of {counted(total, 'row')}"
    titles = [*(one_line(name, 60) for name in names), "state", "rows", "tokens/s", "job"]
    lines = lines_of(list(zip(sweep, statuses, strict=True)), lambda pair: _line(names, *pair))
    return frame(
        head("Sweep", sweep.name, counted(len(sweep), "job"), *pills),
        bar([("ok", done), ("bad", failed)], total, words),
        table(titles, lines, "jobs", "rows,tokens/s", "job"),
    )


def _line(names: list[str], point: Point, status: Status) -> list[str]:
    values = [said(one_line(str(point.parameters.get(name, "")), 120)) for name in names]
    state = tag("span", status.state, class_=f"vh-{look_of(status.state)}", title=status.reason)
    rows = f"{status.rows.done + status.rows.failed:,}/{status.rows.total:,}"
    return [*values, state, rows, speed(status.tokens_per_s, ""), said(point.job.path.name)]
