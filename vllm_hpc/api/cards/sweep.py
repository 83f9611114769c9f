"""The card of a sweep: a table of its points, with their parameters first."""

from __future__ import annotations

from collections import Counter

from vllm_hpc.api import sweep_rows
from vllm_hpc.api.cards.elements import bar, frame, head, lines_of, look_of, pill, said, speed, table, tag
from vllm_hpc.api.sweep import Point, Sweep
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted


def card(sweep: Sweep) -> str:
    """The points of a sweep, in its order."""
    statuses = sweep.status()
    states = Counter(one.state for one in statuses)
    pills = [pill(f"{number} {state}", look_of(state)) for state, number in states.items()]
    names = list(dict.fromkeys(name for point in sweep for name in point.parameters))
    rows = [one.rows for one in statuses]
    done, failed, total = (sum(getattr(one, key) for one in rows) for key in ("done", "failed", "total"))
    words = f"{done + failed:,} of {counted(total, 'row')}"
    titles = [*(one_line(name, 60) for name in names), "state", "rows", "tokens/s", "job"]
    lines = lines_of(_points(sweep, statuses), lambda point: _line(names, *point))
    return frame(
        head("Sweep", sweep.name, sweep.size_in_words, *pills),
        bar([("ok", done), ("bad", failed)], total, words),
        table(titles, lines, "points" if sweep.is_one_job else "jobs", "rows,tokens/s", "job"),
    )


def _points(sweep: Sweep, statuses: list[Status]) -> list[tuple[Point, Status, str, float | None]]:
    """Each point with the status of its job, its rows in words, and its speed, which those of one job share."""
    if not sweep.is_one_job:
        return [
            (point, one, f"{one.rows.done + one.rows.failed:,}/{one.rows.total:,}", one.tokens_per_s)
            for point, one in zip(sweep, statuses, strict=True)
        ]
    counts = sweep_rows.finished(sweep[0].job, statuses[0], len(sweep))
    total = statuses[0].rows.total // len(sweep)
    words = [f"{count:,}/{total:,}" for count in counts] if counts else [f"of {total:,}"] * len(sweep)
    return [(point, statuses[0], said_of, None) for point, said_of in zip(sweep, words, strict=True)]


def _line(names: list[str], point: Point, status: Status, rows: str, rate: float | None) -> list[str]:
    values = [said(one_line(str(point.parameters.get(name, "")), 120)) for name in names]
    state = tag("span", status.state, class_=f"vh-{look_of(status.state)}", title=status.reason)
    return [*values, state, rows, speed(rate, ""), said(point.job.path.name)]
